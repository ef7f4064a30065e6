// How an image is chosen: pages of thumbnails by class and key, and files of one's own.

import { aborted, getJson, upload } from "./api.js";
import { $, element, isSmall, say } from "./dom.js";

/** Thumbnails on a page. */
const PAGE = 24;
/** Milliseconds after the last letter until samples are looked for. */
const TYPING = 200;

export class Chooser {
  /** `chosen` is told the sample; `nameOf` gives a label's name. */
  constructor(run, nameOf, chosen) {
    Object.assign(this, { run, nameOf, chosen, image: null, own: [], from: 0 });
    this.#start();
    const classes = run.labels.map(({ label, samples }) =>
      element("option", { value: label, textContent: `${nameOf(label)} (${samples.toLocaleString("en")})` }),
    );
    const all = element("option", { value: "", textContent: `all (${run.samples.toLocaleString("en")})` });
    $("class").replaceChildren(all, ...classes);
    $("class").addEventListener("change", () => this.filter());
    $("key").addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.filter(), TYPING);
    });
    $("page-back").addEventListener("click", () => this.show(this.from - PAGE));
    $("page-on").addEventListener("click", () => this.show(this.from + PAGE));
    this.#uploads();
  }

  #start() {
    this.turn?.abort();
    this.turn = new AbortController();
    // Samples by their place among those that fit, as far as they were asked for.
    Object.assign(this, { total: null, known: [], pages: new Map() });
  }

  async filter() {
    this.#start();
    await this.show(0);
  }

  /** Shows the page that begins at `from`. */
  async show(from) {
    const { signal } = this.turn;
    const start = Math.max(0, from - (from % PAGE));
    this.from = start;
    try {
      await this.#page(start);
      // Another page may have been asked for meanwhile.
      if (signal.aborted || this.from !== start) return;
      if (this.total > 0 && start >= this.total) await this.show(this.total - 1);
      else this.#draw();
    } catch (error) {
      if (!aborted(error)) this.#draw(error.message);
    }
  }

  /** Asks for a page, once. */
  #page(from) {
    if (!this.pages.has(from)) {
      const { known, turn, pages } = this;
      const query = new URLSearchParams({ key: $("key").value.trim(), from, count: PAGE });
      if ($("class").value !== "") query.set("label", $("class").value);
      const asked = getJson(`/api/samples?${query}`, turn.signal).then(({ total, samples }) => {
        samples.forEach((sample, at) => (known[from + at] = sample));
        if (turn === this.turn) this.total = total;
      });
      asked.catch(() => pages.delete(from));
      pages.set(from, asked);
    }
    return this.pages.get(from);
  }

  /** The sample at a place among those that fit, or undefined beyond their ends. */
  async at(place) {
    if (place < 0 || (this.total !== null && place >= this.total)) return undefined;
    const { known } = this;
    await this.#page(place - (place % PAGE));
    return known[place];
  }

  /** The place of the chosen image, -1 if it is not among those that fit. */
  get place() {
    return this.known.findIndex((sample) => sample?.id === this.image);
  }

  /** The sample so many places on from the chosen image, or from the start of the page where that is not listed. */
  async beside(steps) {
    const { place } = this;
    return place < 0 ? this.at(this.from) : this.at(place + steps);
  }

  /** Samples that are so many places from the chosen one, where there are such. */
  async around(steps) {
    const { place } = this;
    const samples = place < 0 ? [] : await Promise.all(steps.map((step) => this.at(place + step)));
    return samples.filter(Boolean);
  }

  /** Turns to the page of the chosen image and marks it. */
  async turnTo(image) {
    this.image = image;
    const { place } = this;
    // Without a filter, ids usually are places: so a link's image is found.
    const guess = /^\d+$/.test(image) && $("class").value === "" && $("key").value === "" ? Number(image) : this.from;
    const page = place >= 0 ? place : guess;
    if (this.total === null || page - (page % PAGE) !== this.from) await this.show(page);
    this.#mark();
  }

  #draw(error) {
    const shown = error ? [] : this.known.slice(this.from, this.from + PAGE);
    $("thumbs").replaceChildren(...shown.map((sample) => this.#thumb(sample)));
    const last = Math.min(this.total ?? 0, this.from + PAGE);
    const numbers = [this.from + 1, last, this.total ?? 0].map((number) => number.toLocaleString("en"));
    $("page").textContent =
      error ?? (this.total ? `${numbers[0]} to ${numbers[1]} of ${numbers[2]}` : "no sample fits");
    $("page-back").disabled = this.from === 0;
    $("page-on").disabled = last >= (this.total ?? 0);
    this.#mark();
  }

  #thumb(sample) {
    const said = sample.label === null ? sample.key : `${sample.key}, ${this.nameOf(sample.label)}`;
    const picture = element("img", { src: `/api/image/${sample.id}`, alt: said, title: said, draggable: false });
    picture.classList.toggle("pixels", isSmall(this.run.side));
    const button = element("button", { type: "button", "data-id": sample.id }, picture);
    button.addEventListener("click", () => this.chosen(sample));
    return button;
  }

  #mark() {
    for (const button of document.querySelectorAll(".thumbs button")) {
      button.setAttribute("aria-pressed", button.dataset.id === this.image);
    }
  }

  #uploads() {
    $("upload").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", () => {
      if ($("file").files.length) this.#take($("file").files[0]);
      $("file").value = "";
    });
    const carries = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      $("drop").hidden = !carries(event);
    });
    document.addEventListener(
      "dragleave",
      (event) => ($("drop").hidden = event.relatedTarget === null || $("drop").hidden),
    );
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      $("drop").hidden = true;
      const [file] = event.dataTransfer.files;
      if (file) this.#take(file);
      else say($("upload-error"), "What was dropped is no file: drop an image file.");
    });
  }

  async #take(file) {
    say($("upload-error"), "");
    if (file.size > this.run.upload_bytes) {
      const mebibytes = Math.floor(this.run.upload_bytes / 2 ** 20);
      say($("upload-error"), `${file.name} is larger than ${mebibytes} MiB: choose a smaller file.`);
      return;
    }
    $("upload").disabled = true;
    try {
      const sample = await upload(file);
      this.own.push(sample);
      $("uploads").append(this.#thumb(sample));
      $("uploads").hidden = false;
      this.chosen(sample);
    } catch (error) {
      say($("upload-error"), `${file.name}: ${error.message}`);
    } finally {
      $("upload").disabled = false;
    }
  }
}
