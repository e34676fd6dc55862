// Unpacks the data of a page: JSON and plotly's code, compressed and in base64.
"use strict";
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function fail(message) {
  const line = document.getElementById("failed");
  line.textContent = message;
  line.hidden = false;
}

// Plotly's code: from the page itself, or from the file that the pages of a sweep share.
async function loadPlotly() {
  const place = document.getElementById("plotly");
  const script = document.createElement("script");
  if (!place.dataset.bundle) {
    script.textContent = await unpacked("plotly");
    document.head.append(script);
    return;
  }
  script.src = place.dataset.bundle;
  await new Promise((loaded, failed) => {
    script.onload = loaded;
    script.onerror = () => failed(new Error(`No curves: ${place.dataset.bundle}, which the pages of a sweep share, is not beside this page. Move the whole folder of the sweep.`));
    document.head.append(script);
  });
}
