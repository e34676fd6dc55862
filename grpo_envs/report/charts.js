// Draws each chart when it comes into view: a page of many opens as fast as one of few.
"use strict";
const CHARTS = JSON.parse(document.getElementById("charts").textContent);
const PLACES = [...document.querySelectorAll(".chart")];
const WATCH = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    WATCH.unobserve(target);
    const { data, layout } = CHARTS[PLACES.indexOf(target)];
    Plotly.newPlot(target, data, layout, { responsive: true, displayModeBar: false });
  }
}, { rootMargin: "300px" });
for (const place of PLACES) WATCH.observe(place);
window.addEventListener("beforeprint", () => {
  PLACES.forEach((place, i) => Plotly.react(place, CHARTS[i].data, CHARTS[i].layout));
});
document.body.dataset.drawn = Math.round(performance.now()); // [ms] since the page was opened
