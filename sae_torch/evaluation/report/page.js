"use strict";
// Tables sort by the column whose heading is pressed: numbers smallest first, then largest first.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const key = (row) => {
      const cell = row.cells[column];
      if (column === 0) return cell.textContent;
      return cell.dataset.value === undefined ? Infinity : Number(cell.dataset.value);
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = key(a), y = key(b);
      const order = typeof x === "string" ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    });
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  }));
}

// Feature pages: read from the inert text, shown a few at a time, all text set as text.
const source = document.getElementById("pages");
if (source) {
  const AT_ONCE = 12;
  const runs = JSON.parse(source.textContent).map((pages) => pages.map(
    ([feature, rank, density, nearest, cosine, promotes, suppresses, contexts]) => ({
      feature, rank, density, nearest, cosine, promotes, suppresses, contexts,
      text: [...promotes, ...suppresses, ...contexts.flatMap((c) => [c[0] + c[1] + c[2], c[4]])].join("\n").toLowerCase(),
    })));
  const [which, query, order, found, list, more] =
    ["which", "query", "order", "found", "list", "more"].map((id) => document.getElementById(id));
  const orders = {
    rank: (a, b) => a.rank - b.rank,
    rare: (a, b) => b.rank - a.rank,
    feature: (a, b) => a.feature - b.feature,
    cosine: (a, b) => b.cosine - a.cosine,
  };
  let hits = [], shown = 0;

  const element = (tag, className, ...children) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children);
    return made;
  };
  const visible = (text) => text.replaceAll("\r", "").replaceAll("\n", "↵ ");
  const share = (value) => `${Number((100 * value).toPrecision(2))} %`;

  const tokens = (label, words) => {
    const chips = words.map((word) => element("code", "", visible(word).replaceAll(" ", "␣")));
    return element("p", "lens", element("span", "meta", label), ...chips);
  };
  const context = ([before, token, after, value, document_]) => {
    // white space before the word stays outside the highlight, unless the token is nothing else
    const word = token.trimStart() || token;
    const space = token.slice(0, token.length - word.length);
    const mark = element("mark", "", word.trim() || word.includes("\n") ? visible(word) : "␣".repeat(word.length));
    const place = element("span", "meta", `${document_}, activation ${Number(value.toPrecision(3))}`);
    return element("li", "", "…", visible(before + space), mark, visible(after), "… ", place);
  };
  const card = (page) => {
    const peer = element("button", "link", `feature ${page.nearest}`);
    peer.type = "button";
    peer.addEventListener("click", () => { query.value = `#${page.nearest}`; search(); });
    const head = element("h3", "", `Feature ${page.feature} `, element("span", "meta",
      `rank ${page.rank.toLocaleString("en")}, fires on ${share(page.density)} of tokens, closest `, peer,
      ` (cosine ${page.cosine.toFixed(2)})`));
    const item = element("li", "card", head);
    if (page.promotes.length) item.append(tokens("promotes", page.promotes), tokens("suppresses", page.suppresses));
    item.append(element("ol", "contexts", ...page.contexts.map(context)));
    return item;
  };
  const extend = () => {
    list.append(...hits.slice(shown, shown + AT_ONCE).map(card));
    shown = Math.min(shown + AT_ONCE, hits.length);
    more.hidden = shown === hits.length;
  };
  function search() {
    const pages = runs[Number(which.value)];
    const words = query.value.trim().toLowerCase();
    const number = /^#?(\d+)$/.exec(words);
    const byNumber = number ? pages.filter((page) => page.feature === Number(number[1])) : [];
    hits = words.startsWith("#") || byNumber.length ? byNumber : pages.filter((page) => page.text.includes(words));
    hits = [...hits].sort(orders[order.value]);
    found.textContent = words
      ? `${hits.length.toLocaleString("en")} of ${pages.length.toLocaleString("en")} feature pages`
      : `${pages.length.toLocaleString("en")} feature pages`;
    list.replaceChildren();
    shown = 0;
    extend();
  }
  which.addEventListener("change", search);
  order.addEventListener("change", search);
  query.addEventListener("input", search);
  more.addEventListener("click", extend);
  query.form.addEventListener("submit", (event) => event.preventDefault());
  search();
}
