// The overview: the machine with the number of links in each state, the institutions, readiness, dead letters, and drift.
import { activitySection } from "./activity.js";
import { call, readiness } from "./api.js";
import { address, distance, h, number, replace, when, whenChanged } from "./dom.js";
import { drawMachine, readMachine } from "./machine.js";

const BROKEN = ["invalid", "token_required"];
const INSTITUTIONS_SHOWN = 25;

export function overview(main) {
  let showAll = false;
  let last = null;
  const toggle = () => {
    showAll = !showAll;
    draw(...last);
  };
  const draw = (summary, machine, ready, lettersCount, day, flow) => {
    const broken = BROKEN.reduce((sum, state) => sum + (summary.by_state[state] ?? 0), 0);
    replace(main,
      h("h1", {}, "Overview"),
      h("div", { class: "tiles" },
        tile("Links", number(summary.links_count), "#/links"),
        tile("Broken links", number(broken), null, "in the states invalid and token_required"),
        tile("Incidents", number(summary.incidents.length), null, "institutions with many failures now"),
        tile("Dead letters", lettersCount === null ? "?" : number(lettersCount), "#/dead-letters", "messages that relink could not handle"),
        readyTile(ready)),
      ready.reasons.length > 0 && h("section", { class: "card bad" }, h("h2", {}, "relink is not ready"),
        h("ul", {}, ready.reasons.map((reason) => h("li", {}, reason)))),
      h("section", { class: "card" }, h("h2", {}, "Links by state"), drawMachine(machine, summary.by_state, flow),
        flow.length > 0 && h("p", { class: "soft" }, "The blue numbers on the arrows are the transitions of the last hour.")),
      activitySection(day),
      incidents(summary.incidents),
      institutions(summary, showAll, toggle),
      drift(summary.drift_by_institution));
  };
  const show = whenChanged(draw);
  return async (signal) => {
    const activity = (hours) => call("v1/activity", { parameters: { hours }, signal });
    const [summary, machine, ready, lettersCount, day, hour] = await Promise.all([
      call("v1/summary", { signal }), readMachine(signal), readiness(signal), countLetters(signal), activity(24), activity(1)]);
    last = [summary.body, machine, ready, lettersCount, day.body, hour.body.transitions, document.documentElement.dataset.theme];
    show(...last);
    return summary.asOf;
  };
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
    h("p", { class: "soft" }, "Many links of the institution failed together. Prompts of its users wait until the incident ends."),
    h("ul", {}, open.map((incident) => h("li", {},
      h("a", { href: address(["links"], { institution: incident.institution }) }, incident.institution),
      " since ", when(incident.began_at), `; ${number(incident.links_count)} links had failed when it began`))));
}

function institutions(summary, showAll, toggle) {
  const withIncident = new Set(summary.incidents.map((incident) => incident.institution));
  const rows = Object.entries(summary.by_institution).map(([name, states]) => {
    const count = (names) => names.reduce((sum, state) => sum + (states[state] ?? 0), 0);
    return { name, states, total: count(Object.keys(states)), broken: count(BROKEN), hasIncident: withIncident.has(name) };
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
