"use strict";

// One recording over time. The state is the visible range, the cursor, and what is switched on; draw.js paints it.

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

function unpack(packed) {
  const maps = bytes(packed.maps);
  const map = (row) => maps.subarray(row * packed.length, (row + 1) * packed.length);
  const times = new Float32Array(bytes(packed.found).buffer);
  const classes = new Uint16Array(bytes(packed.found_class).buffer);
  const hits = bytes(packed.found_hit);
  const count = hits.length;
  const found = Array.from(hits, (hit, i) => ({
    start: times[i], end: times[count + i], score: times[2 * count + i], kind: classes[i], hit: hit === 1,
  })).sort((a, b) => b.score - a.score);
  return {
    ...packed,
    seconds: packed.length * packed.step,
    attention: map(0),
    clusters: map(1),
    activation: new Map(packed.shown.map((kind, i) => [kind, map(2 + i)])),
    fused: new Map(packed.shown.map((kind, i) => [kind, map(2 + packed.shown.length + i)])),
    cluster: new Uint16Array(bytes(packed.cluster).buffer),
    found,
  };
}

class Timeline {
  constructor(report, canvas, overview, changed) {
    Object.assign(this, { report, canvas, overview, changed });
    this.hidden = { tracks: new Set(), classes: new Set() };
    this.score = report.score;
    this.cursor = null;
    this.pointers = new Map();
    this.selection = null;
    this.listen();
    new ResizeObserver(() => this.paint()).observe(canvas);
  }

  show(recording) {
    this.recording = recording;
    this.cursor = null;
    this.setRange(0, recording.seconds);
  }

  // Never more than the recording, never less than two snippets.
  setRange(from, to) {
    const whole = this.recording.seconds;
    const width = Math.min(whole, Math.max(to - from, Math.min(whole, 2 * this.recording.step)));
    this.from = Math.min(Math.max(0, from), whole - width);
    this.to = this.from + width;
    this.refresh();
  }

  zoom(factor, centre = this.cursor ?? (this.from + this.to) / 2) {
    const around = Math.min(Math.max(centre, this.from), this.to);
    this.setRange(around - (around - this.from) * factor, around + (this.to - around) * factor);
  }

  move(share) {
    const step = share * (this.to - this.from);
    this.setRange(this.from + step, this.to + step);
  }

  setCursor(seconds) {
    this.cursor = seconds === null ? null : Math.min(Math.max(0, seconds), this.recording.seconds - 1e-6);
    this.refresh();
  }

  // By the keyboard: to the middle of a snippet, and the view follows.
  step(snippets) {
    const { step, length } = this.recording;
    const start = this.cursor ?? this.from;
    const index = Math.min(length - 1, Math.max(0, Math.floor(start / step + 1e-9) + (this.cursor === null ? 0 : snippets)));
    this.setCursor((index + 0.5) * step);
    if (this.cursor < this.from || this.cursor > this.to) this.move((this.cursor - (this.from + this.to) / 2) / (this.to - this.from));
  }

  refresh() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.paint(); });
  }

  paint() {
    if (!this.recording) return;
    paintTimeline(this);
    paintOverview(this);
    Object.assign(this.canvas.dataset, { from: this.from.toFixed(3), to: this.to.toFixed(3) });
    this.changed(this);
  }

  at(seconds) {
    const { recording } = this;
    const index = Math.min(recording.length - 1, Math.floor(seconds / recording.step));
    return {
      index,
      true: recording.segments.filter(([start, end]) => start <= seconds && seconds < end).map(([, , kind]) => kind),
      found: recording.found.filter((f) => f.score >= this.score && f.start <= seconds && seconds < f.end && !this.hidden.classes.has(f.kind)),
      cluster: recording.cluster.length ? recording.cluster[index] : null,
    };
  }

  secondsAt(x) { return this.from + ((x - this.plot.left) / this.plot.width) * (this.to - this.from); }
  xAt(seconds) { return this.plot.left + ((seconds - this.from) / (this.to - this.from)) * this.plot.width; }

  listen() {
    const { canvas, overview } = this;
    const x = (event) => event.clientX - canvas.getBoundingClientRect().left;
    canvas.addEventListener("wheel", (event) => {
      const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
      if (!sideways && !event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls
      event.preventDefault();
      if (sideways) this.move(event.deltaX / this.plot.width);
      else this.zoom(Math.exp(Math.max(-200, Math.min(200, event.deltaY)) * 0.002), this.secondsAt(x(event)));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, x(event));
      if (event.shiftKey) this.selection = [x(event), x(event)];
      this.setCursor(this.secondsAt(x(event)));
    });
    canvas.addEventListener("pointermove", (event) => this.pointerMoved(event, x(event)));
    const release = (event) => {
      this.pointers.delete(event.pointerId);
      if (!this.selection) return;
      const [a, b] = this.selection.map((place) => this.secondsAt(place)).sort((p, q) => p - q);
      const wide = Math.abs(this.selection[1] - this.selection[0]) > 4;
      this.selection = null;
      if (wide) this.setRange(a, b); else this.refresh();
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") this.setCursor(null); });
    canvas.addEventListener("dblclick", () => this.setRange(0, this.recording.seconds));
    const jump = (event) => {
      const box = overview.getBoundingClientRect();
      const centre = ((event.clientX - box.left - this.plot.left) / this.plot.width) * this.recording.seconds;
      const half = (this.to - this.from) / 2;
      this.setRange(centre - half, centre + half);
    };
    overview.addEventListener("pointerdown", (event) => { overview.setPointerCapture(event.pointerId); jump(event); });
    overview.addEventListener("pointermove", (event) => { if (event.buttons) jump(event); });
  }

  pointerMoved(event, x) {
    const before = this.pointers.get(event.pointerId);
    if (before === undefined) { this.setCursor(this.secondsAt(x)); return; }
    this.pointers.set(event.pointerId, x);
    if (this.selection) {
      this.selection[1] = x;
      this.refresh();
    } else if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const apart = [Math.abs(before - other), Math.abs(x - other)].map((d) => Math.max(d, 12));
      this.zoom(apart[0] / apart[1], this.secondsAt(other));
    } else {
      this.move((before - x) / this.plot.width);
    }
  }
}
