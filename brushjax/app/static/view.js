// The stage: where the picture lies, zoom, and what pointers draw.

export class View {
  constructor(stage, board, mask, draft, ring) {
    Object.assign(this, { stage, board, mask, draft, ring });
    this.tool = "brush"; this.size = 36; this.zoom = 1; this.x = 0; this.y = 0;
    this.pointers = new Map(); this.space = false;
    this.onpick = () => {}; this.onslide = null;
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.moved(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.up(event));
    stage.addEventListener("pointerleave", () => { ring.hidden = true; });
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => this.fit()).observe(stage);
  }

  resize(width, height) {
    this.width = width; this.height = height;
    this.board.style.width = `${width}px`; this.board.style.height = `${height}px`;
    this.draft.width = width; this.draft.height = height;
    this.fit();
  }

  fit() {
    if (!this.width) return;
    const { clientWidth: w, clientHeight: h } = this.stage, free = h - 86;
    this.zoom = Math.min((w - 32) / this.width, (free - 24) / this.height, 6);
    this.x = (w - this.width * this.zoom) / 2;
    this.y = Math.max(12, (free - this.height * this.zoom) / 2 + 6);
    this.place();
  }

  place() {
    this.board.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.zoom})`;
    this.board.style.setProperty("--zoom", this.zoom);
    this.board.style.imageRendering = this.zoom > 3 ? "pixelated" : "auto";
  }

  // Zooms about a point of the stage.
  scale(factor, px, py) {
    const zoom = Math.min(20, Math.max(0.05, this.zoom * factor));
    this.x = px - (px - this.x) * zoom / this.zoom;
    this.y = py - (py - this.y) * zoom / this.zoom;
    this.zoom = zoom;
    this.place();
  }

  at(event) {
    const box = this.stage.getBoundingClientRect();
    const px = event.clientX - box.left, py = event.clientY - box.top;
    return { px, py, x: (px - this.x) / this.zoom, y: (py - this.y) / this.zoom };
  }

  wheel(event) {
    if (event.target.closest("#results")) return;
    event.preventDefault();
    const { px, py } = this.at(event);
    this.scale(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), px, py);
  }

  down(event) {
    if (!this.width || event.target.closest("form, button, #toast, #results, #welcome")) return;
    document.activeElement?.blur?.();
    this.stage.setPointerCapture(event.pointerId);
    const point = this.at(event);
    this.pointers.set(event.pointerId, point);
    if (this.pointers.size === 2) { this.stop(true); this.pinch = this.spread(); return; }
    if (this.pointers.size > 2) return;
    if (this.space || event.button === 1) { this.gesture = { pan: point, x: this.x, y: this.y }; return; }
    if (event.button !== 0) return;
    if (this.onslide) { this.gesture = { slide: true }; this.onslide(point.x / this.width); return; }
    if (this.tool === "pick") { this.onpick(point.x, point.y); return; }
    const erase = this.tool === "eraser" || event.altKey;
    this.gesture = { from: point, last: point, erase, path: [point] };
    this.mask.keep();
    this.mask.changed();
    if (this.tool === "move") this.gesture.bits = this.mask.bits();
    else if (this.strokes) this.mask.line(point, point, this.size, erase);
  }

  get strokes() { return this.tool === "brush" || this.tool === "eraser"; }

  moved(event) {
    const point = this.at(event);
    this.circle(event, point);
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, point);
    if (this.pinch && this.pointers.size === 2) {
      const now = this.spread();
      this.x += now.px - this.pinch.px; this.y += now.py - this.pinch.py;
      this.scale(now.apart / this.pinch.apart, now.px, now.py);
      this.pinch = now;
      return;
    }
    const gesture = this.gesture;
    if (!gesture) return;
    if (gesture.pan) { this.x = gesture.x + point.px - gesture.pan.px; this.y = gesture.y + point.py - gesture.pan.py; this.place(); return; }
    if (gesture.slide) { this.onslide(point.x / this.width); return; }
    if (this.tool === "move") {
      this.mask.move(Math.round(point.x - gesture.from.x), Math.round(point.y - gesture.from.y), gesture.bits);
    } else if (this.strokes) {
      for (const part of event.getCoalescedEvents?.() || [event]) {
        const next = this.at(part);
        this.mask.line(gesture.last, next, this.size, gesture.erase);
        gesture.last = next;
      }
    } else {
      gesture.path.push(point);
      this.outline(this.shape(gesture, point), gesture.erase);
    }
  }

  up(event) {
    const point = this.at(event);
    this.pointers.delete(event.pointerId);
    if (this.pinch) { if (!this.pointers.size) this.pinch = null; return; }
    const gesture = this.gesture;
    this.stop(false);
    if (!gesture || !gesture.from) return;
    if (!this.strokes && this.tool !== "move") this.mask.fill(this.shape(gesture, point), gesture.erase);
    this.mask.changed();
  }

  // Ends what is under way; undone where it was a slip of two fingers.
  stop(undone) {
    if (undone && this.gesture?.from) { this.mask.back(); this.mask.after.pop(); }
    this.gesture = null;
    this.draft.getContext("2d").clearRect(0, 0, this.width, this.height);
  }

  shape({ from, path }, to) {
    const made = new Path2D();
    const [x, y, w, h] = [Math.min(from.x, to.x), Math.min(from.y, to.y), Math.abs(to.x - from.x), Math.abs(to.y - from.y)];
    if (this.tool === "box") made.rect(Math.round(x), Math.round(y), Math.round(w), Math.round(h));
    else if (this.tool === "ellipse") made.ellipse(x + w / 2, y + h / 2, w / 2, h / 2, 0, 0, 7);
    else { for (const p of path) made.lineTo(p.x, p.y); made.closePath(); }
    return made;
  }

  outline(path, erase) {
    const ink = this.draft.getContext("2d");
    ink.clearRect(0, 0, this.width, this.height);
    ink.fillStyle = erase ? "#0008" : "#ff4d7a88"; ink.strokeStyle = "#fff"; ink.lineWidth = 1.5 / this.zoom;
    ink.fill(path); ink.stroke(path);
  }

  circle(event, { px, py }) {
    const shown = this.strokes && this.width && event.pointerType !== "touch" && !this.onslide && !event.target.closest("form, button, #results");
    this.ring.hidden = !shown;
    this.stage.style.cursor = this.space ? "grab" : this.onslide ? "ew-resize" : shown ? "none" : this.tool === "move" ? "move" : "crosshair";
    if (!shown) return;
    const side = this.size * this.zoom;
    this.ring.style.width = this.ring.style.height = `${side}px`;
    this.ring.style.transform = `translate(${px - side / 2}px, ${py - side / 2}px)`;
  }

  spread() {
    const [one, other] = [...this.pointers.values()];
    return { px: (one.px + other.px) / 2, py: (one.py + other.py) / 2, apart: Math.hypot(one.px - other.px, one.py - other.py) || 1 };
  }
}
