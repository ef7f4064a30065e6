// The keyboard: which key changes what.

import { $ } from "./dom.js";
import { MAPS, hasHeads, hasLayers } from "./maps.js";

/** Points of opacity for each press. */
const OPACITY = 10;
const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** Whether a control has a use of its own for letters, or for arrows. */
const takesLetters = (target) => target.matches("select, input:not([type=radio], [type=checkbox], [type=range])");
const takesArrows = (target) => target.matches("select, input:not([type=checkbox])");

function move(app, [down, right]) {
  const { grid } = app.run;
  const { patch } = app.state;
  if (patch === null) {
    const middle = Math.floor(grid / 2);
    return app.set({ patch: middle * grid + middle });
  }
  const within = (place) => Math.max(0, Math.min(grid - 1, place));
  app.set({ patch: within(Math.floor(patch / grid) + down) * grid + within((patch % grid) + right) });
}

/** The heads in turn, then their mean. */
function nextHead(app, steps) {
  const { heads } = app.run;
  const { head, map } = app.state;
  if (!hasHeads(map)) return;
  const turns = heads + 1;
  const place = head === "mean" ? heads : head === "all" ? (steps > 0 ? heads : 0) : head;
  const next = (place + steps + turns) % turns;
  app.set({ head: next === heads ? "mean" : next });
}

function nextLayer(app, steps) {
  const layer = app.state.layer + steps;
  if (hasLayers(app.state.map) && layer >= 0 && layer < app.run.layers) app.set({ layer });
}

function nextMap(app) {
  if (app.run.layers === 0) return;
  const maps = Object.keys(MAPS);
  app.set({ map: maps[(maps.indexOf(app.state.map) + 1) % maps.length] });
}

const KEYS = {
  Escape: (app) => app.set({ patch: null }),
  n: (app) => app.step(1),
  p: (app) => app.step(-1),
  b: (app) => app.back(),
  "[": (app) => nextLayer(app, -1),
  "]": (app) => nextLayer(app, 1),
  h: (app) => nextHead(app, 1),
  H: (app) => nextHead(app, -1),
  a: (app) => hasHeads(app.state.map) && app.set({ head: app.state.head === "all" ? "mean" : "all" }),
  m: nextMap,
  "+": (app) => app.set({ opacity: Math.min(100, app.state.opacity + OPACITY) }),
  "=": (app) => app.set({ opacity: Math.min(100, app.state.opacity + OPACITY) }),
  "-": (app) => app.set({ opacity: Math.max(0, app.state.opacity - OPACITY) }),
  "?": () => $("help").showModal(),
};

export function listen(app) {
  $("help-open").addEventListener("click", () => $("help").showModal());
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    // Many keyboards have brackets behind AltGr, which counts as Ctrl and Alt.
    const commands = (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState("AltGraph");
    if (commands || $("help").open) return;
    const isMove = key in MOVES;
    const taken = isMove ? takesArrows(target) : takesLetters(target) && key !== "Escape";
    // An open list or a search text has its own use for Escape.
    if (taken || (key === "Escape" && takesLetters(target)) || (!isMove && !(key in KEYS))) return;
    event.preventDefault();
    if (app.state.image === null) {
      if (key === "?") KEYS[key](app);
      return;
    }
    if (isMove) move(app, MOVES[key]);
    else KEYS[key](app);
  });
}
