"use strict";
// Draws the heat maps of an attention page from the data in it, again when the colour scheme changes.

const data = JSON.parse(document.getElementById("data").textContent);
const LABEL = 12; // pixels that a label needs

// plotly reads < > & in labels as markup
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (word) => (word.length > 10 ? word.slice(0, 9) + "…" : word);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const largest = (...matrices) =>
  matrices.flat(Infinity).reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 0) || 1;

const words = data.words.map(plain);

function positions(id) {
  const room = Math.max(4, Math.floor((0.7 * document.getElementById(id).clientWidth) / LABEL));
  const step = Math.ceil(words.length / room);
  const shown = words.map((_, n) => n).filter((n) => n % step === 0);
  return { tickvals: shown, ticktext: shown.map((n) => plain(short(data.words[n]))) };
}

function draw(id, trace, x, y, marks = []) {
  const axis = {
    color: colour("ink"), showgrid: false, zeroline: false, ticks: "", automargin: true, fixedrange: true,
    tickfont: { size: 10 }, title: { font: { size: 12, color: colour("faint") }, standoff: 6 },
  };
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("ink"), family: "inherit" },
    margin: { l: 10, r: 10, t: 10, b: 10 }, dragmode: false,
    xaxis: { ...axis, ...x, title: { ...axis.title, text: x.title } },
    yaxis: { ...axis, ...y, title: { ...axis.title, text: y.title }, autorange: "reversed" },
    shapes: marks,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("line"), activecolor: colour("ink") },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("ink") } },
  };
  const bar = { thickness: 10, outlinewidth: 0, tickfont: { size: 11, color: colour("ink") }, len: 0.9 };
  const options = { responsive: true, displaylogo: false, modeBarButtons: [["toImage"]] };
  Plotly.react(id, [{ type: "heatmap", colorbar: bar, hoverongaps: false, ...trace }], layout, options);
}

function byPosition(id, matrix, scale, what) {
  const n = words.length;
  const width = n > 48 ? 0.5 : 1.5; // a line must not hide what it marks
  const chosen = (x0, x1, y0, y1, name) => ({
    type: "rect", x0, x1, y0, y1, line: { color: colour(name), width }, fillcolor: "rgba(0,0,0,0)",
  });
  const marks = [
    chosen(-0.5, n - 0.5, data.query - 0.5, data.query + 0.5, "query"),
    chosen(data.key - 0.5, data.key + 0.5, -0.5, n - 0.5, "key"),
  ];
  const customdata = matrix.map((row, t) => row.map((_, s) => [words[t], words[s]]));
  const hovertemplate = `query %{y} %{customdata[0]}<br>key %{x} %{customdata[1]}<br>${what} %{z:.3f}<extra></extra>`;
  const axis = { ...positions(id), tickmode: "array" };
  draw(id, { z: matrix, customdata, hovertemplate, ...scale },
    { ...axis, title: "key", tickangle: -60 }, { ...axis, title: "query" }, marks);
}

const diverging = (most) => ({
  zmin: -most, zmax: most, colorscale: [[0, colour("low")], [0.5, colour("none")], [1, colour("high")]],
});
const shares = () => ({ zmin: 0, zmax: 1, colorscale: [[0, colour("none")], [1, colour("much")]] });

function drawTerms() {
  // the background is the first row and the first column
  const z = [[data.background, ...data.ofBackground], ...data.pairs.map((row, i) => [data.onBackground[i], ...row])];
  const most = largest(data.pairs, data.onBackground, data.ofBackground);
  const name = (feature) => (feature === null ? "background" : `feature ${feature}`);
  const rows = [null, ...data.queryFeatures], columns = [null, ...data.keyFeatures];
  const customdata = rows.map((i) => columns.map((j) => [name(i), name(j)]));
  const hovertemplate = "query: %{customdata[0]}<br>key: %{customdata[1]}<br>term %{z:.4f}<extra></extra>";
  const label = (feature) => (feature === null ? "background" : String(feature));
  const plot = document.getElementById("terms");
  plot.style.height = `${Math.max(640, LABEL * rows.length + 130)}px`; // every row has room for its label
  const ticks = (features, room) => {
    const step = Math.ceil(features.length / room);
    const shown = features.map((_, n) => n).filter((n) => n % step === 0);
    return { tickmode: "array", tickvals: shown, ticktext: shown.map((n) => label(features[n])) };
  };
  const line = (at) => ({ type: "line", line: { color: colour("ink"), width: 1 }, ...at });
  const marks = [
    line({ x0: 0.5, x1: 0.5, y0: -0.5, y1: rows.length - 0.5 }),
    line({ y0: 0.5, y1: 0.5, x0: -0.5, x1: columns.length - 0.5 }),
  ];
  const query = `features of the query, ${plain(short(data.words[data.query]))}`;
  const key = `features of the key, ${plain(short(data.words[data.key]))}`;
  draw("terms", { z, customdata, hovertemplate, xgap: 1, ygap: 1, ...diverging(most) },
    { ...ticks(columns, Math.max(4, Math.floor((0.75 * plot.clientWidth) / LABEL))), title: key, tickangle: -90 }, { ...ticks(rows, rows.length), title: query }, marks);
}

function drawAll() {
  byPosition("pattern", data.pattern, shares(), "attention");
  byPosition("model-pattern", data.modelPattern, shares(), "attention");
  const scale = diverging(largest(data.scores, data.parts));
  byPosition("scores", data.scores, scale, "score");
  data.parts.forEach((part, n) => byPosition(`part-${n}`, part, { ...scale, showscale: false }, "part"));
  drawTerms();
}

const tokens = [...document.querySelectorAll(".token")];

function shade(query) {
  for (const token of tokens) {
    const position = Number(token.dataset.position);
    const attention = data.pattern[query][position] ?? 0;
    token.style.backgroundColor = `rgba(${colour("shade")}, ${0.6 * attention})`;
    token.setAttribute("aria-pressed", String(position === query));
  }
}

let looking = data.query;
for (const token of tokens) {
  token.addEventListener("click", () => shade((looking = Number(token.dataset.position))));
}
function showAll() {
  drawAll();
  shade(looking);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showAll);
showAll();
