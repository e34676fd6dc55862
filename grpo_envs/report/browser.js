// The browser of completions. Filters stand in the address (#step=3&min=1), so they can be shared.
"use strict";
const ROWS = JSON.parse(document.getElementById("rows").textContent);
const FORM = document.getElementById("filters");
const LIST = document.getElementById("list");
const MORE = document.getElementById("more");
const AT_ONCE = 30;
// What is marked in a text: thoughts, code, answers. Sections that were not closed end with the text.
const SECTIONS = /<think>[\s\S]*?(?:<\/think>|$)|```[\s\S]*?(?:```|$)|<answer>[\s\S]*?(?:<\/answer>|$)|\\boxed\{[^\n]*?\}/g;

let found = [];
let shown = 0;

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text; // never innerHTML: a model wrote it
  if (name) made.className = name;
  return made;
}

function marked(text) {
  const pre = element("pre");
  let at = 0;
  for (const match of text.matchAll(SECTIONS)) {
    pre.append(text.slice(at, match.index));
    const kind = match[0].startsWith("<think>") ? "think" : match[0].startsWith("```") ? "code" : "answer";
    pre.append(element("span", match[0], kind));
    at = match.index + match[0].length;
  }
  pre.append(text.slice(at));
  return pre;
}

function chip(name, value) {
  const kind = value >= 1 ? "chip full" : value <= 0 ? "chip none" : "chip";
  return element("span", `${name} ${+value.toFixed(3)}`, kind);
}

function card(row) {
  const article = element("article");
  const head = element("div", undefined, "head");
  head.append(element("b", row.valid ? row.reward.toFixed(3) : "invalid"));
  head.append(element("span", `advantage ${row.advantage > 0 ? "+" : ""}${row.advantage.toFixed(2)}`,
    row.advantage > 0 ? "up" : row.advantage < 0 ? "down" : ""));
  for (const [name, value] of Object.entries(row.parts)) head.append(chip(name, value));
  head.append(element("span", `step ${row.step}, ${row.tokens} tokens`));
  if (RUNS.length > 1) head.append(element("span", row.run));
  if (row.cut) head.append(element("span", "truncated", "warn"));
  const group = element("a", "its group");
  group.href = "#" + new URLSearchParams({ run: row.run, step: row.step, problem: row.problem });
  head.append(group);
  article.append(head, element("p", row.prompt, "prompt"));
  if (row.error) article.append(element("p", row.error, "warn"));
  if (row.note) article.append(element("p", row.note, "note"));
  if (row.turns) {
    for (const [action, observation] of row.turns) {
      article.append(marked(action));
      if (observation) article.append(element("p", observation, "prompt observation"));
    }
  } else {
    article.append(marked(row.text));
  }
  return article;
}

function value(row, part) {
  return part ? row.parts[part] : row.reward;
}

function matches(row, want) {
  const earned = value(row, want.part);
  return (!want.run || row.run === want.run)
    && (!want.step || row.step === +want.step)
    && (!want.problem || row.problem === +want.problem)
    && (!want.part || earned !== undefined)
    && (!want.min || earned >= +want.min)
    && (!want.max || earned <= +want.max)
    && (!want.text || row.text.includes(want.text) || row.prompt.includes(want.text))
    && (!want.only || (want.only === "invalid" ? !row.valid : row.cut));
}

function sorted(rows, want) {
  const by = {
    best: (a, b) => value(b, want.part) - value(a, want.part),
    worst: (a, b) => value(a, want.part) - value(b, want.part),
    longest: (a, b) => b.tokens - a.tokens,
  }[want.sort];
  return by ? rows.toSorted(by) : rows;
}

function showMore() {
  for (const row of found.slice(shown, shown + AT_ONCE)) LIST.append(card(row));
  shown = Math.min(found.length, shown + AT_ONCE);
  MORE.hidden = shown === found.length;
  document.getElementById("count").textContent = `${found.length} match, ${shown} shown`;
}

function show(want) {
  found = sorted(ROWS.filter((row) => matches(row, want)), want);
  shown = 0;
  LIST.replaceChildren();
  showMore();
}

function readAddress() {
  const want = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  for (const field of FORM.elements) if (field.name) field.value = want[field.name] ?? "";
  show(want);
}

function writeAddress() {
  const filters = [...new FormData(FORM)].filter(([, text]) => text !== "");
  history.replaceState(null, "", "#" + new URLSearchParams(filters));
  show(Object.fromEntries(filters));
}

function offer(name, options) {
  for (const option of options) FORM.elements[name].append(new Option(option, option));
}

const RUNS = [...new Set(ROWS.map((row) => row.run))];
document.querySelector("[data-of=run]").hidden = RUNS.length < 2;
offer("run", RUNS);
offer("step", [...new Set(ROWS.map((row) => row.step))].sort((a, b) => a - b));
offer("part", [...new Set(ROWS.flatMap((row) => Object.keys(row.parts)))].sort());
FORM.addEventListener("input", writeAddress);
FORM.addEventListener("submit", (event) => event.preventDefault());
FORM.addEventListener("reset", () => setTimeout(writeAddress));
MORE.addEventListener("click", showMore);
window.addEventListener("hashchange", readAddress);
readAddress();
document.body.dataset.ready = Math.round(performance.now()); // [ms] since the page was opened
