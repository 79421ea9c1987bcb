"use strict";
// What all parts of the report's page share; its tables, its downloads, the button that copies a command.

const data = JSON.parse(document.getElementById("data").textContent);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
// plotly reads < > & in labels as markup
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, letters) => (text.length > letters ? text.slice(0, letters - 1) + "…" : text);

// as words.py says numbers, but that a whole one looks whole
function said(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return value.toLocaleString("en");
  if (size >= 999.5 && size < 999999.5) return Math.round(value).toLocaleString("en");
  return size < 1e-4 || size >= 999999.5 ? value.toExponential(2) : value.toPrecision(3);
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// tables: up, down, and back to the order they came in

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(button) {
  const head = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
  const { rows } = data.tables[table.dataset.table], column = Number(button.dataset.sort);
  table.inOrder ??= [...body.rows];
  const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] ?? "ascending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  if (next !== "none") head.setAttribute("aria-sort", next);
  const order = rows.map((_, n) => n);
  const sign = next === "descending" ? -1 : 1;
  // what is not there stays last in either direction
  const known = (a, b) => rows[a][column] !== null && rows[b][column] !== null;
  const by = (a, b) => (known(a, b) ? sign : 1) * compare(rows[a][column], rows[b][column]);
  if (next !== "none") order.sort(by);
  body.append(...order.map((n) => table.inOrder[n]));
}

// downloads, from the data in the page

function rowsOf(figure) {
  if (figure.grid) {
    const { rows, columns, values } = figure.grid;
    return [["row", "column", "value"], ...rows.flatMap((row, i) => columns.map((column, j) => [row, column, values[i][j]]))];
  }
  const each = (series) =>
    series.x.map((x, n) => [series.name, x, series.y[n], series.low?.[n], series.high?.[n], series.words?.[n]]);
  return [["series", "x", "y", "low", "high", "words"], ...figure.series.flatMap(each)];
}

function csv(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function download(button) {
  const { figure, table, as } = button.dataset;
  const { file, ...its } = figure === undefined ? data.tables[table] : data.figures[figure];
  const rows = figure === undefined ? [its.columns, ...its.rows] : rowsOf(its);
  const text = as === "csv" ? csv(rows) : JSON.stringify(its, null, 1);
  const link = element("a", {
    href: URL.createObjectURL(new Blob([text], { type: as === "csv" ? "text/csv" : "application/json" })),
    download: `${file}.${as}`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function copy(button) {
  const code = button.closest(".source").querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  } catch {
    getSelection().selectAllChildren(code); // where a page may not write: ready to be copied by hand
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("sort" in button.dataset) sortBy(button);
  if ("as" in button.dataset) download(button);
  if ("copy" in button.dataset) copy(button);
});
