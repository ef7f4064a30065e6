// What the page asks the server for: errors in words, one request for each thing however many want it, and the latest
// answers kept within a bound of bytes.

/** An error that the server explains. `status` is 0 where nobody answered. */
export class Refused extends Error {
  constructor(status, why, said = {}) {
    super(why);
    Object.assign(this, { status, said });
  }
}

export const aborted = (error) => error?.name === "AbortError";

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (aborted(error)) throw error;
    throw new Refused(0, "The server does not answer. Is `saccade view` still running?");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refused(response.status, said.error ?? `The server answered ${response.status} to ${path}.`, said);
}

export async function getJson(path, signal) {
  return (await ask(path, { signal })).json();
}

export async function upload(file) {
  const headers = { "x-file-name": encodeURIComponent(file.name) };
  return (await ask("/api/upload", { method: "POST", body: file, headers })).json();
}

/** Answers by path, the latest used last; the first are dropped when they are more than `limit` bytes together. */
export class Answers {
  #kept = new Map();
  #asked = new Map();

  constructor(limit) {
    this.limit = limit;
    this.bytes = 0;
  }

  get paths() {
    return [...this.#kept.keys()];
  }

  has(path) {
    return this.#kept.has(path);
  }

  /** Numbers (`Float32Array`) or an image (`ImageBitmap`), by what the server sends. */
  async load(path, signal, priority = "auto") {
    const kept = this.#kept.get(path);
    if (kept) {
      this.#kept.delete(path);
      this.#kept.set(path, kept);
      return kept.value;
    }
    signal.throwIfAborted();
    const asked = this.#asked.get(path) ?? this.#ask(path, priority);
    asked.waiting += 1;
    // The request ends when nobody waits for it any more.
    return new Promise((resolve, reject) => {
      const leave = () => {
        asked.waiting -= 1;
        if (asked.waiting === 0) {
          this.#asked.delete(path);
          asked.controller.abort();
        }
        reject(signal.reason);
      };
      signal.addEventListener("abort", leave, { once: true });
      const done = (settle) => (result) => {
        signal.removeEventListener("abort", leave);
        settle(result);
      };
      asked.answer.then(done(resolve), done(reject));
    });
  }

  #ask(path, priority) {
    const controller = new AbortController();
    const asked = { controller, waiting: 0 };
    asked.answer = this.#fetch(path, { signal: controller.signal, priority }).finally(() => {
      if (this.#asked.get(path) === asked) this.#asked.delete(path);
    });
    this.#asked.set(path, asked);
    return asked;
  }

  async #fetch(path, options) {
    const response = await ask(path, options);
    if (response.headers.get("content-type")?.startsWith("image/")) {
      const image = await createImageBitmap(await response.blob());
      return this.#keep(path, image, 4 * image.width * image.height);
    }
    const bytes = await response.arrayBuffer();
    return this.#keep(path, new Float32Array(bytes), bytes.byteLength);
  }

  #keep(path, value, bytes) {
    this.#kept.set(path, { value, bytes });
    this.bytes += bytes;
    for (const [old, { bytes: freed }] of this.#kept) {
      if (this.bytes <= this.limit || old === path) break;
      this.#kept.delete(old);
      this.bytes -= freed;
    }
    return value;
  }
}
