// How fresh relink's view is, and what waits: the sweeps, the budget of calls to Belvo, the journal, the partitions of the input stream.
import { span } from "./activity.js";
import { h, number, replace, when, whenChanged } from "./dom.js";

/** The sweeps in this order, with what each says. */
const SWEEPS = [
  ["broken", "Belvo's list of broken links was read"],
  ["known_broken", "Links that are broken here were read"],
  ["survey", "All links were listed"],
  ["rotate", "The last fifty of all links were read"],
  ["consents", "All consents were listed"],
];

/** The section. It has an element of its own, so that a number that changes with each call does not draw the whole view again. */
export function statusSection() {
  const place = h("section", { class: "card" });
  let isOpen = false;
  const show = whenChanged((status) => {
    const table = partitions(status.partitions, isOpen);
    table?.addEventListener("toggle", () => { isOpen = table.open; });
    replace(place, h("h2", {}, "Freshness and what waits"), facts(status), table);
  });
  // The time of the answer changes always.
  return { place, show: ({ at: _at, partitions_read_at: _read, ...status }) => show(status) };
}

function facts({ sweeps, belvo, journal, partitions: lanes }) {
  const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const ended = new Map((sweeps ?? []).map((sweep) => [sweep.step, sweep]));
  const sweep = ([step, name]) => fact(name, ended.has(step)
    ? [when(ended.get(step).ended_at), `, in ${span(ended.get(step).took_secs)}`] : "not since relink started");
  return h("dl", {},
    sweeps ? SWEEPS.map(sweep) : fact("Sweeps", "none, because Belvo's keys are not configured"),
    belvo && fact("Calls to Belvo that are left", budget(belvo)),
    fact("Journal", waiting(journal.waiting, journal.oldest_at)),
    fact("Inputs in NATS", lanes.length === 0 ? "not read yet" : inStream(lanes)));
}

function budget({ requests_max: most, requests_left: left, window_secs: span_, paused_secs: paused, keys_refused: refused }) {
  const text = `${number(left)} of ${number(most)} in ${span(span_)}`;
  return [h("meter", { min: 0, max: most, low: most / 4, optimum: most, value: left, "aria-label": "Calls to Belvo that are left" }, text), text,
    paused && h("strong", { class: "wrong" }, `. Belvo asked for a pause, ${span(paused)} are left`),
    refused && h("strong", { class: "wrong" }, ". Belvo refuses the API keys")];
}

const waiting = (count, oldest) => (count === 0 ? "nothing waits" :
  [`${number(count)} ${count === 1 ? "message waits" : "messages wait"}`, oldest && [", the oldest since ", when(oldest)]]);

function inStream(lanes) {
  const count = lanes.reduce((sum, lane) => sum + lane.waiting, 0);
  const oldest = lanes.map((lane) => lane.oldest_at).filter(Boolean).sort().at(0);
  return waiting(count, oldest);
}

function partitions(lanes, isOpen) {
  if (lanes.length === 0) return null;
  const row = ({ partition, waiting: count, oldest_at: oldest }) => h("tr", {}, h("th", { scope: "row" }, partition),
    h("td", { class: "count" }, number(count)), h("td", {}, oldest ? when(oldest) : "–"));
  return h("details", { open: isOpen }, h("summary", {}, `The ${number(lanes.length)} ${lanes.length === 1 ? "partition" : "partitions"}`),
    h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Partitions" }, h("table", { class: "narrow" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Partition"), h("th", { scope: "col", class: "count" }, "Not handled yet"), h("th", { scope: "col" }, "Oldest"))),
      h("tbody", {}, lanes.map(row)))));
}
