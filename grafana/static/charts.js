// One drawing for each panel type that the dashboard JSON may have. plotly.js draws; nothing here asks for anything.
import { axis, inert, local, shown } from "/static/figures.js";
import { columnsOf, element, settings, table, word } from "/static/tables.js";

const SERIES = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#B8A90B", "#8C8C8C", "#7B61C4", "#3C9D9B"];
const BRIGHT = { "#0072B2": "#5B8DEF" }; // the palette's blue is too dark on a dark card

const TICKS = [{ dtickrange: [null, 59_999], value: "%H:%M:%S\n%Y-%m-%d" }, { dtickrange: [60_000, 86_399_999], value: "%H:%M\n%Y-%m-%d" },
  { dtickrange: [86_400_000, null], value: "%m-%d\n%Y" }];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const onCard = (colour) => (document.documentElement.dataset.theme === "dark" && BRIGHT[colour]) || colour;

export function draw(panel, told, body, context) {
  const drawers = { stat, table: drawTable, timeseries, barchart, bargauge: funnel, piechart: pie, heatmap, "state-timeline": states, text };
  const empty = emptyText(panel, told, context);
  if (empty && panel.type !== "text") return replace(body, element("div", { class: told.error ? "none error" : "none" }, empty));
  if (context.asTable) return replace(body, table(panel, told, context));
  (drawers[panel.type] ?? drawTable)(panel, told, body, context);
}

function emptyText(panel, told, context) {
  if (told.error) return told.error;
  if (told.absent) return context.words.absent + told.absent;
  const nothing = told.rows.length === 0 || told.rows.every((row) => row.slice(panel.type === "stat" ? 0 : 1).every((v) => v === null));
  return nothing ? panel.fieldConfig?.defaults?.noValue || context.words.nothing : "";
}

function replace(body, ...children) {
  if (body.plot) { Plotly.purge(body.plot); body.plot = null; }
  body.replaceChildren(...children);
}

function stat(panel, told, body, context) {
  const { unit, decimals, thresholds } = panel.fieldConfig.defaults;
  const value = told.rows[0][0];
  const steps = thresholds?.steps ?? [];
  const step = steps.filter((s) => s.value === null || value >= s.value).pop();
  const label = shown(value, unit, decimals, context.zone);
  const figure = body.querySelector(".figure") ?? element("div", { class: "figure" });
  if (!figure.parentNode) replace(body, figure);
  figure.textContent = label;
  figure.classList.toggle("long", label.length > 11);
  figure.style.color = step ? onCard(step.color) : "";
}

function drawTable(panel, told, body, context) {
  const old = body.querySelector(".scroll");
  const [top, left] = old ? [old.scrollTop, old.scrollLeft] : [0, 0];
  const made = table(panel, told, context);
  replace(body, made);
  made.scrollTop = top;
  made.scrollLeft = left;
}

function text(panel, told, body) {
  replace(body, element("div", {}, panel.options.content));
}

// Rows into series: every figure column is one, split by a column of text where there is one.
function seriesOf(panel, told, context) {
  const columns = columnsOf(panel, told);
  const time = columns[0];
  const labels = columns.filter((c) => !c.numeric && !c.time);
  const figures = columns.filter((c) => c.numeric);
  const found = new Map();
  for (const row of told.rows)
    for (const figure of figures) {
      const name = labels.length ? labels.map((c) => row[c.at]).join(" ") || "–" : figure.title;
      if (!found.has(name)) found.set(name, { name: labels.length ? settings(panel, name).title : name, key: labels.length ? name : figure.name, x: [], y: [], text: [] });
      const series = found.get(name);
      series.x.push(local(row[time.at], context.zone));
      series.y.push(row[figure.at]);
    }
  return [...found.values()];
}

const colourOf = (panel, key, at) => onCard(settings(panel, key).colour ?? SERIES[at % SERIES.length]);

function base(panel, context) {
  const dim = css("--dim"), grid = css("--grid");
  const line = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, tickcolor: grid, automargin: true, fixedrange: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: "inherit", size: 12, color: dim },
    margin: { l: 46, r: 14, t: 8, b: 30 }, xaxis: { ...line }, yaxis: { ...line, rangemode: "tozero" }, hovermode: "x unified",
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--text"), size: 12 } },
    legend: { orientation: "h", x: 0, yref: "container", y: 0, yanchor: "bottom", font: { size: 12 } }, showlegend: true, uirevision: "kept", separators: ".,",
  };
}

function plot(body, traces, layout) {
  if (!body.plot) {
    replace(body);
    body.plot = element("div", { class: "plot" });
    body.plot.style.height = "100%";
    body.append(body.plot);
  }
  return Plotly.react(body.plot, traces, layout, { displayModeBar: false, responsive: true, showTips: false });
}

function ticks(line, unit, values) {
  [line.tickformat, line.tickprefix, line.ticksuffix] = axis(unit, values.reduce((most, value) => Math.max(most, value ?? 0), 0));
}

function timed(layout, context, body) {
  layout.xaxis.type = "date";
  layout.xaxis.tickangle = 0;
  layout.xaxis.range = [local(context.from, context.zone), local(context.to, context.zone)];
  layout.xaxis.nticks = body.clientWidth < 420 ? 4 : 7;
  layout.xaxis.hoverformat = "%Y-%m-%d %H:%M:%S";
  layout.xaxis.tickformatstops = TICKS; // figures in every language; the date stands below where it changes
}

function timeseries(panel, told, body, context) {
  const layout = base(panel, context);
  const unit = panel.fieldConfig.defaults.unit;
  const stacked = panel.fieldConfig.defaults.custom?.stacking?.mode === "normal";
  const bars = panel.fieldConfig.defaults.custom?.drawStyle === "bars";
  let series = seriesOf(panel, told, context);
  const most = body.clientWidth < 500 ? 6 : 12; // as many as a legend below can name
  if (series.length > most) {
    const size = (one) => one.y.reduce((sum, value) => sum + (value ?? 0), 0);
    series = series.map((one) => [size(one), one]).sort((a, b) => b[0] - a[0]).slice(0, most).map(([, one]) => one);
  }
  const times = bars ? [...new Set(told.rows.map(([when]) => Date.parse(when)))] : [];
  const step = Math.min(3_600_000, ...times.slice(1).map((at, before) => at - times[before]));
  const words = (one) => one.y.map((value) => inert(shown(value, unit, undefined, context.zone)));
  const traces = series.map((one, at) => bars ? {
    type: "bar", name: inert(one.name), x: one.x, y: one.y, marker: { color: colourOf(panel, one.key, at) }, customdata: words(one), hovertemplate: "%{customdata}",
    width: step, offset: 0,
  } : ({
    type: "scatter", mode: one.x.length < 3 ? "lines+markers" : "lines", name: inert(one.name), x: one.x, y: one.y, connectgaps: false,
    line: { width: 2, color: colourOf(panel, one.key, at) }, stackgroup: stacked ? "one" : undefined,
    customdata: words(one), hovertemplate: "%{customdata}",
  }));
  if (bars) layout.barmode = stacked ? "stack" : "group";
  ticks(layout.yaxis, unit, series.flatMap((one) => one.y));
  timed(layout, context, body);
  layout.showlegend = series.length > 1;
  layout.margin.b = layout.showlegend ? 64 : 40;
  mark(layout, context);
  plot(body, traces, layout);
}

function mark(layout, context) {
  layout.shapes = context.notes.map(([when]) => ({
    type: "line", xref: "x", yref: "paper", x0: local(when, context.zone), x1: local(when, context.zone), y0: 0, y1: 1,
    line: { color: "#D55E00", width: 1, dash: "dot" },
  }));
}

function barchart(panel, told, body, context) {
  const columns = columnsOf(panel, told);
  const { unit, decimals } = panel.fieldConfig.defaults;
  const layout = base(panel, context);
  ticks(layout.yaxis, unit, told.rows.flatMap((row) => row.slice(1)));
  const names = told.rows.map((row) => inert(word(panel, row[0])));
  const traces = columns.filter((c) => c.numeric).map((c, at) => ({
    type: "bar", name: inert(c.title), x: names, y: told.rows.map((row) => row[c.at]),
    marker: { color: told.rows.map((row) => (settings(panel, row[0]).colour ? colourOf(panel, row[0], at) : colourOf(panel, c.name, at))) },
    text: told.rows.length <= 10 ? told.rows.map((row) => inert(shown(row[c.at], unit, decimals, context.zone))) : undefined,
    textposition: "auto", customdata: told.rows.map((row) => inert(shown(row[c.at], unit, decimals, context.zone))), hovertemplate: "%{customdata}",
  }));
  layout.xaxis.type = "category";
  layout.showlegend = traces.length > 1;
  layout.bargap = 0.25;
  plot(body, traces, layout);
}

function funnel(panel, told, body, context) {
  const layout = base(panel, context);
  const { unit, decimals } = panel.fieldConfig.defaults;
  const first = told.rows[0][1] || 1;
  layout.margin = { l: 110, r: 14, t: 8, b: 10 };
  layout.showlegend = false;
  layout.hovermode = "closest";
  layout.yaxis.rangemode = "normal";
  const label = (row) => `${shown(row[1], unit, decimals)}  ·  ${((100 * row[1]) / first).toLocaleString("en-US", { maximumFractionDigits: 1 })} %`;
  plot(body, [{
    type: "funnel", y: told.rows.map((row) => inert(word(panel, row[0]))), x: told.rows.map((row) => row[1]),
    text: told.rows.map((row) => inert(label(row))), textinfo: "text", textposition: "auto", hovertemplate: "%{y}: %{text}<extra></extra>",
    marker: { color: told.rows.map((row, at) => colourOf(panel, row[0], at)) }, connector: { fillcolor: css("--hover") },
    outsidetextfont: { color: css("--text") },
  }], layout);
}

function pie(panel, told, body, context) {
  const layout = base(panel, context);
  layout.margin = { l: 8, r: 8, t: 10, b: 10 };
  layout.legend = { orientation: "v", x: 1.02, y: 0.5, yanchor: "middle", font: { size: 12 } };
  plot(body, [{
    type: "pie", hole: 0.55, sort: false, direction: "clockwise", labels: told.rows.map((row) => inert(word(panel, row[0]))), values: told.rows.map((row) => row[1]),
    marker: { colors: told.rows.map((row, at) => colourOf(panel, row[0], at)), line: { color: css("--card"), width: 1.5 } },
    textinfo: "percent", textposition: "inside", insidetextorientation: "horizontal", hovertemplate: "%{label}: %{value:,} · %{percent}<extra></extra>",
  }], layout);
}

function heatmap(panel, told, body, context) {
  const columns = columnsOf(panel, told);
  const layout = base(panel, context);
  const figures = columns.filter((c) => c.numeric);
  layout.hovermode = "closest";
  layout.showlegend = false;
  layout.xaxis.type = "category";
  layout.xaxis.nticks = 10;
  layout.yaxis = { ...layout.yaxis, type: "category", rangemode: "normal", nticks: 9 };
  const all = told.rows.flatMap((row) => figures.map((c) => row[c.at])).filter((v) => v !== null);
  const least = Math.min(...all), most = Math.max(...all);
  plot(body, [{
    zmin: least < most ? least : Math.min(0, most), zmax: Math.max(most, 0), // one figure alone: a scale from 0
    type: "heatmap", x: told.rows.map((row) => String(row[0]).slice(0, 10)), y: figures.map((c) => c.title), z: figures.map((c) => told.rows.map((row) => row[c.at])),
    colorscale: "Cividis", xgap: 1, ygap: 1, colorbar: { thickness: 10, outlinewidth: 0, tickformat: "~s" }, hovertemplate: "%{x} %{y}: %{z:,}<extra></extra>",
  }], layout);
}

function states(panel, told, body, context) {
  const layout = base(panel, context);
  const colours = panel.fieldConfig.defaults.mappings?.[0]?.options ?? {};
  const runs = new Map(), last = new Map();
  for (const [when, name, state] of told.rows) { // a state lasts until the next one or the range's end, as in Grafana
    const at = Date.parse(when), before = last.get(name);
    if (before?.state === state) continue;
    if (before) before.end = at;
    const run = { name, state, begin: at, end: context.to };
    last.set(name, run);
    runs.set(state, [...(runs.get(state) ?? []), run]);
  }
  const traces = [...runs].map(([state, list]) => ({
    type: "bar", orientation: "h", name: inert(word(panel, state)), y: list.map((run) => inert(run.name)), base: list.map((run) => local(run.begin, context.zone)),
    x: list.map((run) => run.end - run.begin), width: 0.7, marker: { color: onCard(colours[state]?.color ?? "#8C8C8C") },
    customdata: list.map((run) => `${local(run.begin, context.zone).slice(11, 16)}–${local(run.end, context.zone).slice(11, 16)}`),
    hovertemplate: "%{y}: " + inert(word(panel, state)) + " %{customdata}<extra></extra>",
  }));
  timed(layout, context, body);
  layout.margin.b = 64;
  layout.barmode = "overlay";
  layout.hovermode = "closest";
  layout.yaxis = { ...layout.yaxis, rangemode: "normal", type: "category", autorange: "reversed" };
  plot(body, traces, layout);
}
