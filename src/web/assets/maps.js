// Maps from what the server sends: numbers to numbers, and their words. Knows nothing of the page.

/** The maps that can be chosen, and what they are called. */
export const MAPS = { to: "attends to", by: "attended by", rollout: "rollout", similarity: "similarity" };

export const hasHeads = (map) => map === "to" || map === "by";
export const hasLayers = (map) => map !== "similarity";

/** The path under which the numbers of a map lie. */
export function pathOf({ image, map, layer }) {
  if (map === "similarity") return `/api/similarity/${image}`;
  return `/api/${map === "rollout" ? "rollout" : "attention"}/${image}/${layer}`;
}

/** One map of `places` values from the matrix `[places, places]` that begins at `start`. */
function mapAt(numbers, start, places, by, patch) {
  if (patch !== null && !by) return numbers.slice(start + patch * places, start + (patch + 1) * places);
  const map = new Float32Array(places);
  if (patch !== null) {
    for (let row = 0; row < places; row += 1) map[row] = numbers[start + row * places + patch];
    return map;
  }
  const sums = new Float64Array(places);
  for (let row = 0; row < places; row += 1) {
    for (let column = 0; column < places; column += 1) sums[column] += numbers[start + row * places + column];
  }
  return map.map((_, column) => sums[column] / places);
}

/** The map of each head, or the only one. `numbers` is `[heads, places, places]`. */
export function mapsOf(numbers, places, map, patch) {
  const heads = numbers.length / (places * places);
  return Array.from({ length: heads }, (_, head) =>
    mapAt(numbers, head * places * places, places, map === "by", patch),
  );
}

export function meanOf(maps) {
  return maps[0].map((_, place) => maps.reduce((sum, map) => sum + map[place], 0) / maps.length);
}

export function rangeOf(values) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) [least, most] = [Math.min(least, value), Math.max(most, value)];
  return [least, most];
}

/** From which value to which the colours go. `maps` are those of all heads of the layer. */
export function scaleOf(map, maps, scale, kind) {
  if (scale === "own") return rangeOf(map);
  return [0, kind === "similarity" ? 1 : Math.max(...maps.map((each) => rangeOf(each)[1]))];
}

export function number(value) {
  if (value === 0) return "0";
  return Math.abs(value) < 0.001 ? value.toExponential(2).replace("-", "−") : value.toFixed(4).replace("-", "−");
}

/** A patch's name, counted from 1. */
export function patchName(patch, grid) {
  return `patch row ${Math.floor(patch / grid) + 1}, column ${(patch % grid) + 1}`;
}

/** Which layer and head, as one says it. */
export function placeName({ layer, head }, run) {
  const heads = { mean: `mean of ${run.heads} heads`, all: `all ${run.heads} heads` };
  const which = heads[head] ?? `head ${head + 1} of ${run.heads}`;
  return `${run.layer_name} ${layer + 1}, ${run.heads === 1 && head !== "all" ? "the only head" : which}`;
}

/** What is being seen, in one line. */
export function captionOf(state, run) {
  const over = run.side - run.covered;
  const rest = `; no place stands for the last ${over} pixels at the right and at the bottom`;
  return mapCaption(state, run) + (over > 0 ? rest : "");
}

function mapCaption(state, run) {
  const { map, patch, layer } = state;
  const places = run.grid ** 2;
  const chosen = patch === null ? null : patchName(patch, run.grid);
  if (map === "similarity") {
    return chosen
      ? `final features: how alike ${chosen} and each place are; cosine, 1 is the same direction`
      : "final features: how alike each place and all others are, on average; choose a patch to see its own map";
  }
  if (map === "rollout") {
    const through = layer === 0 ? `${run.layer_name} 1` : `${run.layer_name}s 1 to ${layer + 1}`;
    return chosen
      ? `rollout through ${through}: where the information in ${chosen} comes from; rows sum to 1`
      : `rollout through ${through}: how much of all information comes from each patch, on average; values sum to 1`;
  }
  const place = placeName(state, run);
  if (!chosen) return `${place}: how much attention each patch gets, on average over all ${places}; values sum to 1`;
  if (map === "to") return `${place}: ${chosen} attends to …; rows sum to 1`;
  return `${place}: ${chosen} is attended by …; each value is its share of that patch's attention`;
}
