"use strict";
// Draws every chart of the page with the colours of the style sheet, and again when the reader switches light and dark.
(() => {
  const charts = [...document.querySelectorAll("script[data-chart]")].map((script) => ({
    element: document.getElementById("chart-" + script.dataset.chart),
    spec: JSON.parse(script.textContent),
    result: null,
  }));
  const numSeries = Number(document.body.dataset.series);

  function palette() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const numbered = (prefix, count) => Array.from({length: count}, (_, i) => colour(prefix + i));
    return {
      paper: colour("--paper"), ink: colour("--ink"), soft: colour("--soft"), line: colour("--line"),
      runs: numbered("--run-", numSeries), terms: numbered("--term-", 12), heat: numbered("--heat-", 5),
    };
  }

  function vegaConfig(p) {
    return {
      background: p.paper,
      font: "system-ui, 'DejaVu Sans', sans-serif",
      view: {stroke: null},
      axis: {labelColor: p.soft, titleColor: p.soft, titleFontWeight: "normal", domainColor: p.line, tickColor: p.line,
             gridColor: p.line, gridOpacity: 0.6, labelFontSize: 11, titleFontSize: 12, labelFlush: false},
      range: {category: p.runs, ordinal: p.terms, diverging: p.heat},
      style: {
        "noise": {strokeWidth: 0.7, opacity: 0.22},
        "dense-noise": {strokeWidth: 0.7, opacity: 0.1},
        "windows": {strokeWidth: 2.2, strokeJoin: "round"},
        "switch": {color: p.soft, strokeDash: [2, 3], strokeWidth: 1},
        "switch-name": {color: p.soft, fontSize: 11},
        "commit": {size: 46, opacity: 1, stroke: p.paper, strokeWidth: 1.2},
        "bar-value": {color: p.ink, fontSize: 12},
        "term": {stroke: p.paper, strokeWidth: 1},
        "heat": {stroke: p.paper, strokeWidth: 0.5},
      },
    };
  }

  async function drawChart(chart, p, dark) {
    try {
      chart.result?.finalize();
      chart.result = await window.vegaEmbed(chart.element, chart.spec, {
        renderer: "canvas", actions: false, config: vegaConfig(p), tooltip: {theme: dark ? "dark" : "light"},
      });
      // Printing turns the page light, but not what is painted already.
      chart.element.style.background = p.paper;
    } catch (error) {
      chart.element.textContent = "This chart could not be drawn: " + error.message;
      console.error(error);
    }
  }

  const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
  async function drawAll() {
    const p = palette();
    for (const chart of charts) await drawChart(chart, p, darkScheme.matches);
  }

  // One drawing after the other; the promise is for whoever must wait for all of them.
  let drawn = drawAll();
  darkScheme.addEventListener("change", () => { drawn = drawn.then(drawAll); });
  window.swiftbalancerReport = {drawn: () => drawn, charts};
})();
