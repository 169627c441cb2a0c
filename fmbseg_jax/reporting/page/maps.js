// Photos are scripts, not pictures: from disk, a page may not read the pixels of an image file.
const waiting = new Map();
const held = new Map();
const HELD = 30;

function fmbsegPhoto(key, fields) {
  unpack(fields).then(waiting.get(key).resolve, waiting.get(key).reject);
}
// The photo's numbers, as report_photo.payload packs them; the last HELD photos stay in memory.
function load(key) {
  if (held.has(key)) {
    const again = held.get(key);
    held.delete(key);
    held.set(key, again);
    return again;
  }
  const promise = new Promise((resolve, reject) => {
    waiting.set(key, { resolve, reject });
    const script = el("script", { src: `files/${key}.js`, onload: () => script.remove(), onerror: () => reject(new Error(`files/${key}.js cannot be read`)) });
    document.head.append(script);
  });
  held.set(key, promise);
  if (held.size > HELD) held.delete(held.keys().next().value);
  return promise;
}
async function unpack(fields) {
  const packed = Uint8Array.from(atob(fields.bytes), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const [height, width] = fields.size, [rows, columns] = fields.grid;
  let at = 0;
  const take = (count) => bytes.subarray(at, (at += count));
  const none = fields.planes === 1 ? 255 : 65535;
  const maps = {};
  for (const name of fields.maps) {
    const map = new Int16Array(height * width);
    for (let plane = 0; plane < fields.planes; plane++) {
      const part = take(height * width);
      for (let i = width; i < part.length; i++) part[i] = part[i] + part[i - width];
      for (let i = 0; i < part.length; i++) map[i] += part[i] << (8 * plane);
    }
    for (let i = 0; i < map.length; i++) if (map[i] === none) map[i] = -1;
    maps[name] = map;
  }
  const masks = Array.from({ length: fields.masks }, () => once(take(Math.ceil((height * width) / 8)), (packed) => bits(packed, width, height)));
  const similarity = {};
  for (const name of ["before", "after"]) {
    similarity[name] = new Map(fields.similarity.map((c) => [c, take(rows * columns)]));
  }
  return { height, width, rows, columns, maps, masks, similarity, points: fields.points, range: fields.range, classes: fields.similarity };
}
// Masks are many, and few of them are looked at.
function once(packed, make) {
  let made;
  return () => (made ??= make(packed));
}
function bits(packed, width, height) {
  const mask = new Uint8Array(width * height);
  for (let i = 0; i < mask.length; i++) mask[i] = ((packed[i >> 3] >> (7 - (i & 7))) & 1) ^ (i < width ? 0 : mask[i - width]);
  return mask;
}

function rgb(colour) {
  const n = parseInt(colour.slice(1), 16);
  return [n >> 16, (n >> 8) & 255, n & 255];
}
const COLOURS = REPORT.classes.map((c) => rgb(c.colour));
// Anchors of viridis: even steps of lightness, for every kind of eyes.
const HEAT = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725"];
const HEAT_TABLE = Array.from({ length: 256 }, (_, v) => {
  const place = (v / 255) * (HEAT.length - 1), i = Math.min(HEAT.length - 2, Math.floor(place));
  const [a, b] = [rgb(HEAT[i]), rgb(HEAT[i + 1])];
  return a.map((x, k) => Math.round(x + (b[k] - x) * (place - i)));
});

function paint(canvas, width, height, pixel) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b, a] = pixel(i);
    image.data[4 * i] = r, image.data[4 * i + 1] = g, image.data[4 * i + 2] = b, image.data[4 * i + 3] = a;
  }
  context.putImageData(image, 0, 0);
}
const hatch = (i, width, scale) => ((i % width) + Math.floor(i / width)) % (6 * scale) < 2 * scale ? [95, 102, 108, 255] : [214, 218, 221, 235];
const edge = (map, i, width) => (i % width && map[i] !== map[i - 1]) || (i >= width && map[i] !== map[i - width]);

function drawMap(canvas, photo, name) {
  const map = photo.maps[name], { width, height } = photo, scale = Math.max(1, Math.round(width / 200));
  paint(canvas, width, height, (i) => {
    if (map[i] < 0) return hatch(i, width, scale);
    const colour = COLOURS[map[i]] ?? [128, 128, 128];
    return edge(map, i, width) ? [...colour.map((v) => v * 0.3), 255] : [...colour, 255];
  });
}
// What the head says where it is wrong; all else is veiled.
function drawMistakes(canvas, photo) {
  const { head, truth } = photo.maps, { width, height } = photo, scale = Math.max(1, Math.round(width / 200));
  paint(canvas, width, height, (i) => {
    if (truth[i] < 0) return hatch(i, width, scale);
    return truth[i] === head[i] ? [0, 0, 0, 0] : [...(COLOURS[head[i]] ?? [128, 128, 128]), 255];
  });
}
function drawSimilarity(canvas, photo, name, index) {
  const values = photo.similarity[name].get(index);
  paint(canvas, photo.columns, photo.rows, (i) => [...HEAT_TABLE[values[i]], 255]);
}
// Masks of a class's query points, small over large.
function drawMasks(canvas, photo, index) {
  const { width, height } = photo, shown = pointsOf(photo, index);
  const sizes = new Map(shown.map((point) => [point[3], photo.masks[point[3]]().reduce((sum, bit) => sum + bit, 0)]));
  const order = [...shown].sort((a, b) => sizes.get(b[3]) - sizes.get(a[3]));
  const owner = new Int32Array(width * height).fill(-1);
  order.forEach((point, rank) => {
    const mask = photo.masks[point[3]]();
    for (let i = 0; i < owner.length; i++) if (mask[i]) owner[i] = rank;
  });
  paint(canvas, width, height, (i) => {
    if (owner[i] < 0) return [20, 24, 28, 150];
    const colour = COLOURS[order[owner[i]][0]];
    return edge(owner, i, width) ? [...colour.map((v) => v * 0.3), 255] : [...colour, 170];
  });
}
const pointsOf = (photo, index) => photo.points.filter((point) => point[0] === index);

function stars(photo, points) {
  const { width, height } = photo, r = Math.max(width, height) / 30;
  const outline = Array.from({ length: 10 }, (_, k) => {
    const [angle, reach] = [(Math.PI * k) / 5 - Math.PI / 2, k % 2 ? r * 0.42 : r];
    return `${Math.cos(angle) * reach},${Math.sin(angle) * reach}`;
  }).join(" ");
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, points.map(([c, x, y]) =>
    svg("polygon", { points: outline, transform: `translate(${x * width} ${y * height})`, fill: colourOf(c), stroke: "#fff", "stroke-width": r / 5, "paint-order": "stroke" })));
}
// Index of the pixel at shares (x, y) of the photo's sides.
const pixelAt = (photo, x, y) => Math.min(photo.height - 1, Math.floor(y * photo.height)) * photo.width + Math.min(photo.width - 1, Math.floor(x * photo.width));
