// What stands beside the map: every layer and head, the entropies, the energy, the nearest training images.

import { Refused, aborted, getJson } from "./api.js";
import { paint } from "./colours.js";
import { $, element, isSmall, say, svg } from "./dom.js";
import { mapsOf, number, pathOf, rangeOf, scaleOf } from "./maps.js";

/** Milliseconds between questions for neighbours while the server is busy: the first, and at most. */
const FIRST_WAIT = 500;
const MOST_WAIT = 4000;

const capital = (word) => word[0].toUpperCase() + word.slice(1);

/** A table of buttons, a row for each layer and a column for each head; `made` fills a button. */
function table(place, run, chooses, made) {
  const heads = Array.from({ length: run.heads }, (_, head) => element("th", { scope: "col", textContent: head + 1 }));
  const corner = element("th", { scope: "col", textContent: `${capital(run.layer_name)} \\ head` });
  const rows = Array.from({ length: run.layers }, (_, layer) => {
    const cells = heads.map((_, head) => {
      const button = element("button", { type: "button", "data-layer": layer, "data-head": head });
      button.addEventListener("click", () => chooses(layer, head));
      made(button, layer, head);
      return element("td", {}, button);
    });
    return element("tr", {}, element("th", { scope: "row", textContent: layer + 1 }), ...cells);
  });
  place.style.setProperty("--heads", run.heads);
  place.replaceChildren(element("thead", {}, element("tr", {}, corner, ...heads)), element("tbody", {}, ...rows));
}

function mark(place, { layer, head }) {
  for (const button of place.querySelectorAll("button")) {
    const here =
      Number(button.dataset.layer) === layer &&
      (head === "all" || head === "mean" || Number(button.dataset.head) === head);
    button.setAttribute("aria-pressed", here);
  }
}

/** Small maps of every layer and head. */
export class Overview {
  constructor(run, answers, chooses) {
    Object.assign(this, { run, answers, turn: null });
    table($("overview-table"), run, chooses, (button, layer, head) => {
      button.append(element("canvas", { width: run.grid, height: run.grid }));
      button.setAttribute("aria-label", `${run.layer_name} ${layer + 1}, head ${head + 1}`);
    });
    this.tiles = [...$("overview-table").querySelectorAll("canvas")];
  }

  /** Bytes of all that is needed for it. */
  get bytes() {
    return 4 * this.run.layers * this.run.heads * this.run.grid ** 4;
  }

  mark(state) {
    mark($("overview-table"), state);
  }

  /** Draws anew if anything changes it, a layer after another; a later call ends an earlier one. */
  async draw(state) {
    const map = state.map === "by" ? "by" : "to";
    const wanted = $("overview").open ? [state.image, state.patch, map, state.scale, state.colours].join(" ") : "";
    if (wanted === this.wanted) return;
    this.wanted = wanted;
    this.turn?.abort();
    if (wanted === "") return;
    this.turn = new AbortController();
    const { signal } = this.turn;
    const what =
      state.patch === null
        ? "what each attends to, on average"
        : `what the patch ${map === "by" ? "is attended by" : "attends to"}`;
    const scale =
      state.scale === "own" ? "each on a scale of its own" : `each ${this.run.layer_name} on one scale from 0`;
    $("overview-said").textContent = `${what}; ${scale}`;
    try {
      for (let layer = 0; layer < this.run.layers; layer += 1) {
        const numbers = await this.answers.load(pathOf({ image: state.image, map, layer }), signal, "low");
        if (signal.aborted) return;
        const maps = mapsOf(numbers, this.run.grid ** 2, map, state.patch);
        maps.forEach((values, head) => {
          const tile = this.tiles[layer * this.run.heads + head];
          paint(tile, values, scaleOf(values, maps, state.scale, map), state.colours);
        });
      }
      $("overview-table").dataset.drawn = state.image;
    } catch (error) {
      if (aborted(error)) return;
      this.wanted = null;
      for (const tile of this.tiles) tile.width = this.run.grid;
      $("overview-said").textContent = error.message;
    }
  }
}

/** Entropy and its exponential, for each layer and head. */
export class Entropies {
  constructor(run, chooses) {
    this.run = run;
    table($("entropy-table"), run, chooses, (button) =>
      button.append(element("span", { "data-entropy": "" }), element("small", { "data-perplexity": "" })),
    );
    this.cells = [...$("entropy-table").querySelectorAll("button")];
    const places = run.grid ** 2;
    $("entropy-said").textContent =
      `in nats, mean over all patches; below it the perplexity: to how many patches that amounts. ` +
      `Even attention to all ${places} has ${Math.log(places).toFixed(4)}`;
  }

  mark(state) {
    mark($("entropy-table"), state);
  }

  clear() {
    for (const button of this.cells) {
      button.style.setProperty("--heat", 0);
      button.removeAttribute("aria-label");
      for (const said of button.children) said.textContent = "–";
    }
  }

  /** `entropy` is `[layers][heads]`. */
  draw(entropy) {
    const { layer_name, heads } = this.run;
    const all = entropy.flat();
    const [least, most] = rangeOf(all);
    all.forEach((value, at) => {
      const button = this.cells[at];
      const perplexity = Math.exp(value).toFixed(2);
      button.querySelector("[data-entropy]").textContent = value.toFixed(4);
      button.querySelector("[data-perplexity]").textContent = perplexity;
      button.style.setProperty("--heat", most > least ? (value - least) / (most - least) : 0);
      const where = `${layer_name} ${Math.floor(at / heads) + 1}, head ${(at % heads) + 1}`;
      button.setAttribute("aria-label", `${where}: entropy ${value.toFixed(4)}, perplexity ${perplexity}`);
    });
  }
}

/** Shows no energy and no neighbours. */
export function clearPanels() {
  $("energy").hidden = $("neighbours").hidden = true;
}

/** The energy before the first iteration and after each. */
export function drawEnergy(energy, run, layer) {
  $("energy").hidden = !energy;
  if (!energy) return;
  const [width, height, left, right, top, bottom] = [400, 170, 72, 12, 12, 34];
  const [least, most] = [Math.min(...energy), Math.max(...energy)];
  const x = (at) => left + (at / Math.max(1, energy.length - 1)) * (width - left - right);
  const y = (value) => top + (most > least ? (most - value) / (most - least) : 0.5) * (height - top - bottom);
  const text = (at, down, anchor, said) => svg("text", { x: at, y: down, "text-anchor": anchor }, said);
  const chart = $("energy-chart");
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.setAttribute("aria-label", "Energy along the iterations");
  const every = Math.ceil(energy.length / 13);
  const ticks = energy.flatMap((_, at) => (at % every ? [] : [text(x(at), height - 18, "middle", String(at))]));
  const levels = [...new Set([most, least])].flatMap((value) => [
    svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "rule" }),
    text(left - 6, y(value) + 4, "end", number(value)),
  ]);
  const points = energy.map((value, at) => {
    const dot = svg("circle", {
      cx: x(at),
      cy: y(value),
      r: at === layer + 1 ? 5 : 3,
      class: at === layer + 1 ? "here" : "",
    });
    dot.append(svg("title", {}, `${at === 0 ? "before the first" : `after ${at}`}: ${number(value)}`));
    return dot;
  });
  chart.replaceChildren(
    ...levels,
    ...ticks,
    text((left + width - right) / 2, height - 3, "middle", `${run.layer_name}s done`),
    svg("polyline", { points: energy.map((value, at) => `${x(at)},${y(value)}`).join(" "), class: "curve" }),
    ...points,
  );
  $("energy-said").textContent =
    `from ${number(energy[0])} to ${number(energy.at(-1))} in ${energy.length - 1} ${run.layer_name}s; ` +
    `the large dot is after ${run.layer_name} ${layer + 1}`;
}

const pause = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(signal.reason);
      },
      { once: true },
    );
  });

/** Asks until the server has compared the image with the training samples, and says how far it is meanwhile. */
async function nearest(image, signal) {
  for (let wait = FIRST_WAIT; ; wait = Math.min(MOST_WAIT, wait * 1.5)) {
    try {
      return (await getJson(`/api/neighbours/${image}?count=8`, signal)).neighbours;
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 503) throw error;
      const { done = 0, of = 1 } = error.said;
      $("neighbours-progress").max = of;
      $("neighbours-progress").value = done;
      say($("neighbours-said"), `${error.message}: ${done.toLocaleString("en")} of ${of.toLocaleString("en")}`);
      $("neighbours-progress").hidden = $("neighbours-wait").hidden = false;
    }
    await pause(wait, signal);
  }
}

/** Says why there are no neighbours, or nothing. */
function sayNone(why) {
  $("neighbours-progress").hidden = true;
  say($("neighbours-said"), why);
  $("neighbours-wait").hidden = !why;
}

/** The nearest training images of what the server said of an image; a click shows one of them like any other. */
export async function drawNeighbours({ id: image, label }, app, signal) {
  const { run } = app;
  $("neighbours").hidden = !run.neighbours;
  if (!run.neighbours) return;
  $("near").setAttribute("aria-busy", "true");
  let found = [];
  try {
    found = await nearest(image, signal);
    sayNone(found.length === 0 ? "There is no training sample to compare this image with." : "");
  } catch (error) {
    if (aborted(error)) return;
    sayNone(`There are none: ${error.message}.`);
  }
  const items = found.map((near) => {
    const same = label !== null && near.label === label;
    const picture = element("img", {
      src: `/api/image/${near.id}`,
      alt: `training sample ${near.key}`,
      title: near.key,
      draggable: false,
    });
    picture.classList.toggle("pixels", isSmall(run.side));
    const said = element("span", { className: "name", textContent: app.nameOf(near.label) });
    if (same) {
      said.append(element("span", { className: "spoken", textContent: " (same label)" }));
      said.append(element("span", { className: "badge", "aria-hidden": true, textContent: "✓" }));
    }
    const like = element("span", { className: "quiet", textContent: near.similarity.toFixed(3) });
    const button = element("button", { type: "button", "data-id": near.id }, picture, said, like);
    button.addEventListener("click", () => app.visit(near.id));
    return element("li", { className: same ? "same" : "" }, button);
  });
  $("near").replaceChildren(...items);
  $("near").removeAttribute("aria-busy");
}
