// The image with its map: one map on a large picture, or the maps of all heads side by side.

import { paint, paintBar } from "./colours.js";
import { $, element, isSmall, svg } from "./dom.js";
import { mapsOf, meanOf, number, patchName, rangeOf, scaleOf } from "./maps.js";

/** Pixels of a small multiple, on the screen at most; twice as many are drawn, for dense screens. */
const MULTIPLE = 320;

/** What is drawn of a state: the map of one head, or those of all one after another, and from where the colours go. */
export function drawnOf(state, numbers, run) {
  const maps = mapsOf(numbers, run.grid ** 2, state.map, state.patch);
  const alone = maps.length === 1 ? 0 : state.head;
  if (alone === "all") {
    const values = new Float32Array(numbers.length / run.grid ** 2);
    maps.forEach((map, head) => values.set(map, head * run.grid ** 2));
    const range = scaleOf(values, maps, state.scale, state.map);
    return { values, maps, ranges: maps.map((map) => (state.scale === "own" ? rangeOf(map) : range)), range };
  }
  const values = alone === "mean" ? meanOf(maps) : maps[alone];
  return { values, maps: null, ranges: null, range: scaleOf(values, maps, state.scale, state.map) };
}

export class Stage {
  /** `chooses` is told the patch or the head that is clicked. */
  constructor(run, chooses) {
    // No patch may stand for the last pixels at the right and at the bottom.
    Object.assign(this, { run, chooses, values: null, several: false, share: run.covered / run.side });
    const stage = $("stage");
    for (const { style } of [$("overlay"), $("marks")]) style.width = style.height = `${100 * this.share}%`;
    stage.classList.toggle("pixels", isSmall(run.side));
    stage.addEventListener("click", (event) => {
      const patch = this.#patchAt(event, stage);
      if (patch !== null) chooses.patch(patch);
    });
    for (const place of [stage, $("multiples")]) {
      place.addEventListener("pointermove", (event) => this.#point(event));
      place.addEventListener("pointerleave", () => this.#value(null));
    }
    this.#lines();
  }

  draw(picture, drawn, state) {
    Object.assign(this, { values: drawn.values, state, several: drawn.maps !== null });
    const several = this.several;
    $("stage").hidden = several;
    $("multiples").hidden = !several;
    if (several) {
      this.#multiples(picture, drawn, state);
    } else {
      this.#picture(picture);
      paint($("overlay"), drawn.values, drawn.range, state.colours);
      $("overlay").style.setProperty("opacity", state.opacity / 100);
      this.#marks(state);
    }
    paintBar($("bar"), state.colours);
    // Maps that each have a scale of their own share no numbers.
    const apart = several && state.scale === "own";
    const [least, most] = drawn.range;
    $("bar-least").textContent = apart ? "least of each" : number(least);
    $("bar-middle").textContent = apart ? "" : number((least + most) / 2);
    $("bar-most").textContent = apart ? "greatest of each" : number(most);
    this.#value(this.pointed);
  }

  /** Shows nothing. */
  clear() {
    this.values = null;
    $("stage").hidden = false;
    $("multiples").hidden = true;
    for (const canvas of [$("picture"), $("overlay")]) canvas.width = 0;
    for (const mark of $("marks").children) mark.toggleAttribute("hidden", true);
    for (const place of ["bar-least", "bar-middle", "bar-most", "value", "caption"]) $(place).textContent = "";
  }

  #picture(picture) {
    const canvas = $("picture");
    [canvas.width, canvas.height] = [picture.width, picture.height];
    canvas.getContext("2d").drawImage(picture, 0, 0);
  }

  /** Lines between patches, drawn once; the outlines of the chosen patch, moved. */
  #lines() {
    const { grid } = this.run;
    const marks = $("marks");
    marks.setAttribute("viewBox", `0 0 ${grid} ${grid}`);
    const between = Array.from({ length: grid - 1 }, (_, at) => `M${at + 1} 0V${grid}M0 ${at + 1}H${grid}`).join("");
    this.grid = svg("path", { d: between, class: "lines" });
    this.outlines = ["casing", "outline"].map((name) => svg("rect", { width: 1, height: 1, class: name }));
    marks.append(this.grid, ...this.outlines);
  }

  #marks({ patch, grid }) {
    this.grid.toggleAttribute("hidden", !grid);
    for (const outline of this.outlines) {
      outline.toggleAttribute("hidden", patch === null);
      outline.setAttribute("x", (patch ?? 0) % this.run.grid);
      outline.setAttribute("y", Math.floor((patch ?? 0) / this.run.grid));
    }
  }

  #multiples(picture, { maps, ranges }, state) {
    const place = $("multiples");
    const across = Math.ceil(Math.sqrt(maps.length));
    place.style.setProperty("--across", across);
    while (place.children.length < maps.length) {
      const head = place.children.length;
      const canvas = element("canvas", { width: 2 * MULTIPLE, height: 2 * MULTIPLE });
      const button = element("button", { type: "button", "data-head": head }, canvas, `head ${head + 1}`);
      button.addEventListener("click", () => this.chooses.head(head));
      place.append(button);
    }
    const overlay = document.createElement("canvas");
    maps.forEach((map, head) => {
      const context = place.children[head].querySelector("canvas").getContext("2d");
      const side = context.canvas.width;
      const covered = side * this.share;
      paint(overlay, map, ranges[head], state.colours);
      context.imageSmoothingEnabled = !isSmall(this.run.side);
      context.globalAlpha = 1;
      context.drawImage(picture, 0, 0, side, side);
      context.imageSmoothingEnabled = false;
      context.globalAlpha = state.opacity / 100;
      context.drawImage(overlay, 0, 0, covered, covered);
      context.globalAlpha = 1;
      this.#drawMarks(context, covered, state);
    });
  }

  #drawMarks(context, side, { patch, grid }) {
    const cell = side / this.run.grid;
    if (grid) {
      context.lineWidth = 2;
      context.strokeStyle = "rgb(128 128 128 / 60%)";
      context.stroke(
        new Path2D(
          Array.from(
            { length: this.run.grid - 1 },
            (_, at) => `M${(at + 1) * cell} 0V${side}M0 ${(at + 1) * cell}H${side}`,
          ).join(""),
        ),
      );
    }
    if (patch === null) return;
    const corner = [(patch % this.run.grid) * cell, Math.floor(patch / this.run.grid) * cell, cell, cell];
    for (const [width, colour] of [
      [10, "black"],
      [5, "white"],
    ]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.strokeRect(...corner);
    }
  }

  #patchAt(event, box) {
    const { left, top, width, height } = box.getBoundingClientRect();
    const { grid } = this.run;
    const shares = [(event.clientX - left) / width, (event.clientY - top) / height];
    const [column, row] = shares.map((share) => Math.floor((share / this.share) * grid));
    return row >= 0 && column >= 0 && row < grid && column < grid ? row * grid + column : null;
  }

  #point(event) {
    const box = this.several ? event.target.closest("canvas") : $("stage");
    const patch = box && this.#patchAt(event, box);
    const head = this.several ? Number(event.target.closest("button")?.dataset.head ?? 0) : 0;
    this.#value(patch === null ? null : { patch, head });
  }

  /** Says the value under the pointer, or else that of the chosen patch. */
  #value(pointed) {
    this.pointed = pointed;
    if (!this.values) return;
    if (!pointed && !this.several && this.state.patch !== null) pointed = { patch: this.state.patch, head: 0 };
    const places = this.run.grid ** 2;
    if (!pointed || (pointed.head + 1) * places > this.values.length) {
      $("value").textContent = "Point at a patch to read its value; click one to choose it.";
      return;
    }
    const value = this.values[pointed.head * places + pointed.patch];
    const where = (this.several ? `head ${pointed.head + 1}, ` : "") + patchName(pointed.patch, this.run.grid);
    const even = this.state.map === "similarity" ? "" : `, ${(value * places).toFixed(2)} times an even share`;
    $("value").textContent = `${where}: ${number(value)}${even}`;
  }
}
