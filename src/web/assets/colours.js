// Colour scales: tables from the least value to the greatest, and how a map is painted by one.

// Eighteen points of matplotlib's viridis and magma, evenly spread; between them nothing is off by more than 5 of 255.
const POINTS = {
  viridis:
    "440154481769472a7a433d843d4e8a355e8d2e6d8e297b8e23898e1f978b21a5852eb37c46c06f65cb5e89d548b0dd2fd8e219fde725",
  magma: "0000040907201a10423111654a1079621980792282912b81aa337dc23b75d9466bec5860f7725cfc8e64feaa74fec68afde2a3fcfdbf",
  grey: "000000ffffff",
};
const LEVELS = 256;
const tables = new Map();

export const COLOURS = Object.keys(POINTS);

/** Red, green and blue of each of 256 levels. */
function table(name) {
  if (!tables.has(name)) {
    const bytes = POINTS[name].match(/../g).map((two) => parseInt(two, 16));
    const spans = bytes.length / 3 - 1;
    const level = (channel, at) => {
      const place = (at / (LEVELS - 1)) * spans;
      const before = Math.min(Math.floor(place), spans - 1);
      const [from, to] = [bytes[3 * before + channel], bytes[3 * before + 3 + channel]];
      return from + (to - from) * (place - before);
    };
    const values = Array.from({ length: 3 * LEVELS }, (_, place) => level(place % 3, Math.floor(place / 3)));
    tables.set(name, Uint8ClampedArray.from(values));
  }
  return tables.get(name);
}

/** Paints `grid * grid` values, a pixel for each, onto a canvas of that size. */
export function paint(canvas, values, [least, most], name) {
  const grid = Math.round(Math.sqrt(values.length));
  const colours = table(name);
  const image = new ImageData(grid, grid);
  const scale = most > least ? (LEVELS - 1) / (most - least) : 0;
  values.forEach((value, place) => {
    const level = Math.max(0, Math.min(LEVELS - 1, Math.round((value - least) * scale)));
    image.data.set([colours[3 * level], colours[3 * level + 1], colours[3 * level + 2], 255], 4 * place);
  });
  if (canvas.width !== grid || canvas.height !== grid) [canvas.width, canvas.height] = [grid, grid];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Paints the scale itself, a pixel for each level. */
export function paintBar(canvas, name) {
  const colours = table(name);
  const image = new ImageData(LEVELS, 1);
  for (let level = 0; level < LEVELS; level += 1) {
    image.data.set([...colours.subarray(3 * level, 3 * level + 3), 255], 4 * level);
  }
  [canvas.width, canvas.height] = [LEVELS, 1];
  canvas.getContext("2d").putImageData(image, 0, 0);
}
