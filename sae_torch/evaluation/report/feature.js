// The page of one feature.
// The namespace as the browser knows it, so that the page holds no address.
const SVG = new DOMParser().parseFromString("<svg></svg>", "text/html").querySelector("svg").namespaceURI;
const QUARTERS = ["Largest activations", "Strongest quarter", "Second quarter", "Third quarter", "Weakest quarter"];

const svg = (tag, attributes, ...children) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

// Activations where a feature fires, with their median and quartiles as lines.
function histogramFigure(record, largest) {
  const WIDTH = 320, HEIGHT = 96, FLOOR = 78;
  const most = Math.max(...record.histogram);
  const wide = WIDTH / record.histogram.length;
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "histogram", role: "img" },
    svg("title", {}, `Activations of the feature on ${record.fires} tokens`));
  record.histogram.forEach((count, i) => {
    const high = Math.max(FLOOR * count / most, count ? 1 : 0);
    chart.append(svg("rect", { class: "bar", x: i * wide, width: wide - 0.8, y: FLOOR - high, height: high },
      svg("title", {}, `${digits(largest * i / record.histogram.length)} to ` +
        `${digits(largest * (i + 1) / record.histogram.length)}: ${count.toLocaleString("en")} tokens`)));
  });
  chart.append(svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: FLOOR, y2: FLOOR }));
  for (const value of record.quantiles.slice(0, 3)) {
    const x = WIDTH * value / largest;
    chart.append(svg("line", { class: "mark", x1: x, x2: x, y1: 0, y2: FLOOR }));
  }
  chart.append(svg("text", { class: "tick", x: 0, y: HEIGHT - 4 }, "0"),
    svg("text", { class: "tick", x: WIDTH, y: HEIGHT - 4, "text-anchor": "end" }, digits(largest)));
  const [lower, median, upper, high] = record.quantiles.map(digits);
  return element("figure", "", chart, element("figcaption", "",
    `Activations on ${record.fires.toLocaleString("en")} tokens. Quartiles ${lower}, ${median}, ${upper} (lines); ` +
    `99 % are at most ${high}.`));
}

// Tokens with their logits; bars have the largest of all as full length.
function logitTable(title, rows, most) {
  const list = element("ul", `logits ${title.split(" ")[0].toLowerCase()}`);
  for (const [word, logit] of rows) {
    const item = element("li", "", element("code", "", spaced(word)));
    if (logit !== null) {
      item.append(element("span", "meta", digits(logit)));
      item.style.setProperty("--share", `${Math.round(100 * Math.abs(logit) / most)}%`);
    }
    list.append(item);
  }
  return element("div", "", element("h4", "", title), list);
}

function nearestList(run, record) {
  const list = element("ul", "nearest");
  for (const [feature, cosine] of record.nearest) {
    const words = run.labels && run.placeOf(feature) >= 0 ? run.labels.words[run.placeOf(feature)] : "";
    const link = element("a", "", `feature ${feature}`);
    link.href = address(run, feature);
    list.append(element("li", "", link, element("span", "meta", ` ${cosine.toFixed(2)} ${visible(words)}`)));
  }
  return element("div", "", element("h4", "", "Nearest features (cosine)"), list);
}

function featureFacts(run, i, record) {
  const { counts, largest, n_tokens, shown_tokens } = run.index;
  const facts = [`rank ${(run.ranks[i] + 1).toLocaleString("en")} by density`,
    counts[i] ? `fires on ${percent(counts[i] / n_tokens)} of tokens (${counts[i].toLocaleString("en")})`
      : "dead: it fires on none of the held-out tokens"];
  if (largest[i]) facts.push(`largest activation ${digits(largest[i])}`);
  const rest = shown_tokens < n_tokens && record.fires !== null && counts[i]
    ? ` Histogram and examples are from the first ${shown_tokens.toLocaleString("en")} tokens.` : "";
  return element("p", "meta", `${facts.join(", ")}.${rest}`);
}

// Everything of feature `i` in the order of the index.
function featurePage(run, i, record, text, long) {
  const logits = [...record.promotes, ...record.suppresses].map(([, logit]) => Math.abs(logit ?? 0));
  const most = Math.max(...logits, 1e-9);
  const numbers = element("div", "numbers");
  if (record.histogram.length) numbers.append(histogramFigure(record, run.index.largest[i]));
  if (record.nearest.length) numbers.append(nearestList(run, record));
  const about = element("div", "about", numbers);
  if (record.promotes.length) {
    about.append(element("div", "effects", logitTable("Promotes (logit)", record.promotes, most),
      logitTable("Suppresses (logit)", record.suppresses, most)));
  }
  const groups = [];
  QUARTERS.forEach((title, group) => {
    const found = record.examples.filter(([of]) => of === group);
    if (!found.length) return;
    const [low, mid, high] = record.quantiles;
    const range = ["", `above ${digits(high ?? 0)}`, `${digits(mid ?? 0)} to ${digits(high ?? 0)}`,
      `${digits(low ?? 0)} to ${digits(mid ?? 0)}`, `up to ${digits(low ?? 0)}`][group];
    groups.push(element("h4", "", title, element("span", "meta", range ? ` ${range}` : "")),
      element("ol", "contexts", ...found.map((one) => example(run, text, one, run.index.largest[i], long))));
  });
  return [featureFacts(run, i, record), about, ...groups];
}
