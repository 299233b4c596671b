// Text with its tokens shaded by activation, and the same text under every autoencoder. All text is set as text.
const BEFORE = 16, AFTER = 8;

const element = (tag, className, ...children) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
};
const button = (text, action) => {
  const made = element("button", "link", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
};
const digits = (value) => String(Number(value.toPrecision(3)));
const percent = (value) => `${Number((100 * value).toPrecision(2))} %`;
const visible = (text) => text.replaceAll("\r", "").replaceAll("\n", "↵ ");
const spaced = (text) => visible(text).replaceAll(" ", "␣");

// The pieces from `first` to `last` of a window. `shades` holds position, activation, position, activation, ...;
// `largest` has the full colour. `marked` is the position that the example is about.
function shadedText(pieces, shades, largest, marked, first, last, pressed) {
  const activations = new Map();
  for (let i = 0; i < shades.length; i += 2) activations.set(shades[i], shades[i + 1]);
  const line = element("span", "text");
  for (let at = first; at <= last; at++) {
    const value = activations.get(at);
    if (value === undefined && !pressed) {
      line.append(visible(pieces[at]));
      continue;
    }
    // white space before a word stays outside its colour, unless the token is nothing else
    const word = pieces[at].trimStart() || pieces[at];
    line.append(visible(pieces[at].slice(0, pieces[at].length - word.length)));
    const blank = !word.trim() && !word.includes("\n");
    const shown = element(at === marked ? "mark" : "span", value === undefined ? "token" : "token fires",
      blank ? "␣".repeat(word.length) : visible(word));
    if (value !== undefined) {
      shown.style.setProperty("--share", `${Math.round(15 + 85 * Math.min(value / largest, 1))}%`);
      shown.title = `activation ${digits(value)}`;
    }
    if (pressed) shown.addEventListener("click", () => pressed(at));
    line.append(shown);
  }
  return line;
}

const documentAt = (documents, at) => documents.findLast(([start]) => start <= at)[1];

// One example of a feature: [group, window, position, shades].
function example(run, text, [, window_, at, shades], largest, long) {
  const pieces = text.windows[window_];
  const item = element("li", "");
  const draw = () => {
    const first = long ? 0 : Math.max(at - BEFORE, 0);
    const last = long ? pieces.length - 1 : Math.min(at + AFTER, pieces.length - 1);
    const place = shades.findIndex((shade, i) => i % 2 === 0 && shade === at);
    const value = place < 0 ? 0 : shades[place + 1];
    const meta = element("span", "meta", `${documentAt(text.documents[window_], at)}, activation ${digits(value)}`);
    if (first > 0 || last < pieces.length - 1 || long) {
      meta.append(" · ", button(long ? "shorter" : "longer", () => { long = !long; draw(); }));
    }
    if (run.read) {
      const others = sharing(run).length > 1 ? "under every autoencoder" : "other features here";
      meta.append(" · ", button(others, () => compare(item, run, text, window_, at)));
    }
    // pages without all tokens hold a part of each text
    item.replaceChildren(first > 0 || !run.read ? "…" : "", shadedText(pieces, shades, largest, at, first, last),
      last < pieces.length - 1 || !run.read ? "… " : " ", meta);
  };
  draw();
  return item;
}

const sharing = (run) => dashboard.runs.filter((other) => other.text === run.text);

// The strongest features of a token under each autoencoder of the same text; a press on a word asks about that word.
async function compare(item, run, text, window_, at) {
  item.querySelector(".compared")?.remove();
  const panel = element("div", "compared");
  item.append(panel);
  const runs = sharing(run);
  const tokens = await Promise.all(runs.map((other) => entry(`${other.key}/tokens`, window_)));
  const pieces = text.windows[window_];
  const draw = (asked) => {
    const lines = runs.map((other, number) => {
      const strongest = tokens[number][asked];
      const followed = strongest[0];
      const shades = tokens[number].flatMap((found, place) => {
        const i = found.findIndex((value, index) => index % 2 === 0 && value === followed);
        return i < 0 ? [] : [place, found[i + 1]];
      });
      const peak = Math.max(...shades.filter((_, index) => index % 2), 0);
      const links = [];
      for (let i = 0; i < strongest.length; i += 2) {
        const link = element("a", "", `${strongest[i]}`);
        link.href = address(other, strongest[i]);
        links.push(link, ` (${digits(strongest[i + 1])}) `);
      }
      return element("div", "", element("p", "meta", element("b", "", other.name), ": ",
        ...(links.length ? links : ["no feature fires"])),
      shadedText(pieces, shades, peak, asked, Math.max(asked - BEFORE, 0),
        Math.min(asked + AFTER, pieces.length - 1), draw));
    });
    panel.replaceChildren(element("p", "meta", "The strongest features of ", element("b", "", spaced(pieces[asked])),
      "; the first is shaded where it is among the five strongest. Press another word to ask about that."), ...lines,
    button("close", () => panel.remove()));
  };
  draw(at);
}

// Where a feature is shown.
function address(run, feature) {
  const opened = dashboard.runs[dashboard.opened];
  return `#feature-${feature}${run.key === opened.key ? "" : `@${encodeURIComponent(run.name)}`}`;
}
