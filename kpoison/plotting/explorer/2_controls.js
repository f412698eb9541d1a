/* Lists, sliders and thresholds. */

// --- What the controls say ---

const state = { place: {}, thresholds: {} };
for (const [name, dim] of dims) state.place[name] = dim.numeric ? Math.floor(dim.size / 2) : 0;

function fill(id, options, chosen) {
  const select = byId(id);
  select.replaceChildren(...options.map(([value, words]) => new Option(words, value)));
  select.value = options.some(([value]) => value === chosen) ? chosen : options[0]?.[0] ?? "";
  select.closest("label").hidden = options.length < 2;
  return select.value;
}

const first = (names, otherwise) => names.find((name) => quantities.has(name)) ?? otherwise;
const drawable = [...quantities.values()].filter((quantity) => wide(quantity).length > 0);
const named = (list) => list.map(({ name }) => [name, spelt(name)]);

state.quantity = fill("quantity", named(drawable), first(["spike", "success", "efficacy"], ""));
state.scale = byId("scale").value = quantities.get(state.quantity).dtype === "int8" || spread(state.quantity) < 30
  ? "linear" : "log";
state.each = [...dims.values()].find((dim) => !dim.numeric && dim.size > 1)?.name ?? "";

function spread(name) {
  const [low, high] = magnitudes(quantities.get(name).data);
  return high / low;
}

/* Smallest and largest magnitude that is neither 0 nor ∞. */
function magnitudes(values) {
  let [low, high] = [Infinity, 0];
  for (const value of values) {
    const size = Math.abs(value);
    if (size > 0 && size < Infinity) [low, high] = [Math.min(low, size), Math.max(high, size)];
  }
  return high > 0 ? [low, high] : [1, 1];
}

/* Axes that this quantity has; those chosen before are kept where it has them. */
function chooseAxes() {
  const options = wide(quantities.get(state.quantity)).map((name) => [name, spelt(name)]);
  const usual = ["r_over_l", "gradient_penalty", "defence"];
  const across = state.across ?? usual.find((name) => options.some(([value]) => value === name));
  state.across = fill("across", options, across);
  const others = options.filter(([name]) => name !== state.across);
  const preferred = ["m", "time", "attack"].find((name) => others.some(([value]) => value === name));
  state.up = fill("up", others, others.some(([name]) => name === state.up) ? state.up : preferred);
  byId("up").closest("label").hidden = others.length < 1;
  state.each = fill("each", [["", "no other: the cross-hair's alone"], ...options], state.each);
  makeSliders();
}

function chooseLaws() {
  const options = named(drawable);
  const chosen = state.lawAcross ?? first(["efficacy", "predicted_success"], drawable[0].name);
  state.lawAcross = fill("law-across", options, chosen);
  const other = drawable.find(({ name }) => name !== state.lawAcross);
  byId("laws").hidden = other === undefined;
  state.lawUp = fill("law-up", options, state.lawUp ?? first(["spike", "success"], other?.name));
  const both = [state.lawAcross, state.lawUp].flatMap((name) => wide(quantities.get(name)));
  const preferred = ["m", "gradient_penalty"].find((name) => both.includes(name));
  state.along = fill("along", [...new Set(both)].map((name) => [name, spelt(name)]), state.along ?? preferred);
}

/* The dimensions on which something that is drawn depends. */
function used() {
  const drawn = [state.quantity, state.lawAcross, state.lawUp, ...Object.values(state.thresholds).map((t) => t.of)];
  const names = drawn.filter((name) => quantities.has(name)).flatMap((name) => wide(quantities.get(name)));
  return [...dims.keys()].filter((name) => names.includes(name));
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function makeSliders() {
  const kept = document.activeElement?.id;
  byId("sliders").replaceChildren(...used().map(slider));
  if (kept) byId(kept)?.focus();
}

function slider(name) {
  const dim = dims.get(name);
  const id = `place-${name}`;
  const label = element("label", { htmlFor: id, title: dim.label }, spelt(name));
  if (!dim.numeric) {
    const select = element("select", { id }, ...dim.values.map((value, index) => new Option(value, index)));
    select.value = state.place[name];
    select.oninput = () => moved(name, Number(select.value));
    return element("div", { className: "dial" }, label, select);
  }
  const input = element("input", { id, type: "range", min: 0, max: dim.size - 1, step: 1 });
  input.value = state.place[name];
  input.oninput = () => moved(name, Number(input.value));
  const output = element("output", { id: `${id}-said` });
  output.htmlFor.add(id);
  return element("div", { className: "dial" }, label, output, input);
}

function moved(name, index) {
  state.place[name] = index;
  soon();
}

function showPlace() {
  for (const name of used()) {
    const input = byId(`place-${name}`);
    if (!input) continue;
    input.value = state.place[name];
    if (!dims.get(name).numeric) continue;
    const words = coordinate(name, state.place[name]);
    input.setAttribute("aria-valuetext", words);
    byId(`place-${name}-said`).textContent = words;
  }
}

// --- Thresholds ---

function makeThresholds() {
  for (const [key, words, names] of [["success", "succeeds", SUCCESS], ["visible", "visible", VISIBLE]]) {
    const id = `threshold-${key}`;
    const select = element("select", { id: `${id}-of` }, new Option("(none)", ""));
    select.append(...drawable.map(({ name }) => new Option(`|${spelt(name)}|`, name)));
    select.setAttribute("aria-label", `${words} by`);
    const number = element("input", { id: `${id}-number`, type: "number", step: "any", min: 0 });
    number.setAttribute("aria-label", `${words} from this value on`);
    const input = element("input", { id, type: "range", min: 0, max: 1000, step: 1 });
    input.setAttribute("aria-label", `threshold: ${words}`);
    const label = element("label", { htmlFor: id }, `${words} from`);
    byId("thresholds").append(element("div", { className: "dial" }, label, number, select, input));

    const set = (value) => {
      state.thresholds[key] = { of: select.value, value };
      const [low, high] = limits(select.value);
      input.value = Math.round((1000 * Math.log(value / low)) / Math.log(high / low));
      input.setAttribute("aria-valuetext", inWords(value, quantities.get(select.value)?.units));
      soon();
    };
    const choose = (of) => {
      select.value = of;
      number.disabled = input.disabled = !of;
      if (!of) {
        delete state.thresholds[key];
        makeSliders();
        return soon();
      }
      const [low, high] = limits(of);
      const usual = USUAL[of];
      number.value = usual > low && usual < high ? usual : rounded(Math.sqrt(low * high));
      set(Number(number.value));
      makeSliders();
    };
    select.oninput = () => choose(select.value);
    input.oninput = () => {
      const [low, high] = limits(select.value);
      number.value = rounded(low * (high / low) ** (input.value / 1000));
      set(Number(number.value));
    };
    number.oninput = () => Number(number.value) > 0 && set(Number(number.value));
    choose(first(names, ""));
  }
  byId("thresholds").hidden = drawable.length === 0;
}

const rounded = (value) => Number(value.toPrecision(3));

function limits(name) {
  if (!quantities.has(name)) return [1, 10];
  const [low, high] = magnitudes(quantities.get(name).data);
  return high > low * 1.001 ? [Math.max(low, high * 1e-12), high] : [low / 10, high * 10];
}

/* How far a value is above its threshold: 0 at it, by its logarithm where that is drawn. */
function margin(value, threshold) {
  if (Number.isNaN(value)) return NaN;
  const size = Math.abs(value);
  if (state.scale === "linear") return size === Infinity ? 1e300 : size - threshold;
  return Math.min(700, Math.max(-700, Math.log(size / threshold)));
}

function marginAt(key, place) {
  const threshold = state.thresholds[key];
  return threshold ? margin(valueAt(quantities.get(threshold.of), place), threshold.value) : NaN;
}
