// Texts word by word. One layer is shown as shade; several at once as bars under each word, as long as they are strong.

const ALL = "all";

function showPassage(place) {
  const { layers } = data.passages[place.dataset.passage];
  const words = [...place.querySelectorAll(".word")], readout = place.querySelector(".readout");
  const most = layers.map(({ values }) => values.reduce((top, value) => Math.max(top, Math.abs(value)), 0));
  const signed = layers.map(({ values }) => values.some((value) => value < 0));
  let chosen = layers.length > 1 && layers.length <= 4 ? ALL : 0;

  const share = (layer, n) => (most[layer] ? Math.abs(layers[layer].values[n]) / most[layer] : 0);
  const lane = (layer) => colour(`s${layer % 8}`);

  function shade(word, n) {
    const value = layers[chosen].values[n];
    word.style.cssText = `background-color: rgba(${colour(value < 0 ? "less" : "more")}, ${0.75 * share(chosen, n)})`;
  }

  function underline(word, n) {
    const shown = layers.map((_, layer) => layer).filter((layer) => layers[layer].values[n] !== 0);
    const image = (layer) => {
      const paint = lane(layer), dashed = `repeating-linear-gradient(90deg, ${paint} 0 2px, transparent 2px 4px)`;
      return layers[layer].values[n] < 0 ? dashed : `linear-gradient(${paint}, ${paint})`;
    };
    word.style.paddingBottom = `${5 * layers.length + 2}px`;
    word.style.backgroundImage = shown.map(image).join(", ");
    word.style.backgroundSize = shown.map((layer) => `${100 * share(layer, n)}% 4px`).join(", ");
    word.style.backgroundPosition = shown.map((layer) => `left bottom ${5 * (layers.length - 1 - layer)}px`).join(", ");
    word.style.backgroundRepeat = "no-repeat";
  }

  function read(n) {
    words.forEach((word, m) => (word.tabIndex = m === n ? 0 : -1));
    const values = layers.map(({ name, values }) => `${name} ${said(values[n])}`);
    readout.replaceChildren(element("b", {}, `${n} “${words[n].textContent}”`), ` ${values.join(" · ")}`);
  }

  function draw() {
    place.querySelector(".text").style.lineHeight = `${chosen === ALL ? 24 + 5 * layers.length : 28}px`;
    words.forEach((word, n) => {
      word.style.cssText = "";
      if (layers.length) chosen === ALL ? underline(word, n) : shade(word, n);
    });
    for (const tab of place.querySelectorAll(".layers button")) {
      tab.setAttribute("aria-pressed", String(tab.dataset.layer === String(chosen)));
    }
  }

  function tab(layer, name, range) {
    const swatch = layer === ALL ? [] : [element("i", { class: "swatch", style: `background: var(--s${layer % 8})` })];
    const button = element("button", { "data-layer": layer }, ...swatch, name, element("small", {}, range));
    button.addEventListener("click", () => {
      chosen = layer;
      draw();
    });
    return button;
  }

  const ranges = layers.map((_, layer) => ` ${signed[layer] ? "±" : "0 to "}${said(most[layer])}`);
  const tabs = layers.map(({ name }, layer) => tab(layer, name, ranges[layer]));
  place.querySelector(".layers").replaceChildren(...(layers.length > 1 ? [tab(ALL, "all, as bars", "")] : []), ...tabs);

  words.forEach((word, n) => {
    word.addEventListener("pointerenter", () => read(n));
    word.addEventListener("focus", () => read(n));
  });
  place.querySelector(".text").addEventListener("keydown", (event) => {
    const at = words.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: words.length - 1 }[event.key];
    if (to === undefined || !words[to]) return;
    event.preventDefault();
    words[to].focus();
  });
  if (words.length) read(strongest(layers));
  draw();
  return draw;
}

// the word to begin with: where most is going on
function strongest(layers) {
  const last = layers.at(-1)?.values ?? [];
  return Math.max(0, last.reduce((best, value, n) => (Math.abs(value) > Math.abs(last[best]) ? n : best), 0));
}

const passages = [...document.querySelectorAll(".passage")].map(showPassage);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => passages.forEach((draw) => draw()));
