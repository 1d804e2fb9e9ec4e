// The viewer of ASCON's reports: volumes before and after denoising, in a page that needs no network and no WebGL.
// Each <figure class="viewer"> holds its description (JSON) and its volumes (base64 of zlib; see reports/viewer.py).
"use strict";

const CURTAIN_REACH_PX = 14; // how near the pointer takes hold of the curtain
const MARK_PX = 11;

/** Turn base64 of zlib into the int16 volume that Python's `packed` made it of. */
async function unpack(text, [slices, rows, columns]) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = slices * rows * columns;
  if (planes.length !== 2 * count) throw new Error("a volume of this page is damaged");
  const voxels = new Int16Array(count);
  for (let i = 0; i < count; ) {
    for (let column = 0, value = 0; column < columns; column++, i++) {
      value += planes[i] | (planes[count + i] << 8); // steps along the row, modulo 2^16
      voxels[i] = value;
    }
  }
  return voxels;
}

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

class Viewer {
  constructor(figure) {
    this.figure = figure;
    this.facts = JSON.parse(figure.querySelector("script.facts").textContent);
    const [slices, rows, columns] = (this.shape = this.facts.shape);
    Object.assign(this, { slice: slices >> 1, rows, columns, left: 0, right: 1, cut: 0.5, mode: "curtain" });
    Object.assign(this, { overlay: -1, opacity: 0.6, zoom: 1, centre: [columns / 2, rows / 2], mark: null });
    [this.canvas, this.readout, this.legend] = figure.querySelectorAll("canvas, output, .legend");
    this.setWindow(...this.facts.window_hu);
  }

  async load() {
    const texts = [...this.figure.querySelectorAll("script.volume")];
    this.volumes = await Promise.all(texts.map((script) => unpack(script.textContent, this.shape)));
    texts.forEach((script) => script.remove()); // the text is as large as the volumes
    this.planes = [0, 1].map(() => element("canvas", { width: this.columns, height: this.rows }));
    this.listen();
    this.draw();
    this.figure.dataset.ready = "true";
  }

  // -------------------------------------------------------------------------------------------------------- input

  /** Bind the controls: each has the name of what it sets; buttons carry a window or a place. */
  listen() {
    for (const control of this.figure.querySelectorAll("[name]")) {
      control.addEventListener("input", () => {
        this[control.name] = control.name === "mode" ? control.value : Number(control.value);
        this.draw();
      });
    }
    for (const button of this.figure.querySelectorAll("button")) {
      const { window: ends, place } = button.dataset;
      button.addEventListener("click", () => {
        if (ends) this.setWindow(...JSON.parse(ends));
        else this.jump(this.facts.places[place]);
        this.draw();
      });
    }
    const canvas = this.canvas;
    canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    canvas.addEventListener("pointermove", (event) => this.onMove(event));
    canvas.addEventListener("pointerup", () => (this.drag = null));
    canvas.addEventListener("pointercancel", () => (this.drag = null));
    canvas.addEventListener("dblclick", (event) => this.onDoubleClick(event));
    canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  turn(steps) {
    this.slice = clamp(this.slice + steps, 0, this.shape[0] - 1);
    this.draw();
  }

  onWheel(event) {
    if (this.shape[0] < 2 || event.ctrlKey) return; // the page may scroll
    event.preventDefault();
    this.turn(Math.sign(event.deltaY));
  }

  onKey(event) {
    const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -5, PageDown: 5 }[event.key];
    const shift = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    if (steps === undefined && shift === undefined) return;
    event.preventDefault();
    if (shift) this.cut = clamp(this.cut + shift, 0, 1);
    this.turn(steps || 0);
  }

  /** Where an event is: as parts of the canvas's width and height. */
  where(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, box.width];
  }

  /** The column and row, as real numbers, at parts of the canvas's width and height. */
  voxel(u, v) {
    const [cx, cy] = this.centre;
    return [cx + ((u - 0.5) * this.columns) / this.zoom, cy + ((v - 0.5) * this.rows) / this.zoom];
  }

  onDown(event) {
    const [u, , width] = this.where(event);
    const held = this.mode === "curtain" && Math.abs(u - this.cut) * width < CURTAIN_REACH_PX;
    this.drag = { held, x: event.clientX, y: event.clientY, level: this.level, width: this.width };
    if (event.isTrusted) this.canvas.setPointerCapture(event.pointerId);
  }

  onMove(event) {
    const [u, v, width] = this.where(event);
    const near = this.mode === "curtain" && Math.abs(u - this.cut) * width < CURTAIN_REACH_PX;
    this.canvas.style.cursor = near ? "ew-resize" : "crosshair";
    if (this.drag && this.drag.held) {
      this.cut = clamp(u, 0, 1);
    } else if (this.drag) {
      this.width = Math.max(1, this.drag.width * Math.exp((event.clientX - this.drag.x) / 300));
      this.level = this.drag.level + ((event.clientY - this.drag.y) * this.drag.width) / 400;
    }
    this.pointer = this.voxel(u, v).map(Math.floor);
    if (this.drag) this.draw();
    else this.tell();
  }

  onDoubleClick(event) {
    const [u, v] = this.where(event);
    const place = this.voxel(u, v);
    this.zoom = this.zoom > 1 ? 1 : 3;
    this.centre = this.zoom > 1 ? place : [this.columns / 2, this.rows / 2];
    this.draw();
  }

  jump(place) {
    Object.assign(this, { slice: place.slice, zoom: 3, centre: [place.column + 0.5, place.row + 0.5] });
    this.mark = [place.column, place.row, place.slice, place.radius];
  }

  setWindow(low, high) {
    this.level = (low + high) / 2;
    this.width = high - low;
  }

  // ------------------------------------------------------------------------------------------------------- drawing

  at(volume, column, row) {
    return this.volumes[volume][(this.slice * this.rows + row) * this.columns + column];
  }

  /** Paint one plane with gray levels of a volume, or with the difference of two, and the overlay over it. */
  paint(plane, volume, less = -1) {
    const size = this.rows * this.columns, first = this.slice * size;
    const image = new ImageData(this.columns, this.rows), pixels = image.data;
    const values = this.volumes[volume], others = this.volumes[less];
    const { limit_hu: limit, colours } = this.facts.difference;
    const low = this.level - this.width / 2, gray = 255 / this.width;
    for (let i = 0, p = 0; i < size; i++, p += 4) {
      const value = values[first + i];
      if (others) {
        const bin = Math.round(clamp(((value - others[first + i]) / limit + 1) / 2, 0, 1) * 255);
        for (let c = 0; c < 3; c++) pixels[p + c] = colours[bin][c];
      } else {
        pixels[p] = pixels[p + 1] = pixels[p + 2] = (value - low) * gray; // the array clamps and rounds
      }
      pixels[p + 3] = 255;
    }
    if (this.overlay >= 0) this.tint(pixels, first, size);
    plane.getContext("2d").putImageData(image, 0, 0);
  }

  tint(pixels, first, size) {
    const { low, high, step, colours } = this.facts.overlays[this.overlay];
    const values = this.volumes[this.facts.images.length + this.overlay];
    for (let i = 0, p = 0; i < size; i++, p += 4) {
      const colour = colours[Math.round(clamp((values[first + i] * step - low) / (high - low), 0, 1) * 255)];
      const part = (this.opacity * colour[3]) / 255;
      for (let c = 0; c < 3; c++) pixels[p + c] += part * (colour[c] - pixels[p + c]);
    }
  }

  draw() {
    const { canvas, planes } = this, { width, height } = canvas, context = canvas.getContext("2d");
    const corner = this.voxel(0, 0), extent = [this.columns / this.zoom, this.rows / this.zoom];
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    const show = (plane, from, to) => {
      context.save();
      context.beginPath();
      context.rect(from * width, 0, (to - from) * width, height);
      context.clip();
      context.drawImage(plane, ...corner, ...extent, 0, 0, width, height);
      context.restore();
    };
    if (this.mode === "difference") {
      this.paint(planes[0], this.right, this.left);
      show(planes[0], 0, 1);
    } else {
      this.paint(planes[0], this.left);
      this.paint(planes[1], this.right);
      show(planes[0], 0, this.cut);
      show(planes[1], this.cut, 1);
      this.drawCurtain(context, width, height);
    }
    if (this.mark && this.mark[2] === this.slice) {
      const [column, row] = this.mark, across = width / extent[0], down = height / extent[1];
      const radius = Math.max(MARK_PX, this.mark[3] * across);
      context.strokeStyle = "#ffd23f";
      context.lineWidth = 2;
      context.beginPath();
      context.arc((column + 0.5 - corner[0]) * across, (row + 0.5 - corner[1]) * down, radius, 0, 2 * Math.PI);
      context.stroke();
    }
    const slider = this.figure.querySelector("[name=slice]");
    if (slider) slider.value = this.slice;
    this.tell();
  }

  drawCurtain(context, width, height) {
    const x = this.cut * width, [left, right] = [this.left, this.right].map((i) => this.facts.images[i].name);
    context.fillStyle = "#ffd23f";
    context.fillRect(x - 1, 0, 2, height);
    context.fillRect(x - 5, height / 2 - 18, 10, 36);
    context.font = "15px system-ui, sans-serif";
    context.textAlign = "right";
    context.fillText(left, x - 10, 22);
    context.textAlign = "left";
    context.fillText(right, x + 10, 22);
  }

  /** Say which slice and window are shown, the values under the pointer, and what the colours mean. */
  tell() {
    const { images, overlays, difference, slices, total } = this.facts;
    const lines = [
      `slice ${slices[this.slice] + 1} of ${total}`,
      `window ${this.width.toFixed(0)}, level ${this.level.toFixed(0)} HU`,
    ];
    const [column, row] = this.pointer || [-1, -1];
    if (column >= 0 && row >= 0 && column < this.columns && row < this.rows) {
      images.forEach(({ name }, i) => lines.push(`${name}: ${this.at(i, column, row)} HU`));
      if (this.overlay >= 0) {
        const { name, step, unit } = overlays[this.overlay];
        const value = this.at(images.length + this.overlay, column, row) * step;
        lines.push(`${name}: ${value.toFixed(1)} ${unit}`);
      }
    }
    this.readout.textContent = lines.join("\n");
    const shown = [];
    if (this.mode === "difference") {
      const title = `${images[this.right].name} less ${images[this.left].name}`;
      shown.push({ name: title, low: -difference.limit_hu, high: difference.limit_hu, unit: "HU", colours: difference.colours });
    }
    if (this.overlay >= 0) shown.push(overlays[this.overlay]);
    this.legend.replaceChildren(...shown.map(scale));
  }
}

/** A bar of an overlay's colours with the numbers at its ends. */
function scale({ name, low, high, unit, colours }) {
  const stops = colours.filter((_, i) => i % 15 === 0).map(([r, g, b, a = 255]) => `rgba(${r},${g},${b},${a / 255})`);
  const bar = element("div", { className: "ramp" });
  bar.style.background = `linear-gradient(to right, ${stops}), #000`;
  return element("div", {}, name, bar, element("span", { textContent: `${low} to ${high} ${unit}` }));
}

for (const figure of document.querySelectorAll("figure.viewer")) {
  new Viewer(figure).load().catch((error) => {
    const said = typeof DecompressionStream === "undefined" ? "this browser is too old" : error.message;
    figure.prepend(element("p", { textContent: `The slices cannot be shown: ${said}.` }));
    console.error(error);
  });
}
