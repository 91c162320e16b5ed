// Dead letters: messages that relink could not handle, with their reason and their bytes; the replay of one.
import { call } from "./api.js";
import { ask } from "./commands.js";
import { address, h, number, printable, replace, when, whenChanged } from "./dom.js";

const PAGE = 50;
const BYTES_SHOWN = 16_384;

export function deadLetters(main, [sequence], query) {
  return sequence ? one(main, sequence) : list(main, query.get("after") ?? "");
}

function list(main, after) {
  const show = whenChanged(({ dead_letters: letters, next, total }) => {
    const row = (letter) => h("tr", {},
      h("th", { scope: "row" }, h("a", { href: address(["dead-letters", String(letter.sequence)]) }, letter.sequence)),
      h("td", {}, h("span", { class: "badge" }, letter.reason ?? "?")),
      h("td", { class: "outside" }, letter.detail ?? "–"),
      h("td", {}, when(letter.at)),
      h("td", { class: "outside" }, letter.subject ?? "–"),
      h("td", { class: "count" }, number(letter.bytes ?? 0)));
    replace(main, h("h1", {}, "Dead letters"),
      h("p", { class: "soft" }, "Messages that relink could not handle, the oldest first. A replay publishes the message again as a new input; the dead letter stays."),
      total != null && h("p", {}, `${number(total)} in all.`),
      letters.length === 0 ? h("p", { class: "card" }, after ? "There are no more dead letters." : "There are no dead letters.") :
        h("div", { class: "card wide", tabindex: "0", role: "region", "aria-label": "Dead letters" }, h("table", {},
          h("thead", {}, h("tr", {}, ["Number", "Reason", "Detail", "Stored", "Subject", "Bytes"].map((head, index) =>
            h("th", { scope: "col", class: index === 5 ? "count" : null }, head)))),
          h("tbody", {}, letters.map(row)))),
      h("p", { class: "pages" }, after && h("a", { href: "#/dead-letters" }, "First page"),
        next && h("a", { href: address(["dead-letters"], { after: next }), rel: "next" }, "Next page")));
  });
  return async (signal) => {
    const { body } = await call("v1/dead-letters", { parameters: { limit: PAGE, after }, signal });
    show(body);
  };
}

function one(main, sequence) {
  const status = h("p", { role: "status" });
  const replay = async () => {
    const answer = await ask({
      title: `Replay the dead letter ${sequence}?`,
      content: h("p", {}, "relink publishes the message again as a new input. If its reason still exists, it becomes a dead letter again."),
      action: "Replay",
      send: async () => {
        const { body } = await call(`v1/dead-letters/${encodeURIComponent(sequence)}/replay`, { body: {} });
        return `The message was published again, as input ${body.sequence}.`;
      },
    });
    if (answer) replace(status, document.createTextNode(answer));
  };
  const show = whenChanged((letter) => {
    const { headers = {}, payload, payload_base64: base64, ...facts } = letter;
    const row = ([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: "outside" }, name === "at" ? when(value) : String(value)));
    replace(main, h("h1", {}, `Dead letter ${sequence}`),
      h("p", {}, h("a", { href: "#/dead-letters" }, "All dead letters")),
      h("section", { class: "card" }, h("h2", {}, "Why"), h("dl", {}, Object.entries(facts).filter(([, value]) => value != null).map(row)),
        h("div", { class: "buttons" }, h("button", { type: "button", id: "replay", onclick: replay }, "Replay")), status),
      h("section", { class: "card" }, h("h2", {}, "Bytes"),
        h("pre", { tabindex: "0", role: "region", "aria-label": "The bytes of the message" }, payload != null ? payload : hex(base64 ?? ""))),
      Object.keys(headers).length > 0 && h("section", { class: "card" }, h("h2", {}, "Headers"), h("dl", {}, Object.entries(headers).map(row))));
  });
  return async (signal) => {
    const { body } = await call(`v1/dead-letters/${encodeURIComponent(sequence)}`, { signal });
    show(body);
  };
}

/** Bytes that are no text: 16 on a line, in hexadecimal and as ASCII. */
function hex(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, BYTES_SHOWN); at += 16) {
    const part = [...bytes.slice(at, at + 16)];
    const codes = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    const text = part.map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${codes}  ${text}`);
  }
  if (bytes.length > BYTES_SHOWN) lines.push(`… (${bytes.length} bytes; the HTTP API returns all of them)`);
  return printable(lines.join("\n"));
}
