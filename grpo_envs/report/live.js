// Follows a run: requests new data, and adds it to the page.
"use strict";
const LIVE = document.getElementById("live");
const PAUSE = 2000; // [ms] between two requests
const SECTIONS_SHOWN = {};
let version = "";

function tell(text) {
  LIVE.textContent = text;
  LIVE.hidden = false;
}

function update(news) {
  for (const [id, html] of Object.entries(news.html)) { // the server escaped it, as for the page
    if (SECTIONS_SHOWN[id] !== html) document.getElementById(id).innerHTML = SECTIONS_SHOWN[id] = html;
  }
  news.points.forEach((points, i) => extend(i, points));
  take(news, true);
  found = sorted(rows.filter((row) => matches(row, wanted())), wanted());
  if (!FORM.elements.sort.value) { // sorted by step: shown completions keep their places
    if (shown < AT_ONCE) {
      for (const row of found.slice(shown, AT_ONCE)) LIST.append(card(row));
      shown = Math.min(found.length, AT_ONCE);
    }
    say();
  } else {
    show(wanted());
  }
  version = news.version;
}

async function ask() {
  const reply = await fetch(`news?since=${encodeURIComponent(version)}`);
  if (reply.status === 204) return;
  if (!reply.ok) throw new Error(await reply.text());
  const news = await reply.json();
  if (news.reload) location.reload();
  else update(news);
  tell(`Live: ${news.state}.`);
}

async function follow() {
  await STARTED;
  version = document.getElementById("data").dataset.version;
  tell(`Live: ${document.getElementById("data").dataset.state}.`);
  for (;;) {
    await new Promise((passed) => setTimeout(passed, PAUSE));
    try {
      await ask();
    } catch (error) {
      const why = error instanceof TypeError ? "the command that serves this page has ended" : error.message;
      tell(`No longer live: ${why}. The page keeps its contents.`);
    }
  }
}

follow();
