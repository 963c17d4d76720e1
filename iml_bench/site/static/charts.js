// Draws the charts with Vega-Embed once the table can be used, and again when the scheme changes.
"use strict";
(() => {
  let turn = 0;
  const draw = async (place, spec, name) => {
    const scheme = document.documentElement.dataset.scheme;
    const drawn = structuredClone(spec);
    const config = structuredClone(iml.data.themes.get("all")[scheme]);
    if (place.clientWidth < 480) {
      config.axisYBand.labelLimit = 100;
      config.legend.columns = 2;
    }
    if (!place.classList.contains("fixed")) {
      Object.assign(drawn, { width: "container", autosize: { type: "fit-x", contains: "padding", resize: true } });
    }
    await vegaEmbed(place, drawn, {
      mode: "vega-lite",
      renderer: "svg",
      ast: true, // expressions are interpreted, never evaluated as code
      config,
      actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: name,
      i18n: { CLICK_TO_VIEW_ACTIONS: "Save this chart" },
    });
  };

  const show = async () => {
    const mine = ++turn;
    const places = [...document.querySelectorAll("[data-chart]")]
      .map((place) => [place, place.dataset.kind, place.dataset.chart]);
    const hint = document.getElementById("charts-hint");
    if (iml.task) {
      const task = iml.task();
      hint.hidden = Boolean(task);
      hint.textContent = "Choose one task above to see its charts.";
      for (const name of ["size", "lifts"]) {
        const place = document.getElementById(`chart-${name}`);
        place.closest("figure").hidden = !task;
        if (task) places.push([place, "charts", task, name]);
      }
    }
    if (!places.length) return;
    await iml.script("vega.js");
    for (const [place, kind, key, name] of places) {
      const found = await iml.load(kind, key);
      if (mine !== turn) return;
      const spec = name ? found[name] : found;
      place.closest("figure").hidden = !spec;
      if (spec) await draw(place, spec, `iml-${name || kind}-${key}`);
    }
    document.documentElement.dataset.charts = "drawn";
  };

  let shown = null;
  const again = () => {
    const wanted = `${iml.task ? iml.task() : ""} ${document.documentElement.dataset.scheme}`;
    if (wanted === shown) return;
    shown = wanted;
    // After the table has been painted: the library is large and the charts are further down.
    requestAnimationFrame(() => setTimeout(show, 0));
  };
  document.addEventListener("iml-show", again);
  document.addEventListener("iml-scheme", again);
  if (!iml.task) document.addEventListener("DOMContentLoaded", again);
})();
