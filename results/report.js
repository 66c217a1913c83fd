"use strict";

// Draws the figures of the report from the JSON in #figures, and again when a choice changes.

const figures = JSON.parse(document.getElementById("figures").textContent);
const DARK = matchMedia("(prefers-color-scheme: dark)");
const PALETTES = { // Okabe and Ito's, told apart by the colour-blind
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"],
  dark: ["#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#f0e442", "#ffffff"],
};
const palette = () => (DARK.matches ? PALETTES.dark : PALETTES.light);
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
const CONFIG = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };

const byId = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const distinct = (values) => [...new Set(values)];

// Plotly reads a little HTML in its labels, and %{...} in its templates; names from files are text.
const plain = (text) =>
  String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%\{/g, "%&#123;");

function fill(select, names) {
  const before = select.selectedOptions[0]?.textContent;
  select.replaceChildren(...names.map((name, i) => new Option(name, i)));
  select.selectedIndex = Math.max(0, names.indexOf(before));
}

const chosen = (select) => select.selectedOptions[0].textContent;

function layout(extra) {
  const axis = {
    gridcolor: colour("--rule"), linecolor: colour("--faint"), zeroline: false, automargin: true,
    title: { standoff: 8 },
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: colour("--sans"), size: 13, color: colour("--text") },
    margin: { l: 50, r: 10, t: 36, b: 45 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: colour("--link") },
    hovermode: "closest",
    hoverlabel: { align: "left" },
    legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top" },
    ...extra,
    xaxis: { ...axis, ...extra.xaxis },
    yaxis: { ...axis, ...extra.yaxis },
  };
}

// Layer curves

function curveTraces(curve, layers, beside) {
  const { place, twin } = figures.looks[curve.label];
  const tint = palette()[place % palette().length];
  const flat = curve.flat && layers.length > 1;
  const single = !flat && curve.layers.length === 1;  // stands beside the others of one layer
  const x = flat ? layers : single ? [curve.layers[0] + beside] : curve.layers;
  const over = (values) => (flat ? layers.map(() => values[0]) : values);
  const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: curve.label };
  return [
    { ...edge, y: over(curve.low) },
    { ...edge, y: over(curve.high), fill: "tonexty", fillcolor: tint + "2e" },
    {
      x, y: over(curve.values), name: plain(curve.label), legendgroup: curve.label,
      text: over(curve.notes.map(plain)),
      hovertemplate: `<b>${plain(curve.label)}</b><br>${flat ? "one representation" : single ? `layer ${curve.layers[0]}` : "layer %{x}"}<br>%{text}<extra></extra>`,
      mode: flat ? "lines" : "lines+markers",
      line: { color: tint, width: 2, dash: twin ? "dashdot" : flat ? "dash" : "solid" },
      ...(single && { error_y: {
        type: "data", symmetric: false, color: tint,
        array: [curve.high[0] - curve.values[0]], arrayminus: [curve.values[0] - curve.low[0]],
      } }),
      marker: { color: tint, size: 7, symbol: SYMBOLS[Math.floor(place / palette().length) % SYMBOLS.length] + (twin ? "-open" : "") },
    },
  ];
}

function drawCurves() {
  const [subject, metric, probe] = ["subject", "metric", "probe"].map((id) => byId(`curves-${id}`));
  let panels = figures.panels;
  fill(subject, distinct(panels.map((panel) => panel.subject)));
  panels = panels.filter((panel) => panel.subject === chosen(subject));
  fill(metric, distinct(panels.map((panel) => panel.metric)));
  panels = panels.filter((panel) => panel.metric === chosen(metric));
  fill(probe, distinct(panels.map((panel) => panel.probe)));
  const panel = panels.find((one) => one.probe === chosen(probe));
  const layers = distinct(panel.curves.flatMap((curve) => curve.layers)).sort((a, b) => a - b);
  const traces = panel.curves.flatMap((curve, i) =>
    curveTraces(curve, layers, ((i + 0.5) / panel.curves.length - 0.5) * 0.6));
  if (panel.majority !== null) {
    const ends = layers.length > 1 ? layers : [layers[0] - 0.5, layers[0] + 0.5];
    traces.push({
      x: ends, y: ends.map(() => panel.majority), name: "majority class", mode: "lines",
      line: { color: colour("--faint"), width: 1.5, dash: "dot" },
      hovertemplate: "majority class<br>%{y:.3f}<extra></extra>",
    });
  }
  Plotly.react("curves-plot", traces, layout({
    xaxis: { title: { text: "layer", standoff: 8 }, dtick: Math.ceil(layers.length / 14) },
    yaxis: { title: { text: plain(panel.metric), standoff: 8 } },
  }), CONFIG);
}

// Divergence maps

const largest = (rows) => Math.max(0, ...rows.flat(2).filter((value) => value !== null)) || 1;

function heatmap(values, top, unit, text) {
  return {
    type: "heatmap", z: values, zmin: 0, zmax: top, colorscale: "Viridis", hoverongaps: false,
    text, hovertemplate: `%{text}<br>%{z:.3~g} ${plain(unit)}<extra></extra>`,
    colorbar: { exponentformat: "none", title: { text: `divergence (${plain(unit)})`, side: "right" }, thickness: 12, outlinewidth: 0 },
  };
}

function drawSquare(trace, ticks, names, title, edges = []) {
  const last = trace.z.length - 0.5;
  const line = { type: "line", line: { color: "#ffffff", width: 0.7 } };
  const axis = { title: { text: title, standoff: 8 }, tickvals: ticks, ticktext: names, showgrid: false, constrain: "domain" };
  Plotly.react("maps-plot", [trace], layout({
    plot_bgcolor: colour("--missing"),
    shapes: edges.flatMap((at) => [
      { ...line, x0: at, x1: at, y0: -0.5, y1: last },
      { ...line, y0: at, y1: at, x0: -0.5, x1: last },
    ]),
    xaxis: axis,
    yaxis: { ...axis, autorange: "reversed", scaleanchor: "x" },
  }), CONFIG);
}

function drawAllPairs(map) {
  const names = map.block_of.map((block, i) => `layer ${block}, head ${map.head_of[i]}`);
  const text = names.map((row) => names.map((column) => `${row}<br>${column}`));
  const items = map.blocks.map((block) => [map.block_of.indexOf(block), map.block_of.lastIndexOf(block)]);
  const centres = items.map(([first, last]) => (first + last) / 2);
  const edges = items.slice(1).map(([first]) => first - 0.5);
  const trace = heatmap(map.all_pairs, largest([map.all_pairs]), map.unit, text);
  drawSquare(trace, centres, map.blocks, "layer (heads in order within each)", edges);
}

function drawMaps() {
  const [upstream, head] = ["upstream", "head"].map((id) => byId(`maps-${id}`));
  fill(upstream, figures.maps.map((map) => map.label));
  const map = figures.maps[upstream.selectedIndex];
  fill(head, ["mean over heads", "all pairs", ...map.same_head.map((_, i) => `head ${i}`)]);
  if (head.selectedIndex === 1) return drawAllPairs(map);
  const values = head.selectedIndex === 0 ? map.mean : map.same_head[head.selectedIndex - 2];
  const text = map.blocks.map((row) => map.blocks.map((column) => `layers ${row} and ${column}, ${chosen(head)}`));
  const trace = heatmap(values, largest([map.mean, ...map.same_head]), map.unit, text);
  return drawSquare(trace, map.blocks.map((_, i) => i), map.blocks, "layer");
}

// Layer weights

function drawWeights() {
  const upstream = byId("weights-upstream");
  fill(upstream, figures.weights.map((one) => one.label));
  const { weights } = figures.weights[upstream.selectedIndex];
  const equal = 1 / weights.length;
  Plotly.react("weights-plot", [{
    type: "bar", x: weights.map((_, i) => i), y: weights, marker: { color: palette()[0] },
    hovertemplate: "layer %{x}<br>%{y:.4f}<extra></extra>",
  }], layout({
    bargap: 0.3,
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: equal, y1: equal, line: { color: colour("--faint"), width: 1.5, dash: "dash" } }],
    xaxis: { title: { text: "layer", standoff: 8 }, dtick: Math.ceil(weights.length / 14), showgrid: false },
    yaxis: { title: { text: "weight", standoff: 8 }, rangemode: "tozero" },
  }), CONFIG);
}

const sections = [
  [figures.panels, "curves-", drawCurves],
  [figures.maps, "maps-", drawMaps],
  [figures.weights, "weights-", drawWeights],
].filter(([found]) => found.length);

function drawAll() {
  for (const [, , draw] of sections) draw();
}

for (const [, prefix, draw] of sections) {
  for (const select of document.querySelectorAll(`select[id^="${prefix}"]`)) {
    select.addEventListener("change", draw);
  }
}
DARK.addEventListener("change", drawAll);
addEventListener("beforeprint", () => {
  for (const table of document.querySelectorAll("details")) table.open = true;
});
drawAll();
