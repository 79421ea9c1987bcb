// Figures: each is drawn when it comes near, and again when its width or the colour scheme changes.
//
// Series differ in colour and in the shape of their points, so that neither is needed alone. Intervals are lines from
// low to high at each point, or bands around lines. Legends are HTML: they wrap, and never cover what is drawn.

const COLOURS = 8;
const SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star"];
const SIGNS = ["●", "■", "◆", "▲", "✚", "✖", "▼", "★"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const LETTER = 6.2; // pixels of a label's letter
const ROW = 17; // pixels that a row of labels needs
const LINE = 13; // pixels that each further line of a label needs
const LINES = 4; // of a label, at most

const paint = (n) => colour(`s${n % COLOURS}`);
const shape = (n) => (n + Math.floor(n / COLOURS)) % SHAPES.length;
const dash = (n) => DASHES[Math.floor(n / COLOURS) % DASHES.length];
const sideways = (width) => (width < 480 ? 14 : 22); // letters that names have beside a grid
const named = (figure) => figure.series.some(({ x }) => x.some((value) => typeof value === "string"));
const several = (figure) => figure.series.length > 1;

function wrapped(text, letters) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= letters) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return lines.map(plain).join("<br>");
}

// at most so many lines, the last one cut short where there is more to say
function folded(text, letters, lines) {
  const all = wrapped(text, letters).split("<br>");
  return all.length > lines ? [...all.slice(0, lines - 1), `${all[lines - 1]} …`].join("<br>") : all.join("<br>");
}

// where things stand: groups are whole numbers with labels, and what is in a group stands side by side in it

function scene(figure, width) {
  const evenly = (xs) => xs.length < 3 || xs.every((x, n) => !n || Math.abs(x - xs[n - 1] - (xs[1] - xs[0])) < 1e-6 * Math.abs(x));
  const values = [...new Set(figure.series.flatMap(({ x }) => x))];
  if (!named(figure)) values.sort((a, b) => a - b);
  const grouped = named(figure) || (figure.kind === "bars" && (figure.log_x || values.length < 8 || !evenly(values)));
  const labels = values.map((value) => (typeof value === "number" ? said(value) : value));
  const longest = Math.max(0, ...labels.map((label) => label.length));
  // names that have no room side by side stand below each other
  const lying = grouped && figure.kind !== "lines" && Math.min(longest, 14) * LETTER * labels.length > width - 60;
  const many = figure.series.length;
  const step = grouped ? 1 : values.length > 1 ? values[1] - values[0] : 1;
  const room = figure.kind === "bars" ? 0.8 : grouped ? { points: 0.6, lines: 0.25 }[figure.kind] : 0;
  const aside = (n) => step * room * ((n + 0.5) / many - 0.5);
  const place = (series, n) => series.x.map((x) => (grouped ? values.indexOf(x) : x) + aside(n));
  return { grouped, labels, longest, lying, place, thick: (step * room) / many, groups: values.length };
}

function heightOf(figure, width) {
  if (figure.grid) {
    const { rows, columns } = figure.grid, labels = Math.min(18, Math.max(0, ...columns.map((name) => name.length)));
    const lines = Math.max(1, ...rows.map((name) => folded(name, sideways(width), LINES).split("<br>").length));
    const each = rows.length > 30 ? 11 : Math.max(24, lines * LINE + 6);
    return Math.max(220, Math.min(720, 1.1 * width, rows.length * each) + labels * 5 + 60);
  }
  const { lying, groups } = scene(figure, width);
  const each = figure.kind === "bars" ? Math.max(22, 9 * figure.series.length + 6) : ROW + 4 * figure.series.length;
  return lying ? Math.min(4000, groups * each + 70) : width < 480 ? 290 : 350;
}

// every power of ten, or 1, 2, 5 where there are few
function logarithmic(values) {
  const known = values.filter((value) => value > 0), low = Math.min(...known), high = Math.max(...known);
  const exponentformat = low > 1e-4 && high < 1e6 ? "none" : "power";
  return { type: "log", dtick: high / low > 300 ? 1 : "D2", minorloglabels: "complete", exponentformat };
}

function axis(title, room, log, values = []) {
  return {
    color: colour("ink"), gridcolor: colour("line"), linecolor: colour("line"), zeroline: !log,
    zerolinecolor: colour("zero"), zerolinewidth: 1, automargin: true, tickfont: { size: 11 },
    title: { text: wrapped(title, Math.max(12, (room - 70) / LETTER)), font: { size: 12, color: colour("faint") }, standoff: 8 },
    ...(log ? logarithmic(values) : { type: "linear" }),
  };
}

// at most so many labels as have room; all of them are said when pointed at
function ticks(labels, room, letters, lines = 1) {
  const step = Math.max(1, Math.ceil(labels.length / Math.max(2, Math.floor(room))));
  const shown = labels.map((_, n) => n).filter((n) => n % step === 0);
  return {
    tickmode: "array", tickvals: shown, ticktext: shown.map((n) => (lines > 1 ? folded(labels[n], letters, lines) : plain(short(labels[n], letters)))),
    range: [-0.5, labels.length - 0.5], showgrid: false, zeroline: false,
  };
}

function layout(figure, width, height) {
  return {
    width, height, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
    font: { color: colour("ink"), family: "system-ui, sans-serif" }, margin: { l: 8, r: 12, t: 26, b: 8 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("line"), activecolor: colour("faint") },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("ink"), size: 12 }, align: "left" },
  };
}

// series

function hover(figure, series, n) {
  const pair = [`${plain(short(figure.x, 40))}: <b>${plain(typeof series.x[n] === "number" ? said(series.x[n]) : series.x[n])}</b>`];
  const [low, high] = [series.low?.[n] ?? null, series.high?.[n] ?? null];
  const ends = low === null && high === null ? "" : ` [${said(low)}, ${said(high)}]`;
  pair.push(`${plain(short(figure.y, 40))}: <b>${said(series.y[n])}</b>${ends}`);
  const words = series.words?.[n] ? [wrapped(series.words[n], 60)] : [];
  return [...(several(figure) ? [`<b>${plain(short(series.name, 60))}</b>`] : []), ...pair, ...words].join("<br>");
}

function bands(series, at, floor) {
  const pieces = [[]];
  series.x.forEach((_, n) => {
    if (series.low[n] === null || series.high[n] === null) pieces.push([]);
    else pieces.at(-1).push(n);
  });
  const low = (n) => Math.max(series.low[n], floor), high = (n) => Math.max(series.high[n], floor);
  return pieces.filter((piece) => piece.length).map((piece) => {
    const back = [...piece].reverse();
    return [[...piece, ...back].map((n) => at[n]), [...piece.map(high), ...back.map(low)]];
  });
}

function whiskers(series, at, floor) {
  const x = [], y = [];
  series.x.forEach((_, n) => {
    if (series.y[n] === null || series.low[n] === null || series.high[n] === null) return;
    x.push(at[n], at[n], null);
    y.push(Math.max(series.low[n], floor), Math.max(series.high[n], floor), null);
  });
  return [[x, y]];
}

function traces(figure, look, hidden) {
  const known = figure.series.flatMap(({ y, low, high }) => [...y, ...(low ?? []), ...(high ?? [])]).filter((v) => v > 0);
  const floor = figure.log_y ? Math.min(...known) : -Infinity; // an interval that goes below what a log axis has
  const turned = (x, y) => (look.lying ? { x: y, y: x } : { x, y });
  return figure.series.flatMap((series, n) => {
    const at = look.place(series, n), made = [], points = series.x.length;
    const rising = at.every((x, m) => !m || x > at[m - 1]);
    const band = figure.kind === "lines" && !look.grouped && rising && points > 1;
    const quiet = { series: n, type: "scatter", hoverinfo: "skip", visible: !hidden.has(n) };
    if (series.low && series.high && band) {
      for (const [x, y] of bands(series, at, floor)) {
        made.push({ ...quiet, x, y, mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: paint(n), opacity: 0.16 });
      }
    }
    const hovertext = series.x.map((_, m) => hover(figure, series, m));
    const y = series.y.map((value) => (figure.log_y && value <= 0 ? null : value));
    const main = { ...turned(at, y), series: n, hovertext, hovertemplate: "%{hovertext}<extra></extra>", visible: !hidden.has(n) };
    if (figure.kind === "bars") {
      const marker = { color: paint(n), opacity: 0.85, pattern: { shape: ["", "/", ".", "x", "\\", "-", "|", "+"][Math.floor(n / COLOURS) % 8] } };
      made.push({ ...main, type: "bar", orientation: look.lying ? "h" : "v", width: look.thick * 0.94, marker });
    } else {
      const marker = { color: paint(n), symbol: SHAPES[shape(n)], size: points > 300 ? 4 : points > 60 ? 5 : 7, opacity: points > 300 ? 0.5 : 1 };
      const line = { color: paint(n), width: 1.75, dash: dash(n) };
      const mode = figure.kind === "lines" ? (points > 60 ? "lines" : "lines+markers") : "markers";
      made.push({ ...main, type: points > 5000 ? "scattergl" : "scatter", mode, marker, line });
    }
    if (series.low && series.high && !band) {
      const line = { color: figure.kind === "bars" ? colour("ink") : paint(n), width: points > 60 ? 0.6 : 1.4 };
      made.push(...whiskers(series, at, floor).map(([x, y]) => ({ ...quiet, ...turned(x, y), mode: "lines", line, opacity: points > 60 ? 0.4 : 0.9 })));
    }
    return made;
  });
}

function drawSeries(plot, figure, hidden) {
  const width = plot.clientWidth, height = heightOf(figure, width), look = scene(figure, width);
  const across = { ...axis(figure.x, look.lying ? height : width, figure.log_x && !look.grouped, figure.series.flatMap(({ x }) => x)) };
  if (look.grouped) {
    // side by side names may take some lines, but no word of theirs is broken
    const beside = Math.floor(((width - 60) / look.labels.length - 8) / LETTER);
    const word = Math.max(0, ...look.labels.flatMap((label) => label.split(" ").map(({ length }) => length)));
    const upright = !look.lying && beside < word;
    const letters = look.lying ? Math.floor(width / 14) : upright ? 18 : beside;
    Object.assign(across, ticks(look.labels, look.lying ? height / ROW : upright ? (width - 60) / ROW : look.labels.length, letters, look.lying || upright ? 1 : LINES));
    if (look.lying) across.range = across.range.reverse();
    if (!look.lying) across.tickangle = upright ? -60 : 0;
  }
  const up = axis(figure.y, look.lying ? 0.65 * width : height, figure.log_y, figure.series.flatMap(({ y }) => y));
  const axes = look.lying ? { xaxis: up, yaxis: { ...across, fixedrange: true } } : { xaxis: across, yaxis: up };
  show(plot, traces(figure, look, hidden), { ...layout(figure, width, height), ...axes, barmode: "overlay" });
}

function show(plot, drawn, its) {
  plot.style.height = `${its.height}px`;
  const options = { displaylogo: false, displayModeBar: "hover", modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]], toImageButtonOptions: { filename: plot.file } };
  Plotly.react(plot, drawn, its, options);
}

// grids

function scaleOf(values) {
  const known = values.flat().filter((value) => value !== null);
  const low = Math.min(0, ...known), high = Math.max(0, ...known), most = Math.max(-low, high) || 1;
  const stops = (...names) => names.map((name, n) => [n / (names.length - 1), colour(name)]);
  if (low < 0 && high > 0) return { zmin: -most, zmax: most, colorscale: stops("low", "lower", "none", "higher", "high") };
  if (low < 0) return { zmin: low, zmax: 0, colorscale: stops("much", "some", "none") };
  return { zmin: 0, zmax: most, colorscale: stops("none", "some", "much") };
}

function drawGrid(plot, figure) {
  const { rows, columns, values, measure } = figure.grid, width = plot.clientWidth, height = heightOf(figure, width);
  const scale = scaleOf(values), letters = width < 480 ? 12 : 18;
  const labels = Math.min(sideways(width), Math.max(0, ...rows.map((name) => name.length))) * LETTER;
  const cell = { width: (width - labels - 90) / columns.length, height: (height - 110) / Math.max(1, rows.length) };
  const customdata = values.map((row, i) => row.map((value, j) =>
    `${plain(short(figure.y, 40))}: <b>${plain(rows[i])}</b><br>${plain(short(figure.x, 40))}: <b>${plain(columns[j])}</b><br>${plain(measure)}: <b>${said(value)}</b>`));
  const numbered = cell.width > 38 && cell.height > 15;
  const numbers = values.map((row) => row.map(said));
  const gap = Math.min(cell.width, cell.height) > 7 ? 1 : 0;
  const bar = { thickness: 10, outlinewidth: 0, tickfont: { size: 11, color: colour("ink") }, len: 1, nticks: 6 };
  const heat = {
    type: "heatmap", z: values, text: numbers, customdata, hovertemplate: "%{customdata}<extra></extra>", hoverongaps: false, xgap: gap, ygap: gap,
    colorbar: bar, ...(numbered ? { showscale: false, texttemplate: "%{text}", textfont: { size: 11 } } : {}), ...scale,
  };
  const empty = { type: "scatter", mode: "text", x: [], y: [], text: [], hoverinfo: "skip", textfont: { size: Math.min(11, cell.height), color: colour("faint") } };
  values.forEach((row, i) => row.forEach((value, j) => value === null && (empty.x.push(j), empty.y.push(i), empty.text.push("·"))));
  const slanted = cell.width < letters * LETTER;
  const xaxis = { ...axis(figure.x, width), ...ticks(columns, (width - labels - 90) / (slanted ? ROW - 3 : 1), letters), tickangle: slanted ? -60 : 0, constrain: "domain" };
  const lines = Math.max(1, Math.min(LINES, Math.floor(cell.height / LINE)));
  const yaxis = { ...axis(figure.y, height), ...ticks(rows, (height - 110) / (ROW - 4), sideways(width), lines) };
  yaxis.range = yaxis.range.reverse();
  show(plot, [heat, empty], { ...layout(figure, width, height), xaxis, yaxis });
}

// legends, and what cannot be seen from the drawing

function legend(plot, figure, hidden) {
  const place = plot.parentElement.querySelector(".legend");
  if (figure.grid) return place.replaceChildren(`colour: ${figure.grid.measure}`);
  if (!several(figure)) return place.remove();
  const dim = (n) => plot.data && Plotly.restyle(plot, { opacity: plot.data.map((trace) => (trace.series === n ? 1 : 0.12)) });
  const buttons = figure.series.map((series, n) => {
    const sign = element("i", { style: `color: var(--s${n % COLOURS})`, "aria-hidden": "true" }, figure.kind === "bars" ? "■" : SIGNS[shape(n)]);
    const button = element("button", { "aria-pressed": "true", title: "show or hide" }, sign, series.name);
    button.addEventListener("click", () => {
      hidden.has(n) ? hidden.delete(n) : hidden.add(n);
      button.setAttribute("aria-pressed", String(!hidden.has(n)));
      drawSeries(plot, figure, hidden);
    });
    button.addEventListener("pointerenter", () => figure.series.length > 3 && !hidden.has(n) && dim(n));
    button.addEventListener("pointerleave", () => figure.series.length > 3 && drawSeries(plot, figure, hidden));
    return button;
  });
  place.replaceChildren(...buttons);
}

const isEmpty = (figure) =>
  figure.grid ? !figure.grid.values.flat().length : !figure.series.some(({ y }) => y.some((value) => value !== null));

function unseen(figure) {
  if (isEmpty(figure)) return "There is nothing to show.";
  const said = [];
  if (figure.grid?.values.flat().includes(null)) said.push("A dot: no value.");
  const beyond = figure.series.reduce((sum, { x, y }) =>
    sum + y.filter((value, n) => (figure.log_y && value !== null && value <= 0) || (figure.log_x && x[n] <= 0)).length, 0);
  if (beyond) said.push(`${beyond} ${beyond > 1 ? "points are" : "point is"} not above 0, which a logarithmic axis cannot show.`);
  const missing = figure.series.reduce((sum, { y }) => sum + y.filter((value) => value === null).length, 0);
  if (missing) said.push(`${missing} ${missing > 1 ? "points have" : "point has"} no value.`);
  return said.join(" ");
}

// drawing them

const charts = [...document.querySelectorAll(".plot[data-figure]")].map((plot) => {
  const figure = data.figures[plot.dataset.figure], hidden = new Set();
  plot.hidden = isEmpty(figure); // and so never near
  plot.file = figure.file;
  plot.style.height = `${heightOf(figure, plot.clientWidth)}px`; // so that nothing moves when it is drawn
  legend(plot, figure, hidden);
  const remark = plot.parentElement.querySelector(".said");
  remark.textContent = unseen(figure);
  remark.hidden = !remark.textContent;
  return { plot, drawn: 0, draw: () => (figure.grid ? drawGrid(plot, figure) : drawSeries(plot, figure, hidden)) };
});

function draw(chart) {
  const width = chart.plot.clientWidth;
  if (!width) return; // what is not laid out has no room to be drawn in
  chart.drawn = width;
  chart.draw();
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.find(({ plot }) => plot === entry.target);
    if (entry.isIntersecting && !chart.drawn) draw(chart);
  }
}, { rootMargin: "600px 0px" });
const sized = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.find(({ plot }) => plot === entry.target);
    if (chart.drawn && chart.drawn !== chart.plot.clientWidth) draw(chart);
  }
});
for (const { plot } of charts) near.observe(plot), sized.observe(plot);
const redraw = () => charts.filter(({ drawn }) => drawn).forEach(draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
// on paper one chart stands below the other, narrower than any sheet; the summary's reasons stand in the studies too
addEventListener("beforeprint", () => {
  document.body.classList.add("printed");
  charts.forEach(draw);
  for (const details of document.querySelectorAll("details:not(.claims *)")) details.open = true;
});
addEventListener("afterprint", () => {
  document.body.classList.remove("printed");
  redraw();
});
