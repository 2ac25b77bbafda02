// Painting. Colours come from the style sheet, so that light and dark are one program.

const TRACKS = [
  { id: "truth", short: "truth", name: "ground truth" },
  { id: "activation", short: "T-CAS", name: "class activation, T-CAS" },
  { id: "attention", short: "Pᴬ", name: "foreground probability by attention, Pᴬ" },
  { id: "clusters", short: "Pᵀ", name: "foreground probability by clusters, Pᵀ" },
  { id: "fused", short: "map", name: "map that is cut" },
  { id: "assignment", short: "clusters", name: "cluster of each snippet" },
  { id: "found", short: "detections", name: "detections" },
];
const HEIGHT = { row: 16, curve: 58, strip: 18, lane: 6, title: 18, gap: 6, axis: 24 };
const LANES = 3;
const NARROW = 620;
const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function colourOf(timeline, kind) {
  const { shown } = timeline.recording;
  const few = timeline.report.classes.length <= 8;
  return css(`--c${(few ? kind : shown.indexOf(kind)) % 8}`);
}

function mix(low, high, share) {
  const part = (text, i) => parseInt(text.slice(1 + 2 * i, 3 + 2 * i), 16);
  return `rgb(${[0, 1, 2].map((i) => Math.round(part(low, i) + (part(high, i) - part(low, i)) * share)).join(" ")})`;
}

function visibleClasses(timeline) {
  return timeline.recording.shown.filter((kind) => !timeline.hidden.classes.has(kind));
}

function trackHeight(id, classes) {
  if (id === "truth") return HEIGHT.row * classes;
  if (id === "found") return (LANES * HEIGHT.lane + 4) * classes;
  return id === "assignment" ? HEIGHT.strip : HEIGHT.curve;
}

function layOut(timeline) {
  const classes = visibleClasses(timeline).length;
  const tracks = [];
  let y = 0;
  for (const track of TRACKS) {
    const empty = (track.id === "assignment" || track.id === "clusters") && !timeline.recording.cluster.length;
    if (timeline.hidden.tracks.has(track.id) || empty) continue;
    const height = trackHeight(track.id, classes);
    tracks.push({ ...track, top: y + HEIGHT.title, height });
    y += HEIGHT.title + height + HEIGHT.gap;
  }
  return { tracks, height: y + HEIGHT.axis };
}

function prepare(canvas, height) {
  const width = canvas.clientWidth;
  const scale = window.devicePixelRatio || 1;
  if (height !== null) canvas.style.height = `${height}px`;
  const tall = canvas.clientHeight;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(tall * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, tall);
  pen.font = FONT;
  pen.textBaseline = "middle";
  return pen;
}

function gutter(timeline, width) {
  if (width < NARROW) return 26;
  const pen = timeline.canvas.getContext("2d");
  pen.font = FONT;
  const names = timeline.recording.shown.map((kind) => pen.measureText(timeline.report.classes[kind]).width);
  return Math.min(190, Math.max(60, ...names) + 14);
}

function paintTimeline(timeline) {
  const width = timeline.canvas.clientWidth;
  const left = gutter(timeline, width);
  timeline.plot = { left, width: Math.max(10, width - left - 8), narrow: width < NARROW };
  const { tracks, height } = layOut(timeline);
  const pen = prepare(timeline.canvas, height);
  const bottom = height - HEIGHT.axis;
  timeline.canvas.dataset.tracks = tracks.map((track) => track.id).join(" ");
  paintAxis(timeline, pen, bottom);
  for (const track of tracks) {
    pen.fillStyle = css("--muted");
    pen.textAlign = "left";
    pen.fillText(titleOf(timeline, track), left, track.top - HEIGHT.title / 2);
    clipped(timeline, pen, track, () => paintTrack(timeline, pen, track));
    nameRows(timeline, pen, track);
  }
  paintCursor(timeline, pen, bottom);
}

function titleOf(timeline, track) {
  if (track.id === "fused") return `map that is cut at ${timeline.report.thresholds.length} thresholds${timeline.report.assisted ? ", clusters fused" : ""}`;
  return track.name;
}

function clipped(timeline, pen, track, paint) {
  pen.save();
  pen.beginPath();
  pen.rect(timeline.plot.left, track.top - 1, timeline.plot.width, track.height + 2);
  pen.clip();
  paint();
  pen.restore();
}

function paintTrack(timeline, pen, track) {
  const { recording } = timeline;
  const kinds = visibleClasses(timeline);
  if (track.id === "truth") paintTruth(timeline, pen, track, kinds);
  else if (track.id === "found") paintFound(timeline, pen, track, kinds);
  else if (track.id === "assignment") paintClusters(timeline, pen, track);
  else {
    paintShade(timeline, pen, track);
    if (track.id === "fused") paintThresholds(timeline, pen, track);
    if (track.id === "attention" || track.id === "clusters") paintCurve(timeline, pen, track, recording[track.id], css("--muted"), true);
    else kinds.forEach((kind) => paintCurve(timeline, pen, track, recording[track.id].get(kind), colourOf(timeline, kind), false));
  }
}

function paintTruth(timeline, pen, track, kinds) {
  kinds.forEach((kind, row) => {
    pen.fillStyle = css("--ground");
    pen.fillRect(timeline.plot.left, track.top + row * HEIGHT.row + 1, timeline.plot.width, HEIGHT.row - 3);
  });
  for (const [start, end, kind] of timeline.recording.segments) {
    const row = kinds.indexOf(kind);
    if (row < 0) continue;
    pen.fillStyle = colourOf(timeline, kind);
    const x = timeline.xAt(start);
    pen.fillRect(x, track.top + row * HEIGHT.row + 1, Math.max(1, timeline.xAt(end) - x), HEIGHT.row - 3);
  }
}

// The true segments behind the curves.
function paintShade(timeline, pen, track) {
  pen.fillStyle = css("--ground");
  pen.fillRect(timeline.plot.left, track.top, timeline.plot.width, track.height);
  for (const [start, end, kind] of timeline.recording.segments) {
    if (timeline.hidden.classes.has(kind)) continue;
    pen.globalAlpha = 0.16;
    pen.fillStyle = colourOf(timeline, kind);
    pen.fillRect(timeline.xAt(start), track.top, timeline.xAt(end) - timeline.xAt(start), track.height);
  }
  pen.globalAlpha = 1;
}

const yAt = (track, value) => track.top + track.height - 2 - (value / 255) * (track.height - 4);

function paintThresholds(timeline, pen, track) {
  pen.strokeStyle = css("--muted");
  pen.globalAlpha = 0.35;
  pen.lineWidth = 1;
  pen.setLineDash([2, 4]);
  for (const threshold of timeline.report.thresholds) {
    const y = Math.round(yAt(track, 255 * threshold)) + 0.5;
    pen.beginPath();
    pen.moveTo(timeline.plot.left, y);
    pen.lineTo(timeline.plot.left + timeline.plot.width, y);
    pen.stroke();
  }
  pen.setLineDash([]);
  pen.globalAlpha = 1;
}

function paintCurve(timeline, pen, track, values, colour, filled) {
  const { step, length } = timeline.recording;
  const first = Math.max(0, Math.floor(timeline.from / step) - 1);
  const last = Math.min(length - 1, Math.ceil(timeline.to / step) + 1);
  const place = (i) => [timeline.xAt((i + 0.5) * step), yAt(track, values[i])];
  pen.beginPath();
  for (let i = first; i <= last; i += 1) pen.lineTo(...place(i));
  pen.strokeStyle = filled ? css("--ink") : colour;
  pen.lineWidth = filled ? 1.25 : 1.6;
  pen.lineJoin = "round";
  pen.stroke();
  if (filled) {
    pen.lineTo(place(last)[0], track.top + track.height);
    pen.lineTo(place(first)[0], track.top + track.height);
    pen.globalAlpha = 0.22;
    pen.fillStyle = colour;
    pen.fill();
    pen.globalAlpha = 1;
  }
  if ((timeline.plot.width * step) / (timeline.to - timeline.from) < 9) return;
  pen.fillStyle = filled ? css("--ink") : colour;
  for (let i = first; i <= last; i += 1) {
    pen.beginPath();
    pen.arc(...place(i), 2, 0, 7);
    pen.fill();
  }
}

function paintClusters(timeline, pen, track) {
  const { cluster, step, length } = timeline.recording;
  const { foreground } = timeline.report;
  const [low, high] = [css("--back"), css("--fore")];
  pen.textAlign = "center";
  for (let start = 0; start < length;) {
    let end = start + 1;
    while (end < length && cluster[end] === cluster[start]) end += 1;
    const [x, right] = [timeline.xAt(start * step), timeline.xAt(end * step)];
    if (right >= timeline.plot.left && x <= timeline.plot.left + timeline.plot.width) {
      pen.fillStyle = mix(low, high, foreground[cluster[start]]);
      pen.fillRect(x, track.top, Math.max(0.5, right - x - (right - x > 4 ? 1 : 0)), track.height);
      if (right - x > 17) {
        pen.fillStyle = "#14171c";
        pen.fillText(cluster[start], (Math.max(x, timeline.plot.left) + Math.min(right, timeline.plot.left + timeline.plot.width)) / 2, track.top + track.height / 2 + 1);
      }
    }
    start = end;
  }
}

// Each detection in the first lane of its class that is free; the best score chooses first.
function paintFound(timeline, pen, track, kinds) {
  const high = LANES * HEIGHT.lane + 4;
  const top = timeline.report.scores[1];
  kinds.forEach((kind, row) => {
    pen.fillStyle = css("--ground");
    pen.fillRect(timeline.plot.left, track.top + row * high, timeline.plot.width, high - 3);
    const lanes = Array.from({ length: LANES }, () => []);
    for (const found of timeline.recording.found) {
      if (found.kind !== kind || found.score < timeline.score) continue;
      let lane = lanes.findIndex((taken) => taken.every((other) => found.end <= other.start || found.start >= other.end));
      if (lane < 0) lane = LANES - 1;
      lanes[lane].push(found);
      const x = timeline.xAt(found.start);
      const wide = Math.max(2, timeline.xAt(found.end) - x);
      const y = track.top + row * high + lane * HEIGHT.lane;
      const strength = top > 0 ? Math.max(0, found.score / top) : 0;
      pen.fillStyle = colourOf(timeline, kind);
      pen.strokeStyle = pen.fillStyle;
      if (found.hit) {
        pen.globalAlpha = 0.45 + 0.55 * strength;
        pen.fillRect(x, y + 1, wide, HEIGHT.lane - 1);
      } else {
        pen.globalAlpha = 0.55 + 0.45 * strength;
        pen.lineWidth = 1;
        pen.strokeRect(x + 0.5, y + 1.5, wide - 1, HEIGHT.lane - 2.5);
      }
      pen.globalAlpha = 1;
    }
  });
}

function nameRows(timeline, pen, track) {
  const { left, narrow } = timeline.plot;
  pen.fillStyle = css("--muted");
  pen.textAlign = "right";
  if (track.id === "truth" || track.id === "found") {
    if (narrow) return;
    const kinds = visibleClasses(timeline);
    kinds.forEach((kind, row) => {
      const high = track.height / kinds.length;
      pen.fillStyle = css("--ink");
      pen.fillText(timeline.report.classes[kind], left - 8, track.top + (row + 0.5) * high - 1, left - 10);
    });
  } else if (track.id !== "assignment") {
    pen.fillText("1", left - 8, track.top + 6);
    pen.fillText("0", left - 8, track.top + track.height - 5);
  }
}

function ticks(from, to, room) {
  const raw = (to - from) / Math.max(3, room);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + 1e-9; i += 1) found.push([i * step, (i * step).toFixed(digits)]);
  return found;
}

function paintAxis(timeline, pen, bottom) {
  const { left, width } = timeline.plot;
  pen.textAlign = "center";
  for (const [seconds, text] of ticks(timeline.from, timeline.to, width / (timeline.plot.narrow ? 60 : 80))) {
    const x = timeline.xAt(seconds);
    pen.strokeStyle = css("--line");
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(Math.round(x) + 0.5, 0);
    pen.lineTo(Math.round(x) + 0.5, bottom);
    pen.stroke();
    pen.fillStyle = css("--muted");
    const label = `${text} s`;
    const half = pen.measureText(label).width / 2;
    pen.fillText(label, Math.min(Math.max(x, left + half - 12), left + width - half + 6), bottom + 11);
  }
}

function paintCursor(timeline, pen, bottom) {
  if (timeline.selection) {
    const [a, b] = timeline.selection;
    pen.globalAlpha = 0.2;
    pen.fillStyle = css("--accent");
    pen.fillRect(Math.min(a, b), 0, Math.abs(b - a), bottom);
    pen.globalAlpha = 1;
  }
  if (timeline.cursor === null || timeline.cursor < timeline.from || timeline.cursor > timeline.to) return;
  const x = Math.round(timeline.xAt(timeline.cursor)) + 0.5;
  pen.strokeStyle = css("--ink");
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(x, 0);
  pen.lineTo(x, bottom);
  pen.stroke();
}

function paintOverview(timeline) {
  const pen = prepare(timeline.overview, null);
  const { left, width } = timeline.plot;
  const { recording } = timeline;
  const high = timeline.overview.clientHeight;
  const at = (seconds) => left + (seconds / recording.seconds) * width;
  pen.fillStyle = css("--ground");
  pen.fillRect(left, 0, width, high);
  for (const [start, end, kind] of recording.segments) {
    if (timeline.hidden.classes.has(kind)) continue;
    pen.fillStyle = colourOf(timeline, kind);
    pen.fillRect(at(start), 4, Math.max(1, at(end) - at(start)), high / 2 - 5);
  }
  // Detections of several classes lie on each other here: no colour, only where they are.
  pen.globalAlpha = 0.45;
  pen.fillStyle = css("--muted");
  for (const found of recording.found) {
    if (found.score < timeline.score || timeline.hidden.classes.has(found.kind)) continue;
    pen.fillRect(at(found.start), high / 2 + 1, Math.max(1, at(found.end) - at(found.start)), high / 2 - 5);
  }
  pen.globalAlpha = 1;
  pen.strokeStyle = css("--ink");
  pen.lineWidth = 1.5;
  pen.strokeRect(at(timeline.from) + 0.75, 0.75, at(timeline.to) - at(timeline.from) - 1.5, high - 1.5);
}
