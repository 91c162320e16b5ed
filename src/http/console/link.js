// One link: its state, what is due, commands, and its history as a timeline.
import { call, linkPath } from "./api.js";
import { commands } from "./commands.js";
import { badge, h, replace, when, whenChanged } from "./dom.js";
import { detailsOf, heldPrompt, nextSteps, ofCause, ofEvent, ofMessage, ofOmissions, ofRefused, ofState, stepsOf } from "./why.js";

const STEPS_SHOWN = 60;
// Refusals do not change the version of a link, so its history is also read again after this time.
const HISTORY_MS = 30_000;

export function link(main, [id = ""], _query, go) {
  const head = h("div", {});
  const tools = h("div", {});
  const status = h("p", { role: "status" });
  const timeline = h("div", {});
  let isDrawn = false;
  let history = null;
  let showAll = false;
  const drawTimeline = (read, problem) => drawHistory(timeline, read, problem, showAll, () => {
    showAll = true;
    drawTimeline(read, problem);
  });
  const showHead = whenChanged((record) => drawHead(head, record));
  const showTools = whenChanged((state, flags) => replace(tools, commands(id, state, flags, status, go)));
  const showTimeline = whenChanged(drawTimeline);
  return async (signal) => {
    const { body: record, asOf } = await call(linkPath(id), { signal });
    if (!isDrawn) replace(main, head, tools, status, timeline);
    isDrawn = true;
    showHead(record);
    showTools(record.state, { isMuted: Boolean(record.muted), isSuperseded: Boolean(record.episode?.superseded_by),
      canRelease: Boolean(heldPrompt(record)?.canRelease) });
    if (history?.version !== record.version || Date.now() - history.readAt > HISTORY_MS) {
      const read = await readHistory(id, signal);
      showTimeline(read.body, read.problem);
      history = { version: read.problem ? null : record.version, readAt: Date.now() };
    }
    return asOf;
  };
}

/** The history is in NATS, and the state in the store: while NATS is away, the state is shown without its history. */
async function readHistory(id, signal) {
  try {
    return { body: (await call(linkPath(id, "/history"), { signal })).body, problem: null };
  } catch (error) {
    if (![0, 404, 503].includes(error.status)) throw error;
    return { body: null, problem: error.message };
  }
}

function drawHead(head, record) {
  const { episode, consent } = record;
  const facts = [
    ["External id", record.external_id],
    ["Institution", record.institution],
    ["Broken by", episode && ofCause(episode.cause)],
    ["Broken since", episode && when(episode.opened_at)],
    ["Episode", episode?.id],
    ["Attempts of the user", episode?.attempts_count],
    ["Reminders", episode?.reminders_count],
    ["Data last arrived", record.data_at && when(record.data_at)],
    ["Last recovered", record.recovered_at && when(record.recovered_at)],
    ["Access", record.access_mode],
    ["Consent ends", consent?.due_at && when(consent.due_at)],
    ["Episodes so far", record.episodes_count],
  ].filter(([, value]) => value != null && value !== "");
  replace(head,
    h("h1", { class: "id" }, record.link_id),
    h("p", {}, badge(record.state), record.muted && h("span", { class: "badge" }, "muted"), " since ", when(record.since), ". ", ofState(record.state)),
    h("section", { class: "card due" }, h("h2", {}, "What is due next"),
      h("ul", {}, nextSteps(record).map(({ text, at }) => h("li", {}, text, at && [": ", when(at)])))),
    h("section", { class: "card" }, h("h2", {}, "Facts"),
      h("dl", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: "outside" }, value))))));
}

function drawHistory(timeline, history, problem, showAll, expand) {
  const title = h("h2", {}, "Why: the history of the link, the newest first");
  if (!history) {
    replace(timeline, h("section", { class: "card" }, title, h("p", { class: "wrong" }, `The history cannot be shown now: ${problem}`)));
    return;
  }
  const steps = stepsOf(history.entries);
  const shown = showAll ? steps : steps.slice(0, STEPS_SHOWN);
  replace(timeline, h("section", { class: "card" }, title,
    h("ol", { class: "timeline" }, shown.map(drawStep)),
    shown.length < steps.length && h("button", { type: "button", class: "quiet", onclick: expand }, `Show all ${steps.length} steps`),
    history.truncated && h("p", { class: "soft" }, "The history is too long. This is its newest part."),
    h("p", { class: "soft" }, "NATS keeps a limited number of messages of each kind (RELINK_HISTORY), so an old link has no beginning here.")));
}

function drawStep({ entry, messages }) {
  const { body } = entry;
  if (entry.kind === "refused") return step(entry.stored_at, "refused", [h("strong", {}, "Nothing changed. "), ofRefused(body ?? {})], body?.origin, []);
  if (entry.kind !== "state") return step(entry.stored_at, "message", [], null, [entry]);
  const because = body?.because;
  if (!because) return step(entry.stored_at, "state", ["A state that this page cannot read"], null, messages);
  const move = because.from === because.to ? ["stays ", badge(because.to)] : [badge(because.from), " → ", badge(because.to)];
  const during = because.incident ? h("span", { class: "soft" }, " during an incident of the institution") : null;
  const omissions = ofOmissions(body).map(({ text, at }) => h("p", {}, text, at && [": ", when(at)]));
  return step(because.at, because.to, [h("span", { class: "move" }, move), during, h("p", {}, ofEvent(because, body.snoozed_until)), omissions], because.origin, messages, because.event);
}

function step(at, kind, content, origin, messages, event) {
  const received = origin && [
    event && `event ${event}`,
    origin.input_sequence != null && `input ${origin.input_sequence}`,
    origin.message_id && `message ${origin.message_id}`,
    origin.token && origin.kind !== "command" && `${origin.kind === "webhook" ? "replayed" : "sent"} with the API token ${origin.token}`,
    origin.unreadable_fields?.length > 0 && `unreadable fields: ${origin.unreadable_fields.join(", ")}`,
  ].filter(Boolean).join(", ");
  return h("li", { "data-state": kind }, h("div", { class: "at" }, when(at)), content,
    origin && h("p", { class: "evidence" }, "Stored ", when(origin.received_at), received && `; ${received}`),
    messages.length > 0 && h("ul", { class: "messages" }, messages.map(drawMessage)));
}

function drawMessage(entry) {
  const details = detailsOf(entry.body);
  return h("li", { "data-kind": entry.kind },
    h("strong", {}, { job: "Requested job ", observed: "Not sent, relink only observed: " }[entry.kind] ?? "Published notice "), h("code", {}, entry.type ?? "?"), `: ${ofMessage(entry)}`,
    details && h("span", { class: "soft" }, ` (${details})`),
    entry.message_id && h("span", { class: "evidence" }, ` message ${entry.message_id}`));
}
