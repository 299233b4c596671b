// The explorer: shows answers that `allocation` computed when the site was built; see docs/scripts/explorer_answers.py.
"use strict";

const allocationExplorer = (() => {
  const SLIDERS = ["budget", "token-cap", "feature-cap", "floor", "temperature"];
  // Limits of the three choices with 24 matches each, as slider positions.
  const CHOICES = [
    { name: "Token choice", about: "every token takes its best 3", position: [96, 2, 4, 0, 0] },
    { name: "Mutual choice", about: "the best 24 of all pairs", position: [24, 4, 4, 0, 0] },
    { name: "Feature choice", about: "every feature takes its best 2", position: [96, 4, 1, 0, 0] },
  ];
  const folder = new URL("explorer/", document.currentScript.src);
  const files = new Map();
  const byId = (id) => document.getElementById(id);
  let cells = [];
  let pointed = [0, 0];
  let shown = null;

  // ---- answers -----------------------------------------------------------------------------------------------

  /** A file calls this with what it holds. */
  function receive(file) {
    files.set(file.name, file);
    if (file.name === preset()) show();
  }

  function load(name) {
    if (files.has(name)) return show();
    const script = document.createElement("script");
    script.src = new URL(`${name}.js`, folder);
    script.onerror = () => { byId("verdict").textContent = `The answers could not be read from ${script.src}.`; };
    document.head.append(script);
  }

  /** The exact answer at a position: matches, prices, total; or {error}. */
  function exact(file, [budget, tokenCap, featureCap, floor]) {
    const row = (floor * file.tokenCaps.length + tokenCap) * file.featureCaps.length + featureCap;
    const answer = file.exact.answers[file.exact.positions[row * file.budgets + budget]];
    if (typeof answer === "string") return { error: answer };
    const [bits, total, lam, lower, upper, tokens, features, solver] = answer;
    const size = file.scores[0].length;
    const match = file.scores.map((scores, i) => scores.map((_, j) => bitAt(bits, i * size + j)));
    return { match, total, lam, lower, upper: upper ?? Infinity, tokens, features, solver };
  }

  function bitAt(hex, index) {
    return (parseInt(hex[index >> 2], 16) >> (3 - (index & 3))) & 1;
  }

  /** The soft answer at a position: the shares follow from the prices. Null at temperature 0, {error} with a floor. */
  function soft(file, [budget, tokenCap, featureCap, floor, temperature]) {
    if (temperature === 0) return null;
    if (file.floors[floor] > 0) return { error: file.softRefusal };
    const row = ((temperature - 1) * file.tokenCaps.length + tokenCap) * file.featureCaps.length + featureCap;
    const [total, lam, tokens, features] = file.soft.answers[file.soft.positions[row * file.budgets + budget]];
    const heat = file.temperatures[temperature];
    const answer = { total, lam: lam ?? Infinity, tokens, features, heat };
    answer.share = file.scores.map((scores, i) =>
      scores.map((_, j) => 1 / (1 + Math.exp(-reduced(file, answer, i, j) / heat))));
    return answer;
  }

  /** A score minus the prices of the limits that the pair would use. */
  function reduced(file, prices, i, j) {
    return file.scores[i][j] - prices.lam - prices.tokens[i] - prices.features[j];
  }

  /** What the prices prove: no allocation within the limits has a larger total. */
  function bound(file, [budget, tokenCap, featureCap, floor], answer) {
    const side = (prices, cap, least) => prices.reduce((sum, p) => sum + (p > 0 ? cap * p : least * p), 0);
    let sum = budget * answer.lam;
    sum += side(answer.tokens, file.tokenCaps[tokenCap] ?? 0, 0);
    sum += side(answer.features, file.featureCaps[featureCap] ?? 0, file.floors[floor]);
    file.scores.forEach((scores, i) => scores.forEach((_, j) => { sum += Math.max(reduced(file, answer, i, j), 0); }));
    return sum;
  }

  // ---- controls ----------------------------------------------------------------------------------------------

  function preset() {
    return document.querySelector("input[name=preset]:checked").value;
  }

  function position() {
    return SLIDERS.map((id) => Number(byId(id).value));
  }

  function move(name, values) {
    document.querySelector(`input[name=preset][value=${name}]`).checked = true;
    SLIDERS.forEach((id, n) => { byId(id).value = values[n]; });
    load(name);
  }

  function label(id, text, spoken) {
    byId(`${id}-shown`).textContent = text;
    byId(id).setAttribute("aria-valuetext", spoken ?? text);
  }

  function labels(file, [budget, tokenCap, featureCap, floor, temperature]) {
    const cap = (id, limit) => (limit === null ? label(id, "none") : label(id, `≤ ${limit}`, `at most ${limit}`));
    const least = file.floors[floor];
    cap("budget", budget);
    cap("token-cap", file.tokenCaps[tokenCap]);
    cap("feature-cap", file.featureCaps[featureCap]);
    label("floor", least ? `≥ ${least}` : "none", least ? `at least ${least}` : "none");
    label("temperature", temperature ? String(file.temperatures[temperature]) : "0, exact");
    byId("about").textContent = document.querySelector("input[name=preset]:checked").dataset.about;
  }

  // ---- matrix ------------------------------------------------------------------------------------------------

  function build(file) {
    const table = byId("matrix");
    table.replaceChildren();
    const head = table.createTHead().insertRow();
    head.append(header("", "col"));
    file.scores[0].forEach((_, j) => head.append(header(j, "col", `feature ${j}`)));
    head.append(header("load", "col"), header("price", "col"));
    const body = table.createTBody();
    cells = file.scores.map((scores, i) => {
      const row = body.insertRow();
      row.append(header(i, "row", `token ${i}`));
      return [...scores, "load", "price"].map((score, j) => {
        const cell = row.insertCell();
        if (j < scores.length) point(cell, i, j, score);
        else cell.className = score;
        return cell;
      });
    });
    for (const kind of ["load", "price"]) {
      const row = table.createTFoot().insertRow();
      row.append(header(kind, "row"));
      cells.push([...file.scores[0], "", ""].map(() => {
        const cell = row.insertCell();
        cell.className = kind;
        return cell;
      }));
    }
  }

  function header(text, scope, spoken) {
    const cell = document.createElement("th");
    cell.scope = scope;
    cell.textContent = text;
    if (spoken) cell.setAttribute("aria-label", spoken);
    return cell;
  }

  function point(cell, i, j, score) {
    cell.dataset.at = `${i} ${j}`;
    cell.innerHTML = `<span>${number(score)}</span>`;
    cell.tabIndex = i === pointed[0] && j === pointed[1] ? 0 : -1;
    const here = () => {
      cells[pointed[0]][pointed[1]].tabIndex = -1;
      pointed = [i, j];
      cell.tabIndex = 0;
      explain();
    };
    cell.addEventListener("mouseenter", here);
    cell.addEventListener("focus", here);
    cell.addEventListener("click", () => cell.focus());
    cell.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = cells[i + step[0]]?.[j + step[1]];
      if (next?.dataset.at) next.focus();
    });
  }

  function fill(file, answer, warm) {
    const highest = Math.max(...file.scores.flat());
    const lowest = Math.min(...file.scores.flat());
    file.scores.forEach((scores, i) => scores.forEach((score, j) => {
      const cell = cells[i][j];
      const match = answer.match ? answer.match[i][j] : 0;
      const share = warm?.share ? warm.share[i][j] : match;
      const kinds = { match, warm: warm?.share, "deep-light": share > 0.83, "deep-dark": share > 0.6 };
      cell.className = Object.keys(kinds).filter((kind) => kinds[kind]).join(" ");
      cell.style.setProperty("--share", share.toFixed(3));
      cell.style.setProperty("--level", ((score - lowest) / (highest - lowest)).toFixed(3));
      cell.setAttribute("aria-label", `token ${i}, feature ${j}, score ${score}${match ? ", match" : ""}`);
    }));
    const rows = file.scores.length;
    const columns = file.scores[0].length;
    const counted = warm?.share ?? answer.match;
    const priced = warm?.share ? warm : answer;
    file.scores.forEach((_, i) => {
      const load = counted?.[i].reduce((sum, share) => sum + share, 0);
      loads(cells[i][columns], load, columns);
      price(cells[i][columns + 1], priced.tokens?.[i]);
    });
    file.scores[0].forEach((_, j) => {
      loads(cells[rows][j], counted?.reduce((sum, shares) => sum + shares[j], 0), rows);
      price(cells[rows + 1][j], priced.features?.[j]);
    });
    const all = counted?.flat().reduce((sum, share) => sum + share, 0);
    loads(cells[rows][columns], all, rows * columns);
    price(cells[rows + 1][columns + 1], priced.lam);
  }

  function loads(cell, load, most) {
    cell.textContent = load === undefined ? "" : number(load, 1);
    cell.style.setProperty("--load", load === undefined ? 0 : (load / most).toFixed(3));
  }

  function price(cell, value) {
    cell.textContent = value === undefined ? "" : number(value, 1);
    cell.dataset.sign = value === undefined || Math.abs(value) < 0.05 ? "0" : value > 0 ? "cap" : "floor";
    cell.title = value === undefined ? "" : String(value);
  }

  /** With a minus sign as wide as a digit; at most `digits` after the point. */
  function number(value, digits = 3) {
    if (value === Infinity) return "∞";
    const rounded = Number(value.toFixed(digits));
    return (rounded === 0 ? "0" : String(rounded)).replace("-", "−");
  }

  // ---- words -------------------------------------------------------------------------------------------------

  /** The cell pointed at: its score, what it would pay, and what follows. */
  function explain() {
    if (!shown) return;
    const { file, answer, warm } = shown;
    const [i, j] = pointed;
    const prices = warm?.share ? warm : answer;
    let text = `Token ${i}, feature ${j}: score ${number(file.scores[i][j])}`;
    if (prices.lam === Infinity) text += ". A budget of 0 closes every pair.";
    else if (!prices.error) {
      const left = reduced(file, prices, i, j);
      const paid = [["budget", prices.lam], ["token", prices.tokens[i]], ["feature", prices.features[j]]];
      for (const [name, paying] of paid) {
        const amount = number(Math.abs(paying), 2);
        if (amount !== "0") text += ` ${paying > 0 ? "−" : "+"} ${name} ${amount}`;
      }
      text += ` = ${number(left, 2)}. `;
      if (warm?.share) text += `At temperature ${warm.heat} that is a share of ${number(warm.share[i][j], 3)}.`;
      else if (left > 0) text += "Above 0, so it is a match.";
      else if (left < 0) text += "Below 0, so it is not.";
      else text += `Exactly 0: with these prices either is optimal. Here it is ${answer.match[i][j] ? "" : "not "}a match.`;
    }
    byId("readout").textContent = text;
  }

  function summarise(file, at, answer, warm) {
    const verdict = byId("verdict");
    verdict.className = answer.error ? "verdict infeasible" : warm?.error ? "verdict refused" : "verdict";
    verdict.replaceChildren();
    if (answer.error) verdict.append(strong("InfeasibleError"), answer.error);
    else if (warm?.error) verdict.append(strong("No soft answer"), `${warm.error}. Shown is the exact one.`);
    const list = byId("summary");
    list.replaceChildren();
    if (answer.error) return;
    const matches = answer.match.flat().reduce((sum, match) => sum + match, 0);
    const items = [
      ["total", "Total score", number(answer.total)],
      ["bound", "Bound from the prices", number(bound(file, at, answer))],
      ["matches", "Matches", String(matches)],
      ["lam", "Budget price", `${number(answer.lam)} in [${number(answer.lower)}, ${number(answer.upper)}]`],
      ["solver", "Solved by", answer.solver],
    ];
    if (warm?.share) items.push(["soft", "Soft total", number(warm.total, 1)]);
    for (const [key, name, value] of items) {
      const item = document.createElement("div");
      const term = document.createElement("dt");
      const text = document.createElement("dd");
      term.textContent = name;
      text.textContent = value;
      text.dataset.value = key;
      item.append(term, text);
      list.append(item);
    }
  }

  function strong(text) {
    const element = document.createElement("strong");
    element.textContent = text;
    return element;
  }

  // ---- pictures ----------------------------------------------------------------------------------------------

  /** The optimal total for every budget under the same other limits; the price is the slope. */
  function curve(file, at, answer) {
    const totals = Array.from({ length: file.budgets }, (_, budget) => exact(file, [budget, ...at.slice(1)]).total);
    const known = totals.filter((total) => total !== undefined);
    const picture = byId("curve");
    const note = byId("curve-note");
    if (!known.length) {
      picture.replaceChildren();
      picture.setAttribute("aria-label", "No budget meets these limits.");
      note.textContent = "No budget meets these limits.";
      return;
    }
    const top = Math.max(...known, 1);
    const bottom = Math.min(...known, 0);
    const x = (budget) => 4 + (312 * budget) / (file.budgets - 1);
    const y = (total) => 112 - (104 * (total - bottom)) / (top - bottom);
    const line = totals.map((total, b) => (total === undefined ? "" : `${x(b).toFixed(1)},${y(total).toFixed(1)}`));
    const start = totals.findIndex((total) => total !== undefined);
    let inside = start > 0 ? `<rect class="none" x="${x(0)}" y="4" width="${x(start) - x(0)}" height="110"/>` : "";
    inside += `<line class="axis" x1="4" x2="316" y1="${y(0)}" y2="${y(0)}"/>`;
    inside += `<polyline class="line" points="${line.filter(Boolean).join(" ")}"/>`;
    if (!answer.error) {
      const tangent = (b) => `${x(b).toFixed(1)},${y(answer.total + answer.lam * (b - at[0])).toFixed(1)}`;
      inside += `<polyline class="slope" points="${tangent(at[0] - 14)} ${tangent(at[0] + 14)}"/>`;
      inside += `<circle class="here" cx="${x(at[0])}" cy="${y(answer.total)}" r="4.5"/>`;
    }
    picture.innerHTML = inside;
    picture.setAttribute("aria-label", `Optimal total for every budget, up to ${number(top)}`);
    note.textContent = "Optimal total for every budget; the slope is the budget's price.";
  }

  function choices(file, at) {
    const answers = CHOICES.map((choice) => exact(file, choice.position));
    const mutual = answers[1].match.flat();
    byId("choices").replaceChildren(...CHOICES.map((choice, n) => {
      const { match, total } = answers[n];
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", String(choice.position.every((value, k) => value === at[k])));
      const tokens = match.map((row) => row.reduce((sum, one) => sum + one, 0));
      const features = match[0].map((_, j) => match.reduce((sum, row) => sum + row[j], 0));
      const common = match.flat().filter((one, k) => one && mutual[k]).length;
      const unused = features.filter((load) => load === 0).length;
      const rects = match.flatMap((row, i) => row.map((one, j) =>
        `<rect class="${one ? "match" : "cell"}" x="${j * 10 + 0.75}" y="${i * 10 + 0.75}" width="8.5" height="8.5" rx="1.5"/>`));
      button.innerHTML = `<svg viewBox="0 0 120 80" aria-hidden="true">${rects.join("")}</svg>
        <span><b>${choice.name}</b>${choice.about}<br>total score ${number(total)}<br>
        ${range(tokens)} per token, ${range(features)} per feature<br>
        ${unused} unused${n === 1 ? "" : `, ${common} matches in common with mutual choice`}</span>`;
      button.addEventListener("click", () => move(preset(), choice.position));
      return button;
    }));
  }

  function range(counts) {
    const low = Math.min(...counts);
    const high = Math.max(...counts);
    return low === high ? `${low}` : `${low} to ${high}`;
  }

  // ---- together ----------------------------------------------------------------------------------------------

  function show() {
    const file = files.get(preset());
    if (!file) return;
    const at = position();
    if (byId("matrix").dataset.shows !== file.name) {
      build(file);
      byId("matrix").dataset.shows = file.name;
    }
    const answer = exact(file, at);
    const warm = answer.error ? null : soft(file, at);
    shown = { file, answer, warm };
    labels(file, at);
    fill(file, answer, warm);
    summarise(file, at, answer, warm);
    curve(file, at, answer);
    choices(file, at);
    explain();
  }

  for (const id of SLIDERS) byId(id).addEventListener("input", () => load(preset()));
  for (const radio of document.querySelectorAll("input[name=preset]")) {
    radio.addEventListener("change", () => load(preset()));
  }
  for (const button of document.querySelectorAll("button[data-position]")) {
    button.addEventListener("click", () => {
      const [name, ...values] = button.dataset.position.split(" ");
      move(name, values.map(Number));
      byId("explorer").scrollIntoView({ block: "start" });
    });
  }
  load(preset());
  return { receive };
})();
