// The search for links. relink filters and pages; this page never asks for all links.
import { Failed, call, linkPath } from "./api.js";
import { address, badge, h, replace, when, whenChanged } from "./dom.js";
import { readMachine } from "./machine.js";

const PAGE = 50;
const FILTERS = ["state", "institution", "external_id"];

export function links(main, _parts, query) {
  const filters = Object.fromEntries(FILTERS.map((name) => [name, query.get(name) ?? ""]));
  const after = query.get("after") ?? "";
  const result = h("div", {});
  let isReady = false;
  const show = whenChanged((found) => drawResult(result, found, filters, after));
  return async (signal) => {
    if (!isReady) {
      const [machine, summary] = await Promise.all([readMachine(signal), call("v1/summary", { signal })]);
      const names = Object.keys(summary.body.by_institution);
      replace(main, h("h1", {}, "Links"), form(filters, machine.states, names), result);
      isReady = true;
    }
    const { body, asOf } = await call("v1/links", { parameters: { ...filters, after, limit: PAGE }, signal });
    show(body);
    return asOf;
  };
}

function form(filters, states, institutions) {
  const text = h("input", { id: "search", type: "search", value: filters.external_id, autocomplete: "off", spellcheck: "false" });
  const institution = h("input", { id: "institution", value: filters.institution, list: "institutions", autocomplete: "off", spellcheck: "false" });
  const state = h("select", { id: "state" }, h("option", { value: "" }, "any"),
    states.map((name) => h("option", { value: name, selected: name === filters.state }, name)));
  const problem = h("p", { class: "wrong", role: "alert", hidden: true });
  const search = async (event) => {
    event.preventDefault();
    problem.hidden = true;
    const wanted = text.value.trim();
    try {
      if (wanted && await isLink(wanted)) {
        location.hash = address(["link", wanted]);
        return;
      }
    } catch (error) {
      problem.hidden = false;
      replace(problem, document.createTextNode(error.message));
      return;
    }
    location.hash = address(["links"], { external_id: wanted, institution: institution.value.trim(), state: state.value });
  };
  const field = (name, input, label) => h("div", { class: "field" }, h("label", { for: name }, label), input);
  return h("form", { class: "card search", role: "search", onsubmit: search },
    field("search", text, "Link id or external id, whole"),
    field("institution", institution, "Institution"),
    field("state", state, "State"),
    h("datalist", { id: "institutions" }, institutions.map((name) => h("option", { value: name }))),
    h("button", { type: "submit" }, "Search"), problem);
}

/** Whether relink knows a link with this id. A text that cannot be an id is none. */
async function isLink(text) {
  try {
    await call(linkPath(text));
    return true;
  } catch (error) {
    if (error instanceof Failed && [400, 404].includes(error.status)) return false;
    throw error;
  }
}

function drawResult(result, { links, unreadable = [], next }, filters, after) {
  const row = (link) => h("tr", {},
    h("th", { scope: "row" }, h("a", { href: address(["link", link.link_id]), class: "id" }, link.link_id)),
    h("td", {}, badge(link.state), link.muted && h("span", { class: "badge" }, "muted")),
    h("td", {}, link.institution ?? "–"),
    h("td", { class: "outside" }, link.external_id ?? "–"),
    h("td", {}, when(link.since)));
  const isFiltered = Object.values(filters).some(Boolean);
  replace(result,
    unreadable.length > 0 && h("p", { class: "card warn" }, `relink cannot read the records of these links: ${unreadable.join(", ")}`),
    links.length === 0 ? h("p", { class: "card" }, after ? "There are no more links." : isFiltered ? "No link has all of these properties. External ids and institutions must be whole." : "relink knows no links yet.") :
      h("div", { class: "card wide", tabindex: "0", role: "region", "aria-label": "Links" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Link", "State", "Institution", "External id", "In this state since"].map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, links.map(row)))),
    h("p", { class: "pages" },
      after && h("a", { href: address(["links"], filters) }, "First page"),
      next && h("a", { href: address(["links"], { ...filters, after: next }), rel: "next" }, "Next page")));
}
