// The page of `saccade view`: its state, and what follows from a change of it. What is seen is a function of the state;
// the state is in the address behind #, so that a link shows the same. Everything in it counts from 0.

import { Answers, aborted, getJson } from "./api.js";
import { Chooser } from "./chooser.js";
import { COLOURS } from "./colours.js";
import { $, choose, element, say, segments } from "./dom.js";
import { listen } from "./keys.js";
import { MAPS, captionOf, hasHeads, hasLayers, pathOf } from "./maps.js";
import { Entropies, Overview, clearPanels, drawEnergy, drawNeighbours } from "./panels.js";
import { Stage, drawnOf } from "./stage.js";

/** Bytes of maps and images that are kept. */
const KEPT = 128 * 2 ** 20;
/** Of one image: maps of more, in all layers, are drawn when asked for; where one map is more, none is loaded ahead. */
const UNASKED = KEPT / 4;
/** Places from the chosen image whose image and map are loaded ahead. */
const AHEAD = [1, 2, -1];
/** What is chosen in place of one head. */
const SEVERAL = ["mean", "all"];

const DEFAULTS = {
  image: null,
  patch: null,
  layer: null,
  head: "mean",
  map: "to",
  colours: "viridis",
  scale: "own",
  opacity: 60,
  grid: false,
};

class App {
  constructor(run) {
    this.run = run;
    this.state = { ...DEFAULTS };
    this.answers = new Answers(KEPT);
    this.drawn = null;
    this.chooser = new Chooser(
      run,
      (label) => this.nameOf(label),
      (sample) => this.set({ image: sample.id }),
    );
    this.stage = new Stage(run, { patch: (patch) => this.set({ patch }), head: (head) => this.set({ head }) });
    const place = (layer, head) => this.set({ layer, head, map: hasHeads(this.state.map) ? this.state.map : "to" });
    if (run.layers > 0) {
      this.entropies = new Entropies(run, place);
      this.overview = new Overview(run, this.answers, place);
      $("overview").open = this.overview.bytes <= UNASKED;
      $("overview").addEventListener("toggle", () => this.state.image !== null && this.overview.draw(this.state));
    }
    this.#controls();
    listen(this);
    addEventListener("hashchange", () => this.#follow());
  }

  nameOf(label) {
    if (label === null) return "no label";
    return this.run.labels.find((each) => each.label === label)?.name ?? `label ${label}`;
  }

  #controls() {
    const { run } = this;
    const attends = run.layers > 0;
    const which = run.which === "target" ? "target encoder" : "encoder";
    $("run").textContent = `${run.run} · ${which} after ${run.step.toLocaleString("en")} steps · ${run.encoder}`;
    document.title = `${run.run} – saccade view`;
    segments(
      $("map"),
      Object.entries(MAPS).filter(([map]) => attends || map === "similarity"),
      (map) => this.set({ map }),
    );
    const heads = Array.from({ length: run.heads }, (_, head) => [head, head + 1, `head ${head + 1}`]);
    segments(
      $("head"),
      [["mean", "mean", "mean of all heads"], ["all", "all", "all heads side by side"], ...heads],
      (head) => this.set({ head: SEVERAL.includes(head) ? head : Number(head) }),
    );
    $("layer").max = Math.max(1, run.layers);
    $("layer-name").textContent = run.layer_name[0].toUpperCase() + run.layer_name.slice(1);
    $("layer").addEventListener("input", () => this.set({ layer: Number($("layer").value) - 1 }));
    for (const part of ["head", "layer-row", "analysis"]) $(part).hidden = !attends;
    $("colours").replaceChildren(...COLOURS.map((name) => element("option", { value: name, textContent: name })));
    for (const name of ["colours", "scale"])
      $(name).addEventListener("change", () => this.set({ [name]: $(name).value }));
    $("opacity").addEventListener("input", () => this.set({ opacity: Number($("opacity").value) }));
    $("grid").addEventListener("change", () => this.set({ grid: $("grid").checked }));
    $("skip").addEventListener("click", () => $("stage").focus());
    $("back").addEventListener("click", () => this.back());
  }

  /** Opens what the address says, or else the first sample. */
  async open() {
    this.#read();
    await this.chooser.turnTo(this.state.image ?? "");
    const first = this.state.image ?? (await this.chooser.at(0))?.id;
    if (first === undefined) say($("error"), "The run's validation shards hold no sample: open an image of yours.");
    else this.set({ image: first });
  }

  /** Changes the state, and lets everything follow. `from` is what another image is reached from. */
  set(change, from = null) {
    const before = this.state.image;
    Object.assign(this.state, change);
    this.#mend();
    const address = this.#address();
    // The way back leads from image to image.
    const another = before !== null && before !== this.state.image;
    if (another) history.pushState(from, "", address);
    else if (address !== location.hash) history.replaceState(history.state, "", address);
    this.#refresh();
  }

  /** Shows a neighbour of the image, with a way back. */
  visit(image) {
    this.set({ image }, { title: $("title").textContent });
    // The neighbour that was clicked is no longer there to be focused.
    $("title").focus();
  }

  /** Back to the image whose neighbour is shown. */
  back() {
    if (history.state?.title) history.back();
  }

  titleOf({ id, key, label }) {
    const title = label === null ? key : `${key}, ${this.nameOf(label)}`;
    return id.startsWith("t") ? `${title} (training sample)` : title;
  }

  /** Keeps the state within what the encoder has. */
  #mend() {
    const { run, state } = this;
    const whole = (value, end) => Number.isInteger(value) && value >= 0 && value < end;
    if (!Object.hasOwn(MAPS, state.map) || run.layers === 0) state.map = run.layers === 0 ? "similarity" : "to";
    if (!whole(state.patch, run.grid ** 2)) state.patch = null;
    if (!whole(state.layer, run.layers)) state.layer = Math.max(0, run.layers - 1);
    if (!SEVERAL.includes(state.head) && !whole(state.head, run.heads)) state.head = "mean";
    if (!COLOURS.includes(state.colours)) state.colours = DEFAULTS.colours;
    if (!["own", "zero"].includes(state.scale)) state.scale = DEFAULTS.scale;
    if (!(state.opacity >= 0 && state.opacity <= 100)) state.opacity = DEFAULTS.opacity;
  }

  #address() {
    const said = Object.entries(this.state).filter(([name, value]) => value !== null && value !== DEFAULTS[name]);
    return `#${new URLSearchParams(said.map(([name, value]) => [name, value]))}`;
  }

  #read() {
    const said = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    const numeric = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : (text ?? null));
    Object.assign(this.state, DEFAULTS, {
      ...Object.fromEntries(Object.entries(said).filter(([name]) => Object.hasOwn(DEFAULTS, name))),
      patch: numeric(said.patch),
      layer: numeric(said.layer),
      head: numeric(said.head) ?? DEFAULTS.head,
      opacity: numeric(said.opacity) ?? DEFAULTS.opacity,
      grid: said.grid === "true",
    });
    if (!/^[A-Za-z]?\d+$/.test(this.state.image ?? "")) this.state.image = null;
    this.#mend();
  }

  /** Follows a link, or the way back. */
  #follow() {
    this.#read();
    if (this.state.image === null) this.open();
    else this.#refresh();
  }

  #refresh() {
    this.#showState();
    if (this.state.image === null) return;
    this.#loadMap();
    if (this.state.image !== this.panelsOf) this.#loadPanels();
    this.overview?.draw(this.state);
  }

  #showState() {
    const { state, run } = this;
    choose($("map"), state.map);
    choose($("head"), state.head);
    $("head").disabled = !hasHeads(state.map);
    $("layer").disabled = !hasLayers(state.map);
    $("layer").value = state.layer + 1;
    $("layer-said").textContent = `${state.layer + 1} of ${run.layers}`;
    for (const name of ["colours", "scale", "opacity"]) $(name).value = state[name];
    $("grid").checked = state.grid;
    $("back").hidden = !history.state?.title;
    $("back-to").textContent = history.state?.title ?? "";
    this.overview?.mark(state);
    this.entropies?.mark(state);
    if (this.look?.id === state.image) drawEnergy(this.look.energy, run, state.layer);
  }

  /** Loads the image and the numbers of the map, and draws both at once; a later call ends an earlier one. */
  async #loadMap() {
    this.mapTurn?.abort();
    this.mapTurn = new AbortController();
    const { signal } = this.mapTurn;
    const state = { ...this.state };
    this.#busy(true);
    try {
      const [picture, numbers] = await Promise.all(
        [`/api/image/${state.image}`, pathOf(state)].map((path) => this.answers.load(path, signal)),
      );
      if (signal.aborted) return;
      const heads = hasHeads(state.map) ? this.run.heads : 1;
      if (numbers.length !== heads * this.run.grid ** 4) {
        throw new Error(`${pathOf(state)}: ${numbers.length} numbers came, needs ${heads * this.run.grid ** 4}.`);
      }
      this.drawn = drawnOf(state, numbers, this.run);
      this.stage.draw(picture, this.drawn, state);
      $("caption").textContent = captionOf(state, this.run);
      say($("error"), "");
      this.#loadAhead(state, 4 * numbers.length);
    } catch (error) {
      if (aborted(error)) return;
      this.drawn = null;
      this.stage.clear();
      say($("error"), error.message);
    }
    this.#busy(false);
  }

  #busy(busy) {
    $("stage").setAttribute("aria-busy", busy);
  }

  /** Loads what is likely to be looked at next, one after another. */
  async #loadAhead(state, bytes) {
    const wanted = pathOf(state);
    if (wanted === this.ahead) return;
    this.ahead = wanted;
    this.aheadTurn?.abort();
    this.aheadTurn = new AbortController();
    const { signal } = this.aheadTurn;
    if (bytes > UNASKED) return;
    try {
      await this.turned;
      for (const { id } of await this.chooser.around(AHEAD)) {
        for (const path of [`/api/image/${id}`, pathOf({ ...state, image: id })]) {
          await this.answers.load(path, signal, "low");
        }
      }
    } catch {
      // Whoever looks at it will be told.
    }
  }

  /** Loads what is said of the image beside the map. */
  async #loadPanels() {
    this.panelTurn?.abort();
    this.panelTurn = new AbortController();
    const { signal } = this.panelTurn;
    const { image } = this.state;
    this.panelsOf = image;
    this.turned = this.chooser.turnTo(image);
    try {
      const look = await getJson(`/api/look/${image}`, signal);
      this.look = look;
      $("title").textContent = this.titleOf(look);
      this.entropies?.draw(look.entropy);
      drawEnergy(look.energy, this.run, this.state.layer);
      await drawNeighbours(look, this, signal);
    } catch (error) {
      if (aborted(error)) return;
      $("title").textContent = `image ${image}`;
      clearPanels();
      this.entropies?.clear();
      say($("error"), error.message);
    }
  }

  /** The next image, or so many places on. */
  async step(steps) {
    try {
      const sample = await this.chooser.beside(steps);
      if (sample) this.set({ image: sample.id });
    } catch (error) {
      if (!aborted(error)) say($("error"), error.message);
    }
  }
}

async function start() {
  try {
    const app = new App(await getJson("/api/run"));
    // For checks and for the console.
    window.saccade = {
      get state() {
        return { ...app.state };
      },
      get run() {
        return app.run;
      },
      get answers() {
        return { bytes: app.answers.bytes, limit: app.answers.limit, paths: app.answers.paths };
      },
      map: () => app.drawn?.values ?? null,
    };
    await app.open();
  } catch (error) {
    say($("error"), error.message);
  }
}

start();
