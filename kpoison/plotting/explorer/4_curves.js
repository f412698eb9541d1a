/* Cross-sections, and one law against another. */

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
