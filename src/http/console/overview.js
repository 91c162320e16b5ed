// The overview: the machine with the number of links in each state, the institutions, readiness, dead letters, and drift.
import { activitySection } from "./activity.js";
import { call, readiness } from "./api.js";
import { address, distance, h, number, replace, when, whenChanged } from "./dom.js";
import { drawMachine, readMachine } from "./machine.js";
import { statusSection } from "./status.js";

const BROKEN = ["invalid", "token_required"];
const INSTITUTIONS_SHOWN = 25;

/**
 * Each part has an element of its own, and is drawn when its own data has changed: while many links break, only the numbers change, and the
 * page must not hold up a frame.
 */
export function overview(main) {
  const places = Object.fromEntries(["top", "machine", "incidents", "institutions", "drift"].map((name) => [name, h("div", {})]));
  const [activity, status] = [activitySection(), statusSection()];
  let isDrawn = false;
  let showAll = false;
  let summary = null;
  const toggle = () => {
    showAll = !showAll;
    drawInstitutions(summary.by_institution, summary.incidents, showAll);
  };
  const drawTop = whenChanged((counts, ready, letters, observes) => replace(places.top, top(counts, ready, letters, observes)));
  const drawStates = whenChanged((machine, counts, flow) => replace(places.machine, states(machine, counts, flow)));
  const drawIncidents = whenChanged((open) => replace(places.incidents, incidents(open)));
  const drawInstitutions = whenChanged((states, open, all) => replace(places.institutions, institutions(states, open, all, toggle)));
  const drawDrift = whenChanged((counts) => replace(places.drift, drift(counts)));
  return async (signal) => {
    const happened = (hours) => call("v1/activity", { parameters: { hours }, signal });
    const [read, machine, ready, letters, day, hour, now] = await Promise.all([
      call("v1/summary", { signal }), readMachine(signal), readiness(signal), countLetters(signal), happened(24), happened(1), call("v1/status", { signal })]);
    summary = read.body;
    if (!isDrawn) {
      replace(main, h("h1", {}, "Overview"), places.top, places.machine, activity.place, places.incidents, places.institutions, status.place, places.drift);
    }
    isDrawn = true;
    drawTop({ links: summary.links_count, broken: brokenOf(summary.by_state), incidents: summary.incidents.length }, ready, letters, summary.observe);
    drawStates(machine, summary.by_state, hour.body.transitions);
    activity.show(day.body, document.documentElement.dataset.theme);
    drawIncidents(summary.incidents);
    drawInstitutions(summary.by_institution, summary.incidents, showAll);
    status.show(now.body);
    drawDrift(summary.drift_by_institution);
    return read.asOf;
  };
}

const brokenOf = (states) => BROKEN.reduce((sum, state) => sum + (states[state] ?? 0), 0);

function top(counts, ready, letters, observes) {
  return [h("div", { class: "tiles" },
    tile("Links", number(counts.links), "#/links"),
    tile("Broken links", number(counts.broken), null, "in the states invalid and token_required"),
    tile("Incidents", number(counts.incidents), null, "institutions with many failures now"),
    tile("Dead letters", letters === null ? "?" : number(letters), "#/dead-letters", "messages that relink could not handle"),
    readyTile(ready)),
  observes && h("p", { class: "card warn" }, "relink only observes (RELINK_OBSERVE): it records prompts and sends none, and changes nothing at Belvo."),
  ready.reasons.length > 0 && h("section", { class: "card bad" }, h("h2", {}, "relink is not ready"),
    h("ul", {}, ready.reasons.map((reason) => h("li", {}, reason))))];
}

function states(machine, counts, flow) {
  return h("section", { class: "card" }, h("h2", {}, "Links by state"), drawMachine(machine, counts, flow),
    flow.length > 0 && h("p", { class: "soft" }, "The blue numbers on the arrows are the transitions of the last hour."));
}

/** Dead letters are in NATS. While NATS is away, the rest of the page is shown without their number. */
async function countLetters(signal) {
  try {
    return (await call("v1/dead-letters", { parameters: { limit: 1 }, signal })).body.total;
  } catch (error) {
    if (error.status !== 503) throw error;
    return null;
  }
}

function tile(name, value, href, about) {
  return h(href ? "a" : "div", { class: "tile", href, title: about }, h("span", { class: "figure" }, value), h("span", {}, name));
}

function readyTile(ready) {
  const waiting = ready.journal?.waiting ?? 0;
  const about = waiting > 0 ? `${number(waiting)} inputs wait in the journal for NATS` : "inputs are stored and handled";
  return h("div", { class: "tile", "data-good": String(ready.ready) },
    h("span", { class: "figure" }, ready.ready ? "Ready" : "Not ready"),
    h("span", {}, waiting > 0 ? `${about}, the oldest since ${distance(ready.journal.oldest_at)}` : ready.ready ? about : "see the reasons below"));
}

function incidents(open) {
  if (open.length === 0) return null;
  return h("section", { class: "card warn" }, h("h2", {}, "Incidents now"),
    h("p", { class: "soft" }, "An institution is down. Prompts of its users wait until the incident ends."),
    h("ul", {}, open.map((incident) => h("li", {},
      h("a", { href: address(["links"], { institution: incident.institution }) }, incident.institution),
      " since ", when(incident.began_at), incident.links_count > 0 ? `; ${number(incident.links_count)} ${incident.links_count === 1 ? "link" : "links"} had failed when it began. ` : ". ",
      h("a", { href: address(["held"], { institution: incident.institution }), "aria-label": `Held prompts of ${incident.institution}` }, "Held prompts")))));
}

function institutions(byInstitution, open, showAll, toggle) {
  const withIncident = new Set(open.map((incident) => incident.institution));
  const rows = Object.entries(byInstitution).map(([name, states]) => {
    const total = Object.values(states).reduce((sum, count) => sum + count, 0);
    return { name, states, total, broken: brokenOf(states), hasIncident: withIncident.has(name) };
  });
  // Those that need a look come first.
  rows.sort((a, b) => b.hasIncident - a.hasIncident || b.broken - a.broken || b.total - a.total || (a.name < b.name ? -1 : 1));
  const shown = showAll ? rows : rows.slice(0, INSTITUTIONS_SHOWN);
  const row = ({ name, states, total, broken, hasIncident }) => h("tr", { class: hasIncident ? "warn" : null },
    h("th", { scope: "row" }, h("a", { href: address(["links"], { institution: name }) }, name), hasIncident && h("span", { class: "badge", "data-state": "incident" }, "incident")),
    h("td", { class: "count" }, number(total)),
    h("td", { class: "count" }, broken > 0 ? number(broken) : "–"),
    h("td", { class: "count" }, states.updating ? number(states.updating) : "–"),
    h("td", {}, share(states, total)));
  return h("section", { class: "card" }, h("h2", {}, "Institutions"),
    rows.length === 0 ? h("p", { class: "soft" }, "relink knows no link of an institution yet.") : [
      h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Institutions" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Institution", "Links", "Broken", "Updating", "Share by state"].map((head, index) =>
          h("th", { scope: "col", class: index > 0 && index < 4 ? "count" : null }, head)))),
        h("tbody", {}, shown.map(row)))),
      rows.length > INSTITUTIONS_SHOWN && h("button", { type: "button", class: "quiet", id: "all-institutions", onclick: toggle },
        showAll ? "Show fewer" : `Show all ${number(rows.length)}`)]);
}

/** A bar with the share of each state. The numbers are its text. */
function share(states, total) {
  const parts = Object.entries(states).filter(([, count]) => count > 0);
  const text = parts.map(([state, count]) => `${state} ${number(count)}`).join(", ");
  const bar = h("span", { class: "share", role: "img", "aria-label": text, title: text });
  for (const [state, count] of parts) {
    const part = h("span", { "data-state": state });
    part.style.flexGrow = String(count / Math.max(total, 1));
    bar.append(part);
  }
  return bar;
}

function drift(byInstitution) {
  if (!byInstitution) return null;
  const rows = Object.entries(byInstitution).filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
  return h("section", { class: "card" }, h("h2", {}, "Drift"),
    h("p", { class: "soft" }, "Changes that only a sweep has found since relink started: no webhook and no API error reported them."),
    rows.length === 0 ? h("p", {}, "None.") : h("ul", { class: "columns" }, rows.slice(0, INSTITUTIONS_SHOWN).map(([name, count]) => h("li", {}, `${name}: ${number(count)}`))));
}
