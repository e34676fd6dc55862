// The keyboard commands; `?` lists them.
"use strict";
const DIALOG = document.getElementById("keys");

function cards() {
  return [...LIST.children];
}

// Moves the focus by `by` completions; shows more completions at the end of the list.
function go(by) {
  const now = cards().indexOf(document.activeElement?.closest("#list > article"));
  const next = now < 0 ? 0 : now + by;
  if (next >= cards().length && !MORE.hidden) showMore();
  const card = cards()[Math.min(Math.max(next, 0), cards().length - 1)];
  card?.focus();
  card?.scrollIntoView({ block: "nearest" });
}

function turnStep(by) {
  const select = FORM.elements.step;
  const next = select.selectedIndex + by;
  if (next < 0 || next >= select.options.length) return;
  select.selectedIndex = next;
  writeAddress();
}

function ofFocused(selector) {
  return document.activeElement?.closest("#list > article")?.querySelector(selector);
}

function jump(id) {
  document.getElementById(id)?.scrollIntoView();
}

const BINDINGS = {
  "?": ["show this list", () => DIALOG.showModal()],
  j: ["next completion", () => go(1)],
  k: ["previous completion", () => go(-1)],
  g: ["the group of the completion in focus", () => ofFocused("a.group")?.click()],
  o: ["open or close its system prompt and tools", () => ofFocused("summary")?.click()],
  n: ["completions of the next step", () => turnStep(1)],
  p: ["completions of the previous step", () => turnStep(-1)],
  x: ["clear the filters", () => FORM.reset()],
  "/": ["search in prompts and completions", () => FORM.elements.text.focus()],
  t: ["top of the page", () => window.scrollTo(0, 0)],
  c: ["completions", () => jump("completions")],
  v: ["curves", () => jump("curves")],
};

for (const [key, [says]] of Object.entries(BINDINGS)) {
  const line = element("tr");
  const cell = element("td");
  cell.append(element("kbd", key));
  line.append(cell, element("td", says));
  document.getElementById("bindings").append(line);
}

document.getElementById("help").addEventListener("click", () => DIALOG.showModal());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || DIALOG.open) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (!Object.hasOwn(BINDINGS, event.key)) return;
  event.preventDefault();
  BINDINGS[event.key][1]();
});
