// Unpacks the page's data and shows it: first the completions, then the curves.
"use strict";
async function start() {
  if (!("DecompressionStream" in window)) {
    fail("This browser cannot unpack the page (DecompressionStream is missing): no curves and no completions. Browsers of 2023 and later can.");
    return;
  }
  const data = JSON.parse(await unpacked("data"));
  take(data, false);
  readAddress();
  document.body.dataset.ready = Math.round(performance.now()); // [ms] since the page was opened
  charts = data.charts;
  await loadPlotly();
  drawWhenSeen();
  document.body.dataset.drawn = Math.round(performance.now()); // [ms] since the page was opened
}

const STARTED = start().catch((error) => fail(error.message));
