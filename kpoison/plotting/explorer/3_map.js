/* What all pictures look like, and the map. */

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
