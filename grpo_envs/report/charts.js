// Draws each chart when it comes into view, so that a page with many charts opens fast.
"use strict";
const PLACES = [...document.querySelectorAll(".chart")];
let charts = [];

function drawn(place) {
  const { data, layout } = charts[PLACES.indexOf(place)];
  return Plotly.react(place, data, layout, { responsive: true, displayModeBar: false });
}

function drawWhenSeen() {
  const watch = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      drawn(target);
    }
  }, { rootMargin: "300px" });
  for (const place of PLACES) watch.observe(place);
  window.addEventListener("beforeprint", () => PLACES.forEach(drawn));
}

// Appends points to the lines of chart `i`: `points` has the new points of each line.
function extend(i, points) {
  points.forEach(({ x, y, error }, line) => {
    const trace = charts[i].data[line];
    trace.x = [...trace.x, ...x];
    trace.y = [...trace.y, ...y];
    if (error.length) trace.error_y.array = [...trace.error_y.array, ...error];
  });
  const layout = charts[i].layout;
  layout.datarevision = (layout.datarevision ?? 0) + 1;
  if (PLACES[i].classList.contains("js-plotly-plot")) drawn(PLACES[i]);
}
