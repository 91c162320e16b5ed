// What happened in the last day: the funnel of repairs, and two plots over time. uPlot draws the plots; its text alternative is a table.
import { clock, h, number, replace, whenChanged } from "./dom.js";
import uPlot from "./uplot.js";

/** The stages of a repair, with the field or the notice that counts each. */
const FUNNEL = [
  ["Outages that began", (activity) => activity.outages_count],
  ["Users prompted", (activity) => activity.notices.update_required ?? 0],
  ["Repairs begun", (activity) => activity.notices.update_started ?? 0],
  ["Links recovered", (activity) => activity.notices.recovered ?? 0],
  ["Missing data complete", (activity) => activity.notices.refreshed ?? 0],
];

const HEIGHT = 190;
const PLOTS = [
  { title: "Outages, prompts and repairs", unit: "in ten minutes", value: number, series: [
    { name: "outages", colour: "--bad", of: (period) => period.outages_count },
    { name: "prompts", colour: "--warn", of: (period) => period.prompts_count, dash: [6, 4] },
    { name: "recovered", colour: "--good", of: (period) => period.recovered_count },
  ] },
  { title: "Time to repair", unit: "half of the outages that ended were not longer", value: span, isGappy: true, series: [
    { name: "median", colour: "--accent", of: (period) => period.repair_p50_secs },
  ] },
];

/**
 * The section with the funnel and the plots: `{ place, show }`. The plots stay and get new data, because a new plot is expensive; only new
 * colours need new plots. The table is made when somebody opens it.
 */
export function activitySection() {
  const place = h("section", { class: "card" });
  const [about, funnel, rows] = [h("p", { class: "soft" }), h("div", {}), h("div", {})];
  const details = h("details", {}, h("summary", {}, "The plots as a table"), rows);
  let [plots, theme, last] = [null, null, null];
  const drawTable = () => details.open && replace(rows, table(last));
  details.addEventListener("toggle", drawTable);
  const draw = whenChanged((activity, wanted) => {
    last = activity;
    const isIdle = activity.periods.length === 0;
    replace(about, document.createTextNode(`relink counts since its start, and at most for a day. ${times(activity)}`));
    if (isIdle || plots === null || theme !== wanted) {
      plots?.forEach((plot) => plot.end());
      plots = isIdle ? null : PLOTS.map(newPlot);
      theme = wanted;
      replace(place, h("h2", {}, "The last 24 hours"), about,
        isIdle ? h("p", {}, "Nothing has happened yet.") : [funnel, h("div", { class: "plots" }, plots.map((plot) => plot.figure)), details]);
    }
    if (isIdle) return;
    replace(funnel, funnelOf(activity));
    plots.forEach((plot) => plot.show(activity));
    drawTable();
  });
  return { place, show: draw };
}

function funnelOf(activity) {
  const most = Math.max(1, ...FUNNEL.map(([, of]) => of(activity)));
  const row = ([name, of]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "count" }, number(of(activity))),
    h("td", {}, h("meter", { min: 0, max: most, value: of(activity), "aria-label": name }, number(of(activity)))));
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "The stages of repairs" },
    h("table", { class: "funnel" }, h("caption", { class: "hidden" }, "The stages of repairs"), h("tbody", {}, FUNNEL.map(row))));
}

function times({ time_to_prompt: prompt, time_to_repair: repair }) {
  const part = (name, spans) => spans.count > 0 && `${name}: half within ${span(spans.p50_secs)}, nine tenths within ${span(spans.p90_secs)}. `;
  return [part("Time to the prompt", prompt), part("Time to repair", repair)].filter(Boolean).join("");
}

const legend = ({ series }) => series.length > 1 && h("ul", { class: "legend" }, series.map(({ name, colour }) => h("li", { "data-colour": colour.slice(2) }, name)));

/** Seconds as a short text: "40 ms", "3.2 s", "12 min", "1.5 h". */
export function span(seconds) {
  if (seconds == null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const [size, unit] = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]].find(([size]) => seconds >= size);
  return `${Number((seconds / size).toPrecision(2))} ${unit}`;
}

function table({ periods }) {
  const columns = PLOTS.flatMap(({ series, value }) => series.map((one) => ({ ...one, value })));
  const text = ({ of, value }, period) => (of(period) == null ? "–" : value(of(period)));
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "The last day in periods of ten minutes" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "From"), columns.map(({ name }) => h("th", { scope: "col", class: "count" }, name)))),
    h("tbody", {}, periods.toReversed().map((period) => h("tr", {}, h("th", { scope: "row" }, clock(period.at)),
      columns.map((column) => h("td", { class: "count" }, text(column, period))))))));
}

/** All periods from the first to the last, also those without events, which the answer leaves out. */
function withEmpty({ periods, period_secs: step }) {
  const byTime = new Map(periods.map((period) => [Date.parse(period.at) / 1000, period]));
  const [first, last] = [Math.min(...byTime.keys()), Math.max(...byTime.keys())];
  // One more on each side, so that a single period is a peak and not a dot.
  return Array.from({ length: Math.round((last - first) / step) + 3 }, (_, index) => {
    const at = first + (index - 1) * step;
    return [at, byTime.get(at) ?? { outages_count: 0, prompts_count: 0, recovered_count: 0, repair_p50_secs: null }];
  });
}

/** A plot: `{ figure, show, end }`. It is drawn when its figure is on the page. */
function newPlot({ title, unit, series, value, isGappy }) {
  const place = h("div", { class: "plot", "aria-hidden": "true" });
  const figure = h("figure", {}, h("figcaption", {}, h("strong", {}, title), `, ${unit}`), legend({ series }), place);
  let plot = null;
  let data = null;
  const watcher = new ResizeObserver(() => {
    if (!place.isConnected) end();
    else if (plot && place.clientWidth > 0 && place.clientWidth !== plot.width) plot.setSize({ width: place.clientWidth, height: HEIGHT });
  });
  const end = () => {
    watcher.disconnect();
    plot?.destroy();
    plot = null;
  };
  const show = (activity) => {
    const periods = withEmpty(activity);
    data = [periods.map(([at]) => at), ...series.map(({ of }) => periods.map(([, period]) => of(period)))];
    if (plot) return plot.setData(data);
    // The width and the colours are known when the figure is on the page.
    queueMicrotask(() => {
      if (plot || !place.isConnected) return;
      plot = new uPlot(optionsOf(place, series, value, isGappy), data, place);
      watcher.observe(place);
    });
  };
  return { figure, show, end };
}

function optionsOf(place, series, value, isGappy) {
  const colour = (name) => resolved(place, `var(${name})`);
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "13px system-ui" };
  const lines = series.map((one) => ({ label: one.name, stroke: colour(one.colour), width: 2, dash: one.dash, spanGaps: isGappy, points: { show: isGappy } }));
  return {
    width: Math.max(place.clientWidth, 240), height: HEIGHT, legend: { show: false }, cursor: { show: false },
    scales: { y: { range: (_plot, _min, max) => [0, Math.max(max ?? 0, isGappy ? 1 : 4) * 1.1] } },
    axes: [{ ...axis, values: (_plot, ticks) => ticks.map((tick) => clock(tick * 1000).slice(11, 16)) }, { ...axis, size: 64, values: (_plot, ticks) => ticks.map((tick) => (isGappy ? value(tick) : Number.isInteger(tick) ? value(tick) : "")) }],
    series: [{}, ...lines],
  };
}

/** A colour of the theme, for the canvas, which knows no variables. */
function resolved(place, value) {
  const probe = h("span", { hidden: true });
  probe.style.color = value;
  place.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
