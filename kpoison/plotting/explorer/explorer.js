/* Draws whatever part of the numbers in #held is asked for.

`state` is what the controls say; `draw` makes every picture of it.  A place is an index for each dimension.  All axes
are linear in the positions of their dimension (see _numbers.py), so that contours are interpolated as they are seen. */
"use strict";
(() => {
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

  // --- The look of a picture ---

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    return { ink: colour("--ink"), paper: colour("--paper"), rule: colour("--rule") };
  }

  function edges(positions) {
    const middle = (i) => (positions[i] + positions[i + 1]) / 2;
    const last = positions.length - 1;
    if (last === 0) return [positions[0] - 0.5, positions[0] + 0.5];
    return [2 * positions[0] - middle(0), ...range(last).map(middle), 2 * positions[last] - middle(last - 1)];
  }

  function axis(name, pixels, { cells = false } = {}) {
    const dim = dims.get(name);
    const { ink, rule } = theme();
    const ends = cells ? edges(dim.positions) : dim.positions;
    let limit = [ends[0], ends.at(-1)];
    if (!cells) limit = limit.map((end, i) => end + (i ? 1 : -1) * 0.03 * (limit[1] - limit[0] || 1));
    return {
      title: { text: broken(titled(dim), pixels), standoff: 8 }, range: dim.downwards ? limit.reverse() : limit,
      tickmode: "array", tickvals: dim.ticks[0], ticktext: dim.ticks[1].map((text) => broken(text, 140)),
      fixedrange: true, zeroline: false, automargin: true, gridcolor: rule, linecolor: ink, ticks: "outside",
      showgrid: !cells,
    };
  }

  function numberAxis(quantity, [low, high]) {
    const { ink, rule } = theme();
    const name = state.scale === "log" ? `|${spelt(quantity.name)}|` : spelt(quantity.name);
    return {
      title: { text: broken(titled({ label: name, units: quantity.units }), 400), standoff: 8 },
      type: state.scale, range: [low, high], fixedrange: true, zeroline: false, automargin: true, gridcolor: rule,
      linecolor: ink, ticks: "outside", exponentformat: "power", nticks: 7,
      dtick: state.scale === "log" && high - low > 2 ? Math.ceil((high - low) / 8) : undefined,
    };
  }

  /* Room for the names of a legend: Plotly puts them into columns as wide as the widest. */
  function legendRows(traces, width) {
    const widths = traces.filter((trace) => trace.showlegend !== false).map(({ name = "" }) => 52 + 6.6 * name.length);
    const total = widths.reduce((a, b) => a + b, 0);
    const columns = total <= width ? widths.length : Math.max(1, Math.floor(width / Math.max(...widths, 1)));
    return Math.ceil(widths.length / Math.max(1, columns));
  }

  /* Makes or changes a picture: of a title, axes of so many pixels of height, and a legend below. */
  function show(id, traces, { title, height, ...rest }) {
    const { ink, paper } = theme();
    const width = byId(id).clientWidth;
    const text = broken(title, width - 25);
    const lines = (words) => words.split("<br>").length;
    const below = 34 + 19 * lines(rest.xaxis.title.text);
    const names = 20 * legendRows(traces, width - 60);
    const margin = { l: 60, r: 15, t: 14 + 18 * lines(text), b: below + names + 8, autoexpand: true };
    const whole = height + margin.t + margin.b;
    byId(id).style.height = `${whole}px`;
    Plotly.react(id, traces, {
      annotations: [{ text, showarrow: false, align: "left", font: { size: 14 }, xref: "paper", yref: "paper", x: 0,
        xanchor: "left", y: 1, yanchor: "bottom", xshift: -50, yshift: 4 }],
      font: { family: "system-ui, sans-serif", size: 13, color: ink }, paper_bgcolor: paper, plot_bgcolor: paper,
      margin, height: whole, dragmode: false, hovermode: "closest", showlegend: true,
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, xanchor: "left",
        font: { size: 12 } }, ...rest,
    }, { displayModeBar: false, responsive: true });
    byId(id).setAttribute("aria-label", title);
  }

  function elsewhere(names) {
    return used()
      .filter((name) => !names.includes(name) && wide(quantities.get(state.quantity)).includes(name))
      .map((name) => `${spelt(name)} = ${coordinate(name, state.place[name])}`)
      .join(", ");
  }

  const logarithm = (value) => (value === 0 ? NOT_DRAWN : Math.log10(Math.abs(value)));
  const drawn = (value) => (!Number.isFinite(value) ? null : state.scale === "log" ? logarithm(value) : value);

  /* Smallest and largest of what is drawn, of a logarithm at most so many decades. */
  function extent(values, decades) {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) {
      const height = drawn(value);
      if (height !== null && height !== NOT_DRAWN) [low, high] = [Math.min(low, height), Math.max(high, height)];
    }
    if (high === -Infinity) return [0, 1];
    const least = state.scale === "log" ? Math.max(low, Math.ceil(high) - decades) : low;
    return high - least > 1e-12 * Math.abs(high) ? [least, high] : [high - 0.5, high + 0.5];
  }

  function padded([low, high]) {
    return [low - 0.05 * (high - low), high + 0.05 * (high - low)];
  }

  function powers([low, high]) {
    const [bottom, top] = [Math.ceil(low - 1e-9), Math.floor(high + 1e-9)];
    const every = Math.max(1, Math.ceil((top - bottom) / 8));
    const kept = range(Math.max(0, top - bottom + 1)).map((i) => bottom + i).filter((power) => power % every === 0);
    if (kept.length < 2) return { tickformat: ".2f", title: { text: "log₁₀", side: "top" } };
    return { tickmode: "array", tickvals: kept, ticktext: kept.map((power) => `10<sup>${power}</sup>`.replace("-", "−")) };
  }

  // --- The map ---

  const RIM = [{ color: "black", width: 4.5 }, { color: "white", width: 2 }]; // is seen on every shade
  const legendLine = (name, dash) => ({
    x: [null], y: [null], mode: "lines", name, line: { color: theme().ink, width: 2.5, dash }, hoverinfo: "skip",
  });
  const marks = (name, x, y, symbol, size, widths = RIM) => widths.map(({ color, width }, i) => ({
    x, y, name, mode: "markers", type: "scatter", hoverinfo: "skip", showlegend: i === 0,
    marker: { symbol, size, color, line: { color, width: width * 0.7 } },
  }));

  function drawMap() {
    const quantity = quantities.get(state.quantity);
    byId("map-figure").hidden = !state.up;
    if (!state.up) return;
    const [across, up] = [dims.get(state.across), dims.get(state.up)];
    const rows = plane(quantity, across.name, up.name, state.place);
    const flat = rows.flat();
    const limit = extent(quantity.data, 10); // of all places, so that a colour keeps its meaning
    const width = byId("map").clientWidth;
    const { ink } = theme();
    const at = { x: across.positions, y: up.positions };
    const traces = [{
      ...at, type: "heatmap", z: rows.map((row) => row.map(drawn)), zmin: limit[0], zmax: limit[1], zsmooth: false,
      text: rows.map((row) => row.map((value) => inWords(value, quantity.units))),
      hovertemplate: "%{text}<extra></extra>", colorscale: "Cividis", showlegend: false,
      colorbar: { thickness: 14, outlinewidth: 0, tickfont: { color: ink }, len: 1, x: 1.01, xpad: 4,
        ...(state.scale === "log" ? powers(limit) : {}) },
    }];
    const planes = {};
    for (const [key, dash] of [["success", "solid"], ["visible", "dash"]]) {
      const threshold = state.thresholds[key];
      if (!threshold) continue;
      planes[key] = plane(quantities.get(threshold.of), across.name, up.name, state.place)
        .map((row) => row.map((value) => margin(value, threshold.value)));
      if (!across.numeric || !up.numeric) {
        const [x, y] = borders(across, up, planes[key]);
        for (const pen of RIM) traces.push({ x, y, mode: "lines", name: key, hoverinfo: "skip", showlegend: false,
          line: { ...pen, dash: pen.color === "white" ? dash : "solid" } });
      } else for (const pen of RIM) {
        traces.push({ ...at, type: "contour", z: planes[key].map((row) => row.map((v) => (Number.isNaN(v) ? null : v))),
          name: key, autocontour: false, contours: { coloring: "none", start: 0, end: 0, size: 1 }, showscale: false,
          line: { ...pen, dash: pen.color === "white" ? dash : "solid", smoothing: 0 }, hoverinfo: "skip",
          showlegend: false, connectgaps: false });
      }
      const verb = key === "success" ? "succeeds" : "visible";
      traces.push(legendLine(`${verb}: |${spelt(threshold.of)}| ≥ ${inWords(threshold.value)}`, dash));
    }
    if (planes.success && planes.visible) {
      const unseen = planes.success.map((row, i) => row.map((value, j) => value >= 0 && planes.visible[i][j] < 0));
      const [x, y] = lattice(across, up, (i, j) => unseen[i][j], width);
      if (x.length) traces.push(...marks("succeeds unseen (near-clone wedge)", x, y, "line-ne-open", 8));
    }
    for (const [name, symbol, what] of [["no result", "x-thin-open", Number.isNaN], ["never (∞)", "triangle-up-open",
      (value) => value === Infinity]]) {
      const [x, y] = lattice(across, up, (i, j) => what(rows[i][j]), width);
      if (x.length) traces.push(...marks(name, x, y, symbol, 8, [{ color: ink, width: 1.8 }]));
    }
    const here = [across.positions[state.place[across.name]], up.positions[state.place[up.name]]];
    traces.push(...marks("cross-hair", [here[0]], [here[1]], "circle-open", 11).map((m) => ({ ...m, showlegend: false })));
    const rule = (pen, vertical) => ({
      type: "line", line: { color: pen.color, width: pen.width / 2, dash: pen.color === "white" ? "dot" : "solid" },
      ...(vertical ? { x0: here[0], x1: here[0], y0: 0, y1: 1, yref: "paper" }
        : { y0: here[1], y1: here[1], x0: 0, x1: 1, xref: "paper" }),
    });
    const where = elsewhere([across.name, up.name]);
    show("map", traces, {
      title: `${quantity.label}${where && `; ${where}`}`,
      height: HEIGHT(), xaxis: axis(across.name, width - 140, { cells: true }),
      yaxis: axis(up.name, HEIGHT(), { cells: true }),
      shapes: RIM.flatMap((pen) => [rule(pen, true), rule(pen, false)]),
    });
    followPointer();
    const missing = flat.filter(Number.isNaN).length;
    const endless = flat.filter((value) => value === Infinity).length;
    const said = [missing && `${missing} of ${flat.length} numbers of this map are no result (×)`,
      endless && `${endless} of ${flat.length} are never reached (△)`].filter(Boolean);
    notice(said.join("; "));
  }

  /* Between cells of which one is above its threshold and one is not: names have nothing to interpolate between. */
  function borders(across, up, margins) {
    const [columns, rows] = [edges(across.positions), edges(up.positions)];
    const [x, y] = [[], []];
    const differ = (a, b) => !Number.isNaN(a) && !Number.isNaN(b) && a >= 0 !== b >= 0;
    margins.forEach((row, i) => row.forEach((value, j) => {
      if (j > 0 && differ(value, row[j - 1])) {
        x.push(columns[j], columns[j], null);
        y.push(rows[i], rows[i + 1], null);
      }
      if (i > 0 && differ(value, margins[i - 1][j])) {
        x.push(columns[j], columns[j + 1], null);
        y.push(rows[i], rows[i], null);
      }
    }));
    return [x, y];
  }

  /* Marks evenly over a map, as the strokes of a hatching, in those cells for which it is asked. */
  function lattice(across, up, asked, width) {
    const [x, y] = [[], []];
    const [columns, rows] = [edges(across.positions), edges(up.positions)];
    const cell = (ends, place) => Math.max(0, Math.min(ends.length - 2, ends.findIndex((end) => end > place) - 1));
    const number = [Math.max(14, Math.round(width / 22)), 20];
    const [left, bottom] = [columns[0], rows[0]];
    const step = [(columns.at(-1) - left) / number[0], (rows.at(-1) - bottom) / number[1]];
    for (const j of range(number[1])) {
      const place = bottom + (j + 0.5) * step[1];
      const row = cell(rows, place);
      for (const i of range(number[0])) {
        const where = left + (i + (j % 2 ? 0.75 : 0.25)) * step[0];
        if (asked(row, cell(columns, where))) {
          x.push(where);
          y.push(place);
        }
      }
    }
    return [x, y];
  }

  function notice(words) {
    const rounded = [...quantities.values()].some((quantity) => quantity.rounded);
    const all = [words, rounded && "numbers are in single precision, for lack of room"].filter(Boolean).join("; ");
    byId("notice").hidden = !all;
    if (byId("notice").textContent !== all) byId("notice").textContent = all;
  }

  // --- Curves ---

  /* Places of the curves of a family, the cross-hair's among them, at most as many as there are colours. */
  function family(along, ...drawn) {
    const differ = state.each !== along && drawn.some((quantity) => wide(quantity).includes(state.each));
    const each = differ ? dims.get(state.each) : null;
    if (!each) return [{ place: state.place, name: "", here: true }];
    const most = Math.min(each.size, COLOURS.length);
    const here = state.place[each.name];
    const chosen = range(most).map((i) => Math.round((i * (each.size - 1)) / Math.max(1, most - 1)));
    if (!chosen.includes(here)) {
      const nearest = chosen.reduce((a, b) => (Math.abs(b - here) < Math.abs(a - here) ? b : a));
      chosen[chosen.indexOf(nearest)] = here;
    }
    return chosen.map((index) => ({
      place: { ...state.place, [each.name]: index }, here: index === here,
      name: `${spelt(each.name)} = ${coordinate(each.name, index)}`,
    }));
  }

  function curve(x, y, { name, here }, index) {
    const color = COLOURS[index % COLOURS.length];
    return { x, y, name, type: "scatter", mode: x.length > 60 ? "lines" : "lines+markers", showlegend: name !== "",
      line: { color, width: here ? 3 : 1.6, dash: DASHES[index % DASHES.length] }, marker: { size: 5 },
      connectgaps: false };
  }

  const plotted = (value) => (!Number.isFinite(value) ? null : state.scale === "log"
    ? (value === 0 ? null : Math.abs(value)) : value);

  function drawSection(id, name) {
    const quantity = quantities.get(state.quantity);
    const dim = dims.get(name);
    const { ink } = theme();
    const curves = family(name, quantity).map((member) => ({ ...member, values: line(quantity, name, member.place) }));
    const limit = padded(extent(curves.flatMap(({ values }) => values), 16));
    const ends = limit.map((end) => (state.scale === "log" ? 10 ** end : end));
    const traces = curves.map((member, index) => ({
      ...curve(dim.positions, member.values.map(plotted), member, index),
      text: member.values.map((value, i) => `${coordinate(name, i)}: ${inWords(value, quantity.units)}`),
      hovertemplate: `%{text}<extra>${broken(member.name, 300)}</extra>`,
    }));
    const gone = (words, symbol, what, height) => {
      const at = curves.flatMap(({ values }) => range(values.length).filter((i) => what(values[i])));
      if (at.length) traces.push(...marks(words, at.map((i) => dim.positions[i]), at.map(() => height), symbol, 8,
        [{ color: ink, width: 1.8 }]));
    };
    gone("no result", "x-thin-open", Number.isNaN, ends[0]);
    gone("never (∞)", "triangle-up-open", (value) => value === Infinity, ends[1]);
    const here = dim.positions[state.place[name]];
    const value = plotted(valueAt(quantity, state.place));
    if (value !== null) traces.push({ x: [here], y: [value], mode: "markers", hoverinfo: "skip", showlegend: false,
      marker: { symbol: "circle-open", size: 13, color: ink, line: { width: 2 } } });
    const shapes = [{ type: "line", x0: here, x1: here, y0: 0, y1: 1, yref: "paper",
      line: { color: ink, width: 1, dash: "dot" } }];
    for (const [key, dash] of [["success", "solid"], ["visible", "dash"]]) {
      const threshold = state.thresholds[key];
      if (threshold?.of !== quantity.name) continue;
      shapes.push({ type: "line", x0: 0, x1: 1, xref: "paper", y0: threshold.value, y1: threshold.value,
        line: { color: ink, width: 1.5, dash } });
      traces.push(legendLine(`${key === "success" ? "succeeds" : "visible"} above`, dash));
    }
    const where = elsewhere([name, state.each]);
    show(id, traces, { title: `${spelt(quantity.name)} along ${spelt(name)}${where && `; ${where}`}`, height: 220,
      xaxis: axis(name, byId(id).clientWidth - 90), yaxis: numberAxis(quantity, limit), shapes });
  }

  function drawLaws() {
    if (byId("laws").hidden) return;
    const [x, y] = [quantities.get(state.lawAcross), quantities.get(state.lawUp)];
    const curves = family(state.along, x, y).map((member) => ({
      ...member, x: line(x, state.along, member.place), y: line(y, state.along, member.place),
    }));
    const [limitX, limitY] = ["x", "y"].map((key) => padded(extent(curves.flatMap((member) => member[key]), 16)));
    const traces = curves.map((member, index) => ({
      ...curve(member.x.map(plotted), member.y.map(plotted), member, index),
      text: member.x.map((value, i) => `${spelt(state.along)} = ${coordinate(state.along, i)}<br>${spelt(x.name)} ${
        inWords(value, x.units)}<br>${spelt(y.name)} ${inWords(member.y[i], y.units)}`),
      hovertemplate: "%{text}<extra></extra>",
    }));
    const here = [valueAt(x, state.place), valueAt(y, state.place)].map(plotted);
    traces.push({ x: [here[0]], y: [here[1]], mode: "markers", hoverinfo: "skip", showlegend: false,
      marker: { symbol: "circle-open", size: 13, color: theme().ink, line: { width: 2 } } });
    const fixed = [...new Set([...wide(x), ...wide(y)])].filter((name) => name !== state.along && name !== state.each);
    const where = fixed.map((name) => `${spelt(name)} = ${coordinate(name, state.place[name])}`).join(", ");
    show("law", traces, { title: `${spelt(y.name)} against ${spelt(x.name)}, along ${spelt(state.along)}${
      where && `; ${where}`}`, height: 320, xaxis: numberAxis(x, limitX), yaxis: numberAxis(y, limitY) });
    byId("slope").textContent = slope(x, y);
  }

  /* d log y / d log x at the cross-hair, between its neighbours. */
  function slope(x, y) {
    const [index, size] = [state.place[state.along], dims.get(state.along).size];
    const [before, after] = [Math.max(0, index - 1), Math.min(size - 1, index + 1)];
    const rise = (quantity) => {
      const [a, b] = [before, after].map((i) => valueAt(quantity, { ...state.place, [state.along]: i }));
      return Math.log(Math.abs(b / a));
    };
    const found = rise(y) / rise(x);
    if (state.scale !== "log" || !Number.isFinite(found)) return "";
    return `slope at the cross-hair, in logarithms: ${inWords(Number(found.toPrecision(3)))}.`;
  }

  // --- What is read off ---

  function verdict(place) {
    const [success, visible] = [marginAt("success", place), marginAt("visible", place)];
    const parts = [];
    if (!Number.isNaN(success)) parts.push(success >= 0 ? "the attack succeeds" : "the attack fails");
    if (!Number.isNaN(visible)) parts.push(visible >= 0 ? "it is visible" : "it is not visible");
    return parts.join(", and ");
  }

  function showValues(place, where) {
    const table = byId("values");
    table.caption.textContent = where;
    const row = (name, words, digits, title = "") => {
      const head = element("th", { scope: "row", title }, name);
      return element("tr", {}, head, element("td", { className: "number", title: digits }, words));
    };
    const kept = [...dims.keys()].filter((name) => dims.get(name).size === 1 || used().includes(name));
    const rows = kept.map((name) => row(spelt(name), coordinate(name, place[name]), dims.get(name).values[place[name]]));
    for (const quantity of quantities.values()) {
      const value = valueAt(quantity, place);
      const made = row(spelt(quantity.name), inWords(value, quantity.units), allDigits(value),
        quantity.label);
      made.dataset.quantity = quantity.name;
      rows.push(made);
    }
    table.tBodies[0].replaceChildren(...rows);
  }

  function say() {
    const quantity = quantities.get(state.quantity);
    const value = inWords(valueAt(quantity, state.place), quantity.units);
    const found = verdict(state.place);
    byId("said").textContent = `${spelt(quantity.name)}: ${value}${found && `; here ${found}`}.`;
  }

  function asCsv() {
    const quantity = quantities.get(state.quantity);
    const names = [...dims.keys()];
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = [[...names, ...quantities.keys()].map(quoted).join(",")];
    for (const j of range(state.up ? dims.get(state.up).size : 1)) {
      for (const i of range(dims.get(state.across).size)) {
        const place = { ...state.place, [state.across]: i };
        if (state.up) place[state.up] = j;
        const cells = names.map((name) => quoted(dims.get(name).values[place[name]]));
        lines.push([...cells, ...[...quantities.values()].map((each) => allDigits(valueAt(each, place)))].join(","));
      }
    }
    save(`${quantity.name}.csv`, new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
  }

  function save(name, blob) {
    const link = element("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // --- Together ---

  function draw() {
    showPlace();
    notice("");
    drawMap();
    drawSection("section-across", state.across);
    byId("section-up-figure").hidden = !state.up;
    if (state.up) drawSection("section-up", state.up);
    drawLaws();
    showValues(state.place, "at the cross-hair");
    say();
  }

  let waiting = false;
  function soon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }

  function listen() {
    const chosen = { quantity: "quantity", across: "across", up: "up", scale: "scale", each: "each",
      "law-across": "lawAcross", "law-up": "lawUp", along: "along" };
    for (const [id, key] of Object.entries(chosen)) {
      byId(id).oninput = () => {
        const before = state.across;
        state[key] = byId(id).value;
        // The other axis is chosen: they change places.
        if (key === "across" && state.across === state.up) state.up = before;
        chooseLaws();
        chooseAxes();
        soon();
      };
    }
    for (const button of document.querySelectorAll("[data-picture]")) {
      const id = button.dataset.picture;
      button.onclick = () => Plotly.downloadImage(id, { format: "png", scale: 3, width: byId(id).clientWidth,
        height: byId(id).clientHeight, filename: `${state.quantity}-${id}` });
    }
    byId("csv").onclick = asCsv;
    for (const form of document.querySelectorAll("form")) form.onsubmit = (event) => event.preventDefault();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
    addEventListener("resize", soon);
  }

  /* Once there is a map: a drawn one only knows of a pointer. */
  function followPointer() {
    const map = byId("map");
    if (map.dataset.followed) return;
    map.dataset.followed = "yes";
    map.on("plotly_hover", ({ points: [point] }) => {
      if (point.data.type === "heatmap") showValues(placeOf(point), "under the pointer");
    });
    map.on("plotly_unhover", () => showValues(state.place, "at the cross-hair"));
    map.on("plotly_click", ({ points: [point] }) => {
      if (point.data.type !== "heatmap") return;
      Object.assign(state.place, placeOf(point));
      soon();
    });
  }

  function placeOf(point) {
    const [up, across] = point.pointIndex;
    return { ...state.place, [state.across]: across, [state.up]: up };
  }

  chooseLaws();
  chooseAxes();
  makeThresholds();
  draw();
  listen();
})();
