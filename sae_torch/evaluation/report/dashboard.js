// The list of features beside the page of one: search, order, links, keys, export.
const ROWS = 25;
const FEWEST_TOKENS = 10;
const DENSE = 0.1;
const [which, query, show, order, found, list, pager, article, help] =
  ["which", "query", "show", "order", "found", "list", "pager", "feature", "keys"].map((id) => document.getElementById(id));
let run = null, hits = [], page = 0, current = -1, long = false, asked = 0;

const orders = {
  frequent: (a, b) => run.ranks[a] - run.ranks[b],
  rare: (a, b) => run.ranks[b] - run.ranks[a],
  feature: (a, b) => a - b,
  largest: (a, b) => run.index.largest[b] - run.index.largest[a] || a - b,
  cosine: (a, b) => run.index.cosines[b] - run.index.cosines[a] || a - b,
};
const filters = {
  interesting: (i) => run.index.counts[i] >= FEWEST_TOKENS && run.density(i) <= run.often,
  firing: (i) => run.index.counts[i] > 0,
  dense: (i) => run.density(i) > DENSE,
  dead: (i) => run.index.counts[i] === 0,
  all: () => true,
};

// An autoencoder with its index; labels and text follow.
async function opened(number) {
  const one = dashboard.runs[number];
  if (one.index) return one;
  const index = await block(`${one.key}/index`);
  const { counts, features, n_tokens } = index;
  const byDensity = Uint32Array.from(counts.keys()).sort((a, b) => counts[b] - counts[a] || a - b);
  const ranks = index.ranks ?? new Uint32Array(counts.length);
  if (!index.ranks) byDensity.forEach((i, rank) => { ranks[i] = rank; });
  const places = features && new Map(features.map((feature, i) => [feature, i]));
  const total = counts.reduce((sum, count) => sum + count, 0);
  return Object.assign(one, {
    index, ranks,
    read: features === null,  // whether every token knows its features
    featureAt: (i) => (features ? features[i] : i),
    placeOf: (feature) => (places ? places.get(feature) ?? -1 : feature < counts.length ? feature : -1),
    density: (i) => counts[i] / n_tokens,
    // three times the mean is not dense yet
    often: Math.max(0.01, 3 * total / counts.length / n_tokens),
  });
}

async function labelled(one) {
  one.labels ??= await block(`${one.key}/labels`);
  one.searched ??= one.labels.words.map((words, i) => `${words}\n${one.labels.logits[i]}`.toLowerCase());
  return one.labels;
}

// The text as one string, and where each token of it begins.
const texts = new Map();
async function searchableText(one) {
  if (!texts.has(one.text)) {
    const { windows } = await block(`${one.text}/text`);
    const starts = [], parts = [];
    let length = 0;
    for (const pieces of windows) {
      for (const piece of pieces) {
        const small = piece.toLowerCase();
        starts.push(length);
        parts.push(small);
        length += small.length;
      }
      parts.push("\n");
      length += 1;
    }
    texts.set(one.text, { text: parts.join(""), starts: Uint32Array.from(starts) });
  }
  return texts.get(one.text);
}

// Number of tokens before each one that are part of a passage with the words.
function passages({ text, starts }, words) {
  const inside = new Uint8Array(starts.length);
  let token = 0;
  for (let at = text.indexOf(words); at >= 0; at = text.indexOf(words, at + 1)) {
    while (token + 1 < starts.length && starts[token + 1] <= at) token++;
    for (let i = token; i < starts.length && starts[i] < at + words.length; i++) inside[i] = 1;
  }
  const before = new Uint32Array(starts.length + 1);
  inside.forEach((one, i) => { before[i + 1] = before[i] + one; });
  return before;
}

async function matching(words) {
  const count = run.index.counts.length;
  const number = /^#?(\d+)$/.exec(words);
  const place = number ? run.placeOf(Number(number[1])) : -1;
  if (place >= 0) return [place];
  if (words.startsWith("#")) return [];
  const labels = await labelled(run);
  const before = passages(await searchableText(run), words);
  const size = run.index.length;
  const near = (at) => {
    const window_ = at - at % size;
    return before[Math.min(at + AFTER + 1, window_ + size)] > before[Math.max(at - BEFORE, window_)];
  };
  return [...Array(count).keys()].filter((i) => run.searched[i].includes(words) || labels.tops[i].some(near));
}

async function search() {
  const turn = ++asked;
  const words = query.value.trim().toLowerCase();
  const every = [...Array(run.index.counts.length).keys()];
  let chosen;
  if (words) {
    chosen = await matching(words);
    // what is asked for by words need not be interesting
    if (show.value !== "interesting") chosen = chosen.filter(filters[show.value]);
  } else {
    chosen = every.filter(filters[show.value]);
    if (!chosen.length && show.value === "interesting") chosen = every.filter(filters.firing);
  }
  if (turn !== asked) return;
  hits = chosen.sort(orders[order.value]);
  page = 0;
  found.textContent = `${hits.length.toLocaleString("en")} of ${every.length.toLocaleString("en")} feature pages`;
  drawList();
}

function drawList() {
  const shown = hits.slice(page * ROWS, (page + 1) * ROWS);
  list.replaceChildren(...shown.map((i) => {
    const link = element("a", "", element("b", "", `${run.featureAt(i)}`),
      element("span", "words", run.labels ? visible(run.labels.words[i]) : ""),
      element("span", "meta", run.index.counts[i] ? percent(run.density(i)) : "dead"));
    link.href = address(run, run.featureAt(i));
    if (i === current) link.setAttribute("aria-current", "true");
    return element("li", "", link);
  }));
  const pages = Math.ceil(hits.length / ROWS);
  const [back, place, next] = pager.children;
  back.disabled = page === 0;
  next.disabled = page >= pages - 1;
  place.textContent = hits.length ? `${(page + 1).toLocaleString("en")} of ${pages.toLocaleString("en")}` : "";
}

function turnPage(step) {
  page = Math.min(Math.max(page + step, 0), Math.max(Math.ceil(hits.length / ROWS) - 1, 0));
  drawList();
}

let drawn = 0;
async function showFeature(i) {
  const turn = ++drawn, one = run;
  current = i;
  const at = hits.indexOf(i);
  if (at >= 0) page = Math.floor(at / ROWS);
  drawList();
  const record = await entry(`${one.key}/features`, i);
  const text = await block(`${one.text}/text`);
  if (turn !== drawn) return;
  const feature = one.featureAt(i);
  const link = element("a", "", `Feature ${feature}`);
  link.href = address(one, feature);
  link.title = "Link to this feature";
  const head = element("header", "", element("h3", "", link, element("span", "meta", ` ${one.name}`)),
    element("span", "steps", button("← previous", () => step(-1)), button("next →", () => step(1)),
      button(long ? "shorter contexts" : "longer contexts", lengthen)));
  article.replaceChildren(head, ...featurePage(one, i, record, text, long));
}

function lengthen() {
  long = !long;
  showFeature(current);
}

function step(by) {
  if (!hits.length) return;
  const at = hits.indexOf(current);
  const i = hits[at < 0 ? 0 : Math.min(Math.max(at + by, 0), hits.length - 1)];
  history.replaceState(null, "", address(run, run.featureAt(i)));
  showFeature(i);
}

// Opens what the address names, else the first of the list.
async function follow(scroll) {
  const named = /^#feature-(\d+)(?:@(.*))?$/.exec(location.hash);
  const wanted = named?.[2] === undefined ? dashboard.opened
    : dashboard.runs.findIndex(({ name }) => name === decodeURIComponent(named[2]));
  if (!named && run) return;
  if (wanted < 0) {
    article.replaceChildren(element("p", "", `No autoencoder is called ${decodeURIComponent(named[2])}.`));
    return;
  }
  await enter(wanted);
  const i = named ? run.placeOf(Number(named[1])) : hits[0] ?? -1;
  if (i >= 0) await showFeature(i);
  else article.replaceChildren(element("p", "", named ? `Feature ${named[1]} has no page.` : "No feature fires."));
  const top = article.getBoundingClientRect().top;
  if (scroll && (top < 0 || top > innerHeight / 2)) article.scrollIntoView();
}

async function enter(number) {
  if (run === dashboard.runs[number]) return;
  run = await opened(number);
  which.value = String(number);
  current = -1;
  await search();
  const one = run;
  // words follow once the numbers are on screen
  labelled(one).then(() => { if (run === one) drawList(); });
}

const csvField = (value) => (/[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

// The features of the list, in its order.
async function exportList() {
  const labels = await labelled(run);
  const head = ["feature", "tokens", "density", "largest_activation", "closest_cosine", "words", "logits"];
  const rows = hits.map((i) => [run.featureAt(i), run.index.counts[i], run.density(i), run.index.largest[i],
    run.index.cosines[i], labels.words[i], labels.logits[i].replaceAll("\n", " · ")]);
  const text = [head, ...rows].map((row) => row.map(csvField).join(",")).join("\r\n") + "\r\n";
  const link = element("a", "");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `features of ${run.name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const keys = {
  j: () => step(1), ArrowRight: () => step(1), k: () => step(-1), ArrowLeft: () => step(-1),
  "]": () => turnPage(1), "[": () => turnPage(-1), l: lengthen, "/": () => query.focus(),
  "?": () => { help.open = !help.open; },
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.activeElement.blur();
  const typing = event.target.matches("input, select, textarea, .scroll");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
which.addEventListener("change", async () => {
  await enter(Number(which.value));
  history.replaceState(null, "", hits.length ? address(run, run.featureAt(hits[0])) : "#features");
  if (hits.length) showFeature(hits[0]);
});
for (const [input, event] of [[show, "change"], [order, "change"], [query, "input"]]) {
  input.addEventListener(event, async () => { await search(); if (hits.length) showFeature(hits[0]); });
}
query.form.addEventListener("submit", (event) => event.preventDefault());
pager.firstElementChild.addEventListener("click", () => turnPage(-1));
pager.lastElementChild.addEventListener("click", () => turnPage(1));
document.getElementById("export").addEventListener("click", exportList);
addEventListener("hashchange", () => follow(true));
// a folder that was moved without its parts, or a browser of before 2023
addEventListener("unhandledrejection", ({ reason }) => {
  article.replaceChildren(element("p", "", `The page of this feature cannot be read: ${reason.message}.`));
});
follow(location.hash.startsWith("#feature-"));
