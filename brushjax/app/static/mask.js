// The mask: a canvas that is opaque where the picture is to be edited, and what changes it.

const COLOUR = "#ff4d7a";
const MOST_UNDO = 30;

export class Mask {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.ink = canvas.getContext("2d", { willReadFrequently: true });
    this.changed = changed;
    this.before = []; this.after = [];
  }

  resize(width, height) {
    this.canvas.width = width; this.canvas.height = height;
    this.before = []; this.after = [];
    this.changed();
  }

  get width() { return this.canvas.width; }
  get height() { return this.canvas.height; }

  // 1 = edit, row by row.
  bits() {
    const { data } = this.ink.getImageData(0, 0, this.width, this.height);
    const bits = new Uint8Array(this.width * this.height);
    for (let i = 0; i < bits.length; i++) bits[i] = data[4 * i + 3] >= 128 ? 1 : 0;
    return bits;
  }

  show(bits) {
    const image = this.ink.createImageData(this.width, this.height);
    for (let i = 0; i < bits.length; i++) {
      if (bits[i]) { image.data[4 * i] = 255; image.data[4 * i + 1] = 77; image.data[4 * i + 2] = 122; image.data[4 * i + 3] = 255; }
    }
    this.ink.putImageData(image, 0, 0);
  }

  // The share of the picture that is marked.
  get share() {
    if (!this.width) return 0;
    const bits = this.bits();
    let sum = 0;
    for (const bit of bits) sum += bit;
    return sum / bits.length;
  }

  keep() { this.before.push(this.bits()); if (this.before.length > MOST_UNDO) this.before.shift(); this.after = []; }
  back() { this.swap(this.before, this.after); }
  forth() { this.swap(this.after, this.before); }
  swap(from, to) {
    if (!from.length) return;
    to.push(this.bits());
    this.show(from.pop());
    this.changed();
  }

  change(make) { this.keep(); this.show(make(this.bits())); this.changed(); }

  // --- strokes and shapes, in the picture's pixels

  line(from, to, size, erase) {
    const ink = this.ink;
    ink.save();
    ink.globalCompositeOperation = erase ? "destination-out" : "source-over";
    ink.strokeStyle = ink.fillStyle = COLOUR;
    ink.lineCap = ink.lineJoin = "round"; ink.lineWidth = size;
    ink.beginPath(); ink.moveTo(from.x, from.y); ink.lineTo(to.x + 0.01, to.y); ink.stroke();
    ink.restore();
  }

  fill(path, erase) {
    const ink = this.ink;
    ink.save();
    ink.globalCompositeOperation = erase ? "destination-out" : "source-over";
    ink.fillStyle = COLOUR;
    ink.fill(path);
    ink.restore();
    this.changed();
  }

  invert() { this.change((bits) => bits.map((bit) => 1 - bit)); }
  clear() { this.change((bits) => bits.fill(0)); }

  // Widens by a square of a side, or narrows where it is negative.
  widen(side) {
    const want = side > 0 ? 1 : 0, half = Math.abs(side) >> 1;
    this.change((bits) => spread(spread(bits, this.width, this.height, half, want, true), this.width, this.height, half, want, false));
  }

  move(dx, dy, bits = this.bits()) {
    const { width, height } = this, moved = new Uint8Array(bits.length);
    for (let y = 0; y < height; y++) {
      const from = y - dy;
      if (from < 0 || from >= height) continue;
      for (let x = Math.max(0, dx); x < Math.min(width, width + dx); x++) moved[y * width + x] = bits[from * width + x - dx];
    }
    this.show(moved);
    this.changed();
  }

  // Takes the white part of a picture of any size.
  take(image, threshold = 128) {
    this.keep();
    const { data } = pixels(image, this.width, this.height);
    const bits = new Uint8Array(this.width * this.height);
    for (let i = 0; i < bits.length; i++) bits[i] = data[4 * i] >= threshold ? 1 : 0;
    this.show(bits);
    this.changed();
  }

  // PNG in base64: white = edit.
  async base64() {
    const canvas = new OffscreenCanvas(this.width, this.height), ink = canvas.getContext("2d");
    const bits = this.bits(), image = ink.createImageData(this.width, this.height);
    for (let i = 0; i < bits.length; i++) { image.data.fill(bits[i] ? 255 : 0, 4 * i, 4 * i + 3); image.data[4 * i + 3] = 255; }
    ink.putImageData(image, 0, 0);
    const bytes = new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    return btoa(text);
  }
}

export function pixels(image, width, height) {
  const canvas = new OffscreenCanvas(width, height), ink = canvas.getContext("2d", { willReadFrequently: true });
  ink.drawImage(image, 0, 0, width, height);
  return ink.getImageData(0, 0, width, height);
}

export async function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/png" }));
}

// One direction of a square's spreading: a pixel takes `want` if one within `half` has it.
function spread(bits, width, height, half, want, across) {
  const made = new Uint8Array(bits.length).fill(1 - want);
  const lines = across ? height : width, length = across ? width : height, step = across ? 1 : width;
  for (let line = 0; line < lines; line++) {
    const start = across ? line * width : line;
    for (let i = 0, last = -1e9, next = 0; i < length; i++) {
      while (next < length && next <= i + half) { if (bits[start + next * step] === want) last = next; next++; }
      if (last >= i - half) made[start + i * step] = want;
    }
  }
  return made;
}
