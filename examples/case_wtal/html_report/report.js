// The page around the timeline: list of recordings, switches, readout, theme.

const report = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const recordings = report.recordings.map(unpack);
const state = { sort: "name", falling: false, chosen: 0 };

function make(tag, text, parent) {
  const node = document.createElement(tag);
  if (text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function swatch(kind, parent) {
  const box = make("span", "", parent);
  box.className = "swatch";
  box.style.background = colourOf(timeline, kind);
}

function errors(recording) {
  const shown = recording.found.filter((found) => found.score >= timeline.score);
  const right = shown.filter((found) => found.hit).length;
  return { missed: recording.segments.length - right, false: shown.length - right, right };
}

function fillList() {
  const wanted = element("find").value.trim().toLowerCase();
  const rows = recordings.map((recording, index) => ({ recording, index, ap: recording.ap ?? -1, name: recording.name, ...errors(recording) }));
  const fits = ({ recording }) => [recording.name, ...recording.segments.map(([, , kind]) => report.classes[kind])].some((text) => text.toLowerCase().includes(wanted));
  const compare = state.sort === "name"
    ? (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })
    : (a, b) => a[state.sort] - b[state.sort] || a.index - b.index;
  rows.sort((a, b) => (state.falling ? -1 : 1) * compare(a, b));
  state.order = rows.filter(fits).map(({ index }) => index);
  element("recordings").replaceChildren(...rows.filter(fits).map((row) => {
    const line = document.createElement("tr");
    line.dataset.index = row.index;
    if (row.index === state.chosen) line.className = "chosen";
    const button = make("button", row.name, make("td", null, line));
    button.type = "button";
    button.title = row.name;
    if (row.index === state.chosen) button.setAttribute("aria-current", "true");
    make("td", row.recording.ap === null ? "–" : (100 * row.recording.ap).toFixed(1), line);
    make("td", row.missed, line);
    make("td", row.false, line);
    return line;
  }));
  document.querySelectorAll("[data-sort]").forEach((button) => {
    const active = button.dataset.sort === state.sort;
    if (active) button.parentElement.setAttribute("aria-sort", state.falling ? "descending" : "ascending");
    else button.parentElement.removeAttribute("aria-sort");
  });
  const total = (key) => rows.reduce((sum, row) => sum + row[key], 0);
  element("totals").textContent = `All ${rows.length} recordings at this score: ${total("right")} instances found, ${total("missed")} missed, ${total("false")} false detections.`;
}

function choose(index, { keep = false } = {}) {
  const focus = document.activeElement?.closest?.("#recordings") !== null && document.activeElement !== null;
  state.chosen = index;
  const recording = recordings[index];
  element("name").textContent = recording.name;
  timeline.show(recording);
  fillClasses(recording);
  fillList();
  const row = element("recordings").querySelector(".chosen");
  const box = element("rows");
  if (row && !keep) box.scrollTop += row.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 2;
  if (row && focus) row.querySelector("button").focus({ preventScroll: true });
  try { history.replaceState(null, "", `#${encodeURIComponent(recording.name)}`); } catch { /* some browsers refuse it for files */ }
}

function neighbour(step) {
  const place = state.order.indexOf(state.chosen);
  const next = state.order[Math.min(state.order.length - 1, Math.max(0, place + step))];
  if (next !== undefined) choose(next);
}

function toggle(parent, text, hidden, key, kind) {
  const label = make("label", null, parent);
  const box = make("input", null, label);
  box.type = "checkbox";
  box.checked = !hidden.has(key);
  box.dataset.key = key;
  box.addEventListener("change", () => {
    if (box.checked) hidden.delete(key); else hidden.add(key);
    timeline.refresh();
  });
  if (kind !== undefined) swatch(kind, label);
  label.append(text);
}

function fillClasses(recording) {
  const field = element("classes");
  field.replaceChildren(field.firstElementChild);
  recording.shown.forEach((kind, i) => {
    const video = recording.video[i];
    toggle(field, report.classes[kind], timeline.hidden.classes, kind, kind);
    field.lastElementChild.title = `score in the whole recording ${video.toFixed(2)}${video <= report.gate ? `, not searched (${report.gate} is needed)` : ""}`;
  });
}

function readOut(view) {
  const box = element("readout");
  element("range").textContent = `${view.from.toFixed(1)} – ${view.to.toFixed(1)} s of ${view.recording.seconds.toFixed(1)} s`;
  box.replaceChildren();
  if (view.cursor === null) {
    const there = [...new Set(view.recording.segments.map(([, , kind]) => report.classes[kind]))];
    const { right, missed, false: wrong } = errors(view.recording);
    make("div", `Contains ${there.join(", ") || "no instance"}. ${right} of ${right + missed} instances found, ${wrong} false detections.`, box);
    return;
  }
  const seen = view.at(view.cursor);
  const names = (kinds) => kinds.map((kind) => report.classes[kind]).join(", ");
  const line = make("div", null, box);
  make("b", `${view.cursor.toFixed(2)} s`, line);
  line.append(` · snippet ${seen.index} · true: ${names(seen.true) || "background"}`);
  if (seen.cluster !== null) line.append(` · cluster ${seen.cluster}, foreground ${report.foreground[seen.cluster].toFixed(2)}`);
  const on = (id) => !view.hidden.tracks.has(id);
  const item = (parent, kind, parts) => {
    const cell = make("span", null, parent);
    if (kind !== null) swatch(kind, cell);
    for (const [text, number] of parts) { cell.append(text); make("b", number, cell); }
  };
  const number = (byte) => (byte / 255).toFixed(2);
  const values = make("div", null, box);
  values.className = "values";
  const foreground = [];
  if (on("attention")) foreground.push(["Pᴬ", number(view.recording.attention[seen.index])]);
  if (on("clusters") && seen.cluster !== null) foreground.push(["Pᵀ", number(view.recording.clusters[seen.index])]);
  if (foreground.length) item(values, null, foreground);
  const height = (kind) => view.recording.fused.get(kind)[seen.index];
  const kinds = visibleClasses(view);
  // A phone has room for the highest two.
  const highest = view.plot.narrow ? [...kinds].sort((a, b) => height(b) - height(a)).slice(0, 2) : kinds;
  for (const kind of highest) {
    const parts = [];
    if (on("activation")) parts.push(["T-CAS", number(view.recording.activation.get(kind)[seen.index])]);
    if (on("fused")) parts.push(["map", number(height(kind))]);
    if (parts.length) item(values, kind, [[report.classes[kind], ""], ...parts]);
  }
  const found = make("div", null, box);
  found.className = "values";
  for (const hit of seen.found.slice(0, view.plot.narrow ? 1 : 3)) {
    item(found, hit.kind, [[`detection, ${hit.hit ? "right" : "false"}: ${hit.start.toFixed(1)} – ${hit.end.toFixed(1)} s, score`, hit.score.toFixed(2)]]);
  }
}

const timeline = new Timeline(report, element("timeline"), element("overview"), readOut);

function setScore(score) {
  timeline.score = score;
  element("score_text").textContent = score.toFixed(2);
  fillList();
  timeline.refresh();
}

const [lowest, highest] = report.scores;
const slider = element("score");
slider.value = highest > lowest ? Math.floor((1000 * (report.score - lowest)) / (highest - lowest)) : 0;
slider.addEventListener("input", () => setScore(lowest + (slider.value / 1000) * (highest - lowest)));
TRACKS.forEach((track) => {
  if (!report.foreground.length && (track.id === "clusters" || track.id === "assignment")) return;
  toggle(element("tracks"), track.short, timeline.hidden.tracks, track.id);
  element("tracks").lastElementChild.title = track.name;
});
element("find").addEventListener("input", fillList);
document.querySelectorAll("[data-sort]").forEach((button) => button.addEventListener("click", () => {
  const same = state.sort === button.dataset.sort;
  state.falling = same ? !state.falling : button.dataset.sort === "missed" || button.dataset.sort === "false";
  state.sort = button.dataset.sort;
  fillList();
}));
element("recordings").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row) choose(Number(row.dataset.index), { keep: true });
});

const actions = {
  previous: () => neighbour(-1), next: () => neighbour(1), in: () => timeline.zoom(1 / 1.6), out: () => timeline.zoom(1.6),
  fit: () => timeline.setRange(0, timeline.recording.seconds),
};
for (const [id, action] of Object.entries(actions)) element(id).addEventListener("click", action);
const keys = {
  ArrowLeft: (shift) => (shift ? timeline.move(-0.2) : timeline.step(-1)), ArrowRight: (shift) => (shift ? timeline.move(0.2) : timeline.step(1)),
  Home: () => timeline.setCursor(0), End: () => timeline.setCursor(timeline.recording.seconds), Escape: () => timeline.setCursor(null),
  "+": actions.in, "=": actions.in, "-": actions.out, 0: actions.fit, "[": actions.previous, "]": actions.next,
};
element("timeline").addEventListener("keydown", (event) => {
  const action = keys[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  element("readout").setAttribute("aria-live", "polite"); // the pointer would make a screen reader talk without end
  action(event.shiftKey);
});
element("timeline").addEventListener("pointermove", () => element("readout").setAttribute("aria-live", "off"));

const themes = { auto: "◐", light: "○", dark: "●" };
const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = "auto";
function setTheme(name) {
  theme = name;
  document.documentElement.dataset.theme = name === "auto" ? (dark.matches ? "dark" : "light") : name;
  element("theme").textContent = `${themes[name]} ${name}`;
  element("theme").setAttribute("aria-label", `colours: ${name === "auto" ? "as the system" : name}`);
  if (timeline.recording) { fillClasses(timeline.recording); timeline.refresh(); }
}
element("theme").addEventListener("click", () => {
  const names = Object.keys(themes);
  setTheme(names[(names.indexOf(theme) + 1) % names.length]);
});
dark.addEventListener("change", () => setTheme(theme));
setTheme("auto");

element("kept").textContent = (report.left_out ? `${recordings.length} recordings, evenly from the worst to the best; ${report.left_out} are left out. ` : "")
  + `A detection is right if it takes a true instance of its class at tIoU ${report.tiou}. The slider starts where F1 is best on this split: a choice for looking, made with the true segments.`;
element("legend").textContent = `Detections: filled, right; outlined, false; the stronger, the higher the score.${report.foreground.length ? " Clusters: vermilion, foreground; blue-grey, background." : ""} Maps are rounded to 1/255.`;
const named = recordings.findIndex((recording) => `#${encodeURIComponent(recording.name)}` === location.hash);
if (recordings.length) {
  setScore(report.score);
  choose(Math.max(0, named));
}
