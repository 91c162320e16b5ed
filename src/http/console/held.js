// Held prompts: links that are broken and whose users were not prompted yet, with the reason, and the release of one.
import { call } from "./api.js";
import { askFor } from "./commands.js";
import { address, badge, distance, h, number, replace, when, whenChanged } from "./dom.js";
import { heldPrompt } from "./why.js";

const SHOWN = 50;
/** relink looks through this many broken links for one request. */
const LOOKED_AT = 1_000;
/** If few of many broken links are held, the view reads several pages, and not with each event. */
const PAGES_MAX = 10;
const MANY_MS = 15_000;

export function held(main, _parts, query, go) {
  const after = query.get("after") ?? "";
  const institution = query.get("institution") ?? "";
  const status = h("p", { role: "status" });
  const list = h("div", {});
  const note = h("div", {});
  let read = { at: 0, pagesCount: 0 };
  let isDrawn = false;
  const release = async (id) => {
    const answer = await askFor(id, "release");
    if (!answer) return;
    replace(status, document.createTextNode(answer));
    read.pagesCount = 0;
    go();
  };
  const showNote = whenChanged((observes) => replace(note, observes && h("p", { class: "card warn" },
    "relink only observes: it records prompts and sends none. Those count as sent, so they are not in this list.")));
  const showList = whenChanged((found) => drawList(list, found, { institution, after }, release));
  return async (signal) => {
    if (read.pagesCount > 1 && Date.now() - read.at < MANY_MS) return read.asOf;
    const [found, summary] = await Promise.all([readHeld({ institution, after }, signal), call("v1/summary", { signal })]);
    read = { at: Date.now(), pagesCount: found.pagesCount, asOf: found.asOf };
    if (!isDrawn) {
      replace(main, h("h1", {}, "Held prompts"),
        h("p", { class: "soft" }, "These links are broken, and their users were not prompted yet. ",
          "A release ends a mute and the wait for the end of an incident. Quiet hours and the pause after another message stay, and end by themselves."),
        institution && h("p", {}, "Only links of ", h("strong", {}, institution), ". ", h("a", { href: "#/held" }, "Show all")),
        status, note, list);
    }
    isDrawn = true;
    showNote(Boolean(summary.body.observe));
    showList(found.page);
    return found.asOf;
  };
}

/** Reads on until there is a full page, because relink may find few held prompts among many broken links. */
async function readHeld(filter, signal) {
  const links = [];
  const unreadable = [];
  let { after } = filter;
  for (let pagesCount = 1; ; pagesCount += 1) {
    const { body, asOf } = await call("v1/prompts/held", { parameters: { ...filter, after, limit: LOOKED_AT }, signal });
    links.push(...body.links);
    unreadable.push(...(body.unreadable ?? []));
    after = body.next;
    if (!after || links.length >= SHOWN || pagesCount === PAGES_MAX) {
      const isCut = links.length > SHOWN;
      const next = isCut ? links[SHOWN - 1].link_id : after;
      return { page: { links: links.slice(0, SHOWN), unreadable, next }, asOf, pagesCount };
    }
  }
}

function drawList(list, { links, unreadable, next }, { institution, after }, release) {
  const row = (link) => {
    const reason = heldPrompt(link);
    return h("tr", {},
      h("th", { scope: "row" }, h("a", { href: address(["link", link.link_id]), class: "id" }, link.link_id), h("div", {}, badge(link.state))),
      // The button is beside the id, so that it is seen on a narrow screen too.
      h("td", {}, reason?.canRelease ? h("button", { type: "button", class: "quiet", id: `release-${link.link_id}`,
        "aria-label": `Release the prompt of ${link.link_id}`, onclick: () => release(link.link_id) }, "Release") : h("span", { class: "soft" }, "by itself")),
      h("td", { class: "reason" }, reason?.text ?? "–", reason?.at && [" ", h("span", { class: "soft" }, `(${distance(reason.at)})`)]),
      h("td", {}, link.institution ?? "–"),
      h("td", {}, when(link.episode?.opened_at ?? link.since)));
  };
  const nothing = after || next ? "There is no held prompt on this page." : "No prompt is held.";
  replace(list,
    unreadable.length > 0 && h("p", { class: "card warn" }, `relink cannot read the records of these links: ${unreadable.join(", ")}`),
    links.length === 0 ? h("p", { class: "card" }, nothing) : [
      h("p", {}, `${number(links.length)}${next ? " or more" : ""} held ${links.length === 1 ? "prompt" : "prompts"}.`),
      h("div", { class: "card wide", tabindex: "0", role: "region", "aria-label": "Held prompts" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Link", "How it ends", "Why there was no prompt", "Institution", "Broken since"].map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, links.map(row))))],
    h("p", { class: "pages" },
      after && h("a", { href: address(["held"], { institution }) }, "First page"),
      next && h("a", { href: address(["held"], { institution, after: next }), rel: "next" }, "Next page")));
}
