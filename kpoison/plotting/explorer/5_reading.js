/* What is read off and taken away, and how everything begins. */

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
