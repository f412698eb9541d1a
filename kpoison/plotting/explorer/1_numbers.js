/* The numbers of the page, and how they are said.

The files 1 to 5 are one function: `state` is what the controls say, and `draw` makes every picture of it.  A place is an
index for each dimension.  All axes are linear in the positions of their dimension (see _numbers.py), so that contours are
interpolated as they are seen. */

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]; // Okabe and Ito
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const TYPES = { float64: Float64Array, float32: Float32Array, int8: Int8Array };
const SUCCESS = ["efficacy", "attack_success_rate", "success"]; // what has a threshold, if it is there
const VISIBLE = ["spike", "fisher_eigenvalue", "auroc"];
const USUAL = { efficacy: 0.5, spike: 1e-3, success: 0.5, attack_success_rate: 0.5 };
const NOT_DRAWN = -400; // the logarithm of 0: below every colour
const HEIGHT = () => (innerWidth < 600 ? 260 : 420); // of the map, in pixels
const byId = (id) => document.getElementById(id);

// --- The numbers ---

const held = JSON.parse(byId("held").textContent);
const dims = new Map(held.dimensions.map((dim) => [dim.name, { ...dim, size: dim.values.length }]));
const quantities = new Map(held.quantities.map((quantity) => [quantity.name, unpacked(quantity)]));

function unpacked(quantity) {
  const bytes = Uint8Array.from(atob(quantity.data), (letter) => letter.charCodeAt(0));
  const strides = {};
  let stride = 1;
  for (const name of [...quantity.dims].reverse()) {
    strides[name] = stride;
    stride *= dims.get(name).size;
  }
  return { ...quantity, data: new TYPES[quantity.dtype](bytes.buffer), strides };
}

function valueAt(quantity, place) {
  let index = 0;
  for (const name of quantity.dims) index += place[name] * quantity.strides[name];
  return quantity.data[index];
}

const wide = (quantity) => quantity.dims.filter((name) => dims.get(name).size > 1);
const range = (number) => Array.from({ length: number }, (_, index) => index);

/* Values along a dimension through a place; over two, as rows. */
const line = (quantity, along, place) =>
  range(dims.get(along).size).map((index) => valueAt(quantity, { ...place, [along]: index }));
const plane = (quantity, across, up, place) =>
  range(dims.get(up).size).map((index) => line(quantity, across, { ...place, [up]: index }));

// --- Words ---

function inWords(value, units = "") {
  if (Number.isNaN(value)) return "no result";
  if (!Number.isFinite(value)) return value > 0 ? "never (∞)" : "−∞";
  const size = Math.abs(value);
  const digits = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(3) : `${+value.toPrecision(4)}`;
  return digits.replaceAll("-", "−") + (units && ` ${units}`);
}

const allDigits = (value) =>
  Number.isNaN(value) ? "nan" : Number.isFinite(value) ? String(value) : value > 0 ? "inf" : "-inf";
const SPELT = { r_over_l: "r/ℓ", gradient_penalty: "penalty γ" };
const spelt = (name) => SPELT[name] ?? name.replaceAll("_", " ");
const titled = ({ label, units }) => (units ? `${label} [${units}]` : label);

function coordinate(name, index) {
  const dim = dims.get(name);
  if (!dim.numeric) return dim.values[index];
  return dim.values[index] === "inf" ? "∞" : inWords(Number(dim.values[index]), dim.units);
}

/* Words in lines of a width in pixels, for titles, which Plotly does not break. */
function broken(words, pixels) {
  const letters = Math.max(20, Math.floor(pixels / 7.8));
  const lines = [""];
  for (const word of words.split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= letters) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) && " ") + word;
  }
  return lines.map((text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")).join("<br>");
}
