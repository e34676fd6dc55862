// The browser of completions. Filters are in the address (#step=3&min=1), so they can be shared.
"use strict";
const FORM = document.getElementById("filters");
const LIST = document.getElementById("list");
const MORE = document.getElementById("more");
const AT_ONCE = 30;
// The marked sections of a text: thoughts, code, answers. Unclosed sections end with the text.
const SECTIONS = /<think>[\s\S]*?(?:<\/think>|$)|```[\s\S]*?(?:```|$)|<answer>[\s\S]*?(?:<\/answer>|$)|\\boxed\{[^\n]*?\}/g;

let rows = [];
let abouts = {}; // of each run: the weights of its reward components, ddof
let groups = new Map();
let contexts = new Map(); // system message and tools of a group
let found = [];
let shown = 0;

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text; // never innerHTML: a model wrote the text
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

function short(number) {
  return String(+number.toFixed(3));
}

function earned(row, part) {
  return (abouts[row.run]?.weights[part] ?? 1) * row.parts[part];
}

function chip(row, part) {
  const value = row.parts[part];
  const adds = earned(row, part);
  const kind = adds < 0 ? "penalty" : adds === 0 ? "none" : value >= 1 ? "full" : "some";
  const made = element("span", `${part} ${short(value)}`, `chip ${kind}`);
  made.title = `adds ${short(adds)} to the reward`;
  return made;
}

function keyOf(run, step, problem) {
  return JSON.stringify([run, step, problem]);
}

// The mean and the std of the valid rewards of a group, as the advantages use them.
function statistics(key, run) {
  const rewards = groups.get(key).filter((row) => row.valid).map((row) => row.reward);
  const count = rewards.length;
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / Math.max(count, 1);
  const squares = rewards.reduce((sum, reward) => sum + (reward - mean) ** 2, 0);
  const std = Math.sqrt(squares / Math.max(count - (abouts[run]?.ddof ?? 1), 1));
  return `${groups.get(key).length} in its group: mean ${mean.toFixed(3)}, std ${std.toFixed(3)}`;
}

function context(row) {
  const said = contexts.get(keyOf(row.run, row.step, row.problem));
  if (!said) return "";
  const details = element("details");
  const names = said.tools.map((tool) => tool.function?.name ?? tool.name ?? "?");
  const tools = names.length ? `tools: ${names.join(", ")}` : "";
  const what = [said.system_prompt ? "system prompt" : "", tools].filter(Boolean).join("; ");
  details.append(element("summary", what));
  if (said.system_prompt) details.append(element("pre", said.system_prompt));
  if (names.length) details.append(element("pre", JSON.stringify(said.tools, null, 1)));
  return details;
}

function turnsOf(row) {
  const made = [];
  row.turns.forEach((turn, i) => {
    const head = element("p", `turn ${i + 1}: reward ${short(turn.reward)}`, turn.reward < 0 ? "turn down" : "turn");
    made.push(head, marked(turn.action));
    if (turn.note) made.push(element("p", turn.note, "note"));
    if (turn.observation) made.push(element("p", turn.observation, "prompt observation"));
  });
  return made;
}

function card(row) {
  const article = element("article");
  article.tabIndex = 0;
  const head = element("div", undefined, "head");
  head.append(element("b", row.valid ? row.reward.toFixed(3) : "invalid"));
  head.append(element("span", `advantage ${row.advantage > 0 ? "+" : ""}${row.advantage.toFixed(2)}`,
    row.advantage > 0 ? "up" : row.advantage < 0 ? "down" : ""));
  for (const part of Object.keys(row.parts)) head.append(chip(row, part));
  head.append(element("span", `step ${row.step}, ${row.tokens} tokens`));
  if (Object.keys(abouts).length > 1) head.append(element("span", row.run));
  if (row.cut) head.append(element("span", "truncated", "warn"));
  const group = element("a", statistics(keyOf(row.run, row.step, row.problem), row.run), "group");
  group.href = "#" + new URLSearchParams({ run: row.run, step: row.step, problem: row.problem });
  head.append(group);
  article.append(head, context(row), element("p", row.prompt, "prompt"));
  if (row.gold) {
    const gold = element("p", undefined, "gold");
    gold.append(element("b", "gold "), row.gold);
    article.append(gold);
  }
  if (row.error) article.append(element("p", row.error, "warn"));
  if (row.note && !row.turns?.some((turn) => turn.note)) article.append(element("p", row.note, "note"));
  article.append(...(row.turns ? turnsOf(row) : [marked(row.text)]));
  return article;
}

function value(row, part) {
  return part ? row.parts[part] : row.reward;
}

const ONLY = {
  invalid: (row) => !row.valid,
  cut: (row) => row.cut,
  penalty: (row) => Object.keys(row.parts).some((part) => earned(row, part) < 0),
};

function matches(row, want) {
  const got = value(row, want.part);
  return (!want.run || row.run === want.run)
    && (!want.step || row.step === +want.step)
    && (!want.problem || row.problem === +want.problem)
    && (!want.part || got !== undefined)
    && (!want.min || got >= +want.min)
    && (!want.max || got <= +want.max)
    && (!want.text || row.text.includes(want.text) || row.prompt.includes(want.text))
    && (!want.only || !Object.hasOwn(ONLY, want.only) || ONLY[want.only](row));
}

function sorted(some, want) {
  const by = {
    best: (a, b) => value(b, want.part) - value(a, want.part),
    worst: (a, b) => value(a, want.part) - value(b, want.part),
    longest: (a, b) => b.tokens - a.tokens,
  }[want.sort];
  return by ? some.toSorted(by) : some;
}

function say() {
  MORE.hidden = shown === found.length;
  document.getElementById("count").textContent = `${found.length} match, ${shown} shown`;
}

function showMore() {
  for (const row of found.slice(shown, shown + AT_ONCE)) LIST.append(card(row));
  shown = Math.min(found.length, shown + AT_ONCE);
  say();
}

function show(want) {
  found = sorted(rows.filter((row) => matches(row, want)), want);
  shown = 0;
  LIST.replaceChildren();
  showMore();
}

function wanted() {
  return Object.fromEntries([...new FormData(FORM)].filter(([, text]) => text !== ""));
}

function readAddress() {
  const want = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  for (const field of FORM.elements) if (field.name) field.value = want[field.name] ?? "";
  show(want);
}

function writeAddress() {
  history.replaceState(null, "", "#" + new URLSearchParams(wanted()));
  show(wanted());
}

function offer(name, options) {
  const select = FORM.elements[name];
  const there = new Set([...select.options].map((option) => option.value));
  for (const option of options) if (!there.has(String(option))) select.append(new Option(option, option));
}

// Takes completions and their contexts. `more`: append them to the completions so far.
function take(data, more) {
  rows = more ? [...rows, ...data.rows] : data.rows;
  abouts = data.runs;
  for (const row of data.rows) {
    const key = keyOf(row.run, row.step, row.problem);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  for (const { of, ...said } of data.contexts) for (const place of of) contexts.set(keyOf(...place), said);
  const runs = Object.keys(abouts);
  document.querySelector("[data-of=run]").hidden = runs.length < 2;
  offer("run", runs);
  offer("step", [...new Set(rows.map((row) => row.step))].sort((a, b) => a - b));
  offer("part", [...new Set(rows.flatMap((row) => Object.keys(row.parts)))].sort());
}

FORM.addEventListener("input", writeAddress);
FORM.addEventListener("submit", (event) => event.preventDefault());
FORM.addEventListener("reset", () => setTimeout(writeAddress));
MORE.addEventListener("click", showMore);
window.addEventListener("hashchange", () => {
  if (!document.getElementById(location.hash.slice(1))) readAddress(); // a link to a section is not a filter
});
