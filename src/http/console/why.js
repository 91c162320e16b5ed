// The history of a link as steps and sentences, as `relink why` prints them. This module draws nothing.

import { WORDS } from "./words.js";

const NOTICES = {
  update_required: "Prompt the user: the link needs its user",
  reminder: "Remind the user",
  update_started: "The user is repairing the link",
  update_failed: "The attempt to repair the link failed",
  recovered: "The link works again",
  refresh_due: "The data of the outage has to be fetched",
  refreshed: "The data of the outage has arrived",
  stale: "Scheduled data did not arrive",
  data_available: "New data is at Belvo",
  consent_expiring: "The consent ends soon",
  institution_down: "The bank is down. There is nothing to do now",
  institution_restored: "The bank works again, at least for this link",
  removed: "The link is removed",
  creation_unfinished: "The creation of the link was not finished. For your application, not for the user",
  superseded: "The user has connected the bank anew. Do not ask about this link any more",
};

const JOBS = {
  verify: "a read of the link from Belvo",
  refresh: "a fetch of the data of the link at Belvo",
  find_superseded: "a search for a broken link of the same user at the same bank, which this link would replace. The history of that link has the result",
  read_successor: "a read of another link from Belvo, to see whether it replaces this link",
};

const DETAILS = ["action", "number", "attempt", "proof", "by", "resource", "kind", "reason", "why"];

const own = (table, key) => (Object.hasOwn(table, key ?? "") ? table[key] : null);
export const ofState = (state) => own(WORDS.states, state) ?? "";
export const ofCause = (cause) => own(WORDS.causes, cause) ?? String(cause);

/** What happened and who reported it, as a sentence. */
export function ofEvent({ event, origin, due, times_corrected: isCorrection }, snoozedUntil) {
  const source = own(WORDS.reporters, origin?.kind);
  if (isCorrection) return "relink corrected times of the link that were in the future: the clock of the NATS server had been ahead.";
  if (origin?.kind === "timer") return own(WORDS.due, due) ?? `${source}.`;
  const what = own(WORDS.events, event) ?? `the event ${event}`;
  const who = origin?.kind === "command" ? `${operator(origin)} gave the command ${event}` : source;
  const until = event === "snooze" && snoozedUntil ? ` The time: ${snoozedUntil}.` : "";
  return `${who ?? "A message said"}: ${what}.${reasonOf(origin)}${until}`;
}

/** What a transition did not publish, and why: a list of `{ text, at }`. */
export function ofOmissions({ because, episode, consent, institution_outage: outage }) {
  const omissions = [];
  const held = own(WORDS.held, because?.held);
  const until = because?.to === "valid" ? consent?.postponed_until : because?.due === "reminder" ? episode?.next_reminder_at : episode?.prompt_deferred_until;
  const waits = until && ["incident", "unidentified", "pause", "quiet_hours", "in_widget", "other_answer"].includes(because?.held);
  if (held) omissions.push(waits ? { text: `${held} The end of this wait`, at: until } : { text: held });
  if (because?.outage_notice_at) {
    omissions.push({ text: `In quiet hours relink does not publish ${outage?.check_at ? "institution_restored" : "institution_down"}. They end`, at: because.outage_notice_at });
  }
  return omissions;
}

/** An input that changed nothing, and the reason, as a sentence. */
export function ofRefused({ event, reason, detail, origin }) {
  const why = (reason === "already_known" && own(WORDS.known_already, event)) || (reason === "nothing_held" && WORDS.nothing_held) || detail || "?";
  if (origin?.kind === "command") return `${operator(origin)} gave the command ${event ?? "?"}.${reasonOf(origin)} It changed nothing: ${why}.`;
  const what = own(WORDS.events, event) ?? event;
  return `${own(WORDS.reporters, origin?.kind) ?? "relink received a message"}${what ? `: ${what}` : ""}. Nothing changed: ${why}.`;
}

const reasonOf = (origin) => (origin?.reason ? ` Reason: "${origin.reason}".` : "");

/** Why a prompt is postponed. Only the transition that began the wait knows which of them it is. */
const ofWait = (because) => (["pause", "quiet_hours", "in_widget", "other_answer"].includes(because?.held) ? own(WORDS.held, because.held)
  : "The person got a message a short time before, is in the widget, or it is a part of the day without messages.");

/** Who gave a command. */
function operator({ by, token, message_id: id }) {
  if (String(id ?? "").startsWith("adoption-")) return "relink itself";
  const who = by ? `The operator "${by}"` : token ? "The holder" : "An operator";
  return token ? `${who}${by ? ", with" : " of"} the API token "${token}"${by ? "," : ""}` : who;
}

/** A published notice or a requested job, as a clause. */
export function ofMessage(entry) {
  if (entry.kind === "job") return own(JOBS, entry.type) ?? `the job ${entry.type}`;
  return own(NOTICES, entry.type) ?? String(entry.type);
}

/** The most important fields of a message. */
export function detailsOf(body) {
  const fields = DETAILS.filter((name) => ["string", "number"].includes(typeof body?.[name])).map((name) => `${name} ${body[name]}`);
  const others = ["also_broken", "also_ending"].flatMap((list) => (Array.isArray(body?.[list]) ? body[list] : [])).map((other) => other?.link_id);
  return [...fields, others.length > 0 && `the message also mentions ${others.join(" and ")}`].filter(Boolean).join(", ");
}

/**
 * The steps of a history, the newest first: `{ entry, messages }`. On the stream a state comes after the messages of its commit; here each
 * state has its messages with it. A message whose state is not in the history any more is a step of its own.
 */
export function stepsOf(entries) {
  const steps = [];
  let pending = [];
  for (const entry of entries) {
    if (entry.kind === "refused") {
      steps.push({ entry, messages: [] });
    } else if (entry.kind === "state") {
      const sent = new Set(Array.isArray(entry.body?.sent) ? entry.body.sent : []);
      steps.push(...pending.filter((one) => !sent.has(one.message_id)).map((one) => ({ entry: one, messages: [] })));
      steps.push({ entry, messages: pending.filter((one) => sent.has(one.message_id)) });
      pending = [];
    } else {
      pending.push(entry);
    }
  }
  steps.push(...pending.map((entry) => ({ entry, messages: [] })));
  return steps.reverse();
}

/** What is due next for a link: a list of `{ text, at }`, in words for support. */
export function nextSteps(link) {
  const steps = { unconfirmed: ofUnconfirmed, valid: ofValid, invalid: ofBroken, token_required: ofBroken, updating: ofUpdating, removed: ofRemoved }[link.state]?.(link) ?? [];
  if (link.muted && link.state !== "removed") steps.push({ text: "The link is muted: its user is neither prompted nor reminded until an operator ends that. If relink itself muted it when it adopted it, relink ends that." });
  if (Date.parse(link.snoozed_until) > Date.now() && link.state !== "removed") steps.push({ text: "An operator has postponed reminders. There is none before", at: link.snoozed_until });
  return steps;
}

/** Why the user of a broken link was not prompted: `{ text, at, canRelease }`; null if the user was, or is not to be asked. */
export function heldPrompt({ state, episode, muted, because, institution_down_since: isDown }) {
  if (!["invalid", "token_required"].includes(state) || !episode || episode.superseded_by) return null;
  const prompt = episode.prompt ?? (episode.prompt_sent ? "sent" : "muted");
  if (prompt === "sent") return null;
  const at = episode.prompt_deferred_until;
  if (muted) return { text: "The link is muted.", at: null, canRelease: true };
  if (["deferred", "waiting"].includes(prompt)) {
    return { text: episode.prompt_asked_at ? "After an incident, relink asks Belvo whether the link works again." : "The institution has an incident.", at, canRelease: true };
  }
  // After its present wait, the prompt would wait for the bank.
  const canRelease = Boolean(isDown) && !episode.prompt_released;
  if (prompt === "postponed") return { text: ofWait(because), at, canRelease };
  if (prompt === "unidentified") return { text: "relink asks Belvo whose link it is.", at, canRelease };
  return { text: "The user was in the widget when the outage became known.", at: null, canRelease: false };
}

const ofRemoved = () => [{ text: "Nothing happens any more." }];
const ofUnconfirmed = ({ due_at: dueAt, unfinished_announced: announced }) => {
  if (dueAt) return [{ text: "If the creation of the link is not finished, relink publishes `creation_unfinished` for your application", at: dueAt }];
  return [{ text: announced ? "Nothing is due. Your application was notified that the creation is not finished." : "Nothing is due. relink waits for the first message that shows whether the link works." }];
};

function ofValid(link) {
  const steps = [];
  if (link.suspicion) steps.push({ text: `relink verifies a report that ${ofCause(link.suspicion.cause)}. If nothing refutes it, the link counts as broken, and its user is prompted`, at: link.suspicion.until });
  if (link.refresh) steps.push({ text: "relink waits for the data of the outage. Then it asks Belvo for it, or publishes `refreshed` without it", at: link.refresh.until });
  if (link.stale_probed_until) steps.push({ text: "Data is overdue. If none arrives, relink publishes `stale`", at: link.stale_probed_until });
  if (steps.length === 0 && link.due_at) steps.push({ text: "If no data arrives before, relink looks after the link", at: link.due_at });
  return steps.length > 0 ? steps : [{ text: "Nothing is due. relink waits for the next message about the link." }];
}

/** Why nobody is asked about a link that a newer one replaced. */
function ofSuperseded(by, state) {
  const now = { valid: " That link works.", removed: " That link is removed now, so the user is asked about neither of them.",
    updating: " That link is broken too, and its repair has begun." };
  const more = own(now, state) ?? (state ? ` That link is ${state} now.` : " relink does not know that link.");
  return `The user is not asked about this link any more, because the newer link ${by} of the same user replaced it.${more}`;
}

function ofBroken({ episode, muted, because, successor, last_mention: mention, snoozed_until: snoozedUntil, due_at: dueAt, due, institution_down_since: isDown }) {
  if (!episode) return [];
  if (episode.superseded_by) return [{ text: ofSuperseded(episode.superseded_by, successor?.state) }];
  // Whatever else keeps the prompt back, the mute does too.
  if (muted && !episode.prompt_sent) return [{ text: "The user has not been prompted, because the link is muted." }];
  if (["muted", "held"].includes(episode.prompt)) return [{ text: "The user has not been prompted. The prompt is published if the attempt in the widget fails." }];
  const until = episode.prompt_deferred_until ?? episode.prompt_waits_until;
  if (["deferred", "waiting"].includes(episode.prompt)) {
    return episode.prompt_asked_at
      ? [{ text: "The user has not been prompted. relink has asked Belvo whether the link works again, and waits for the answer until", at: until }]
      : [{ text: "The user has not been prompted, because the institution has an incident. relink checks again", at: until }];
  }
  if (episode.prompt === "postponed" && mention) {
    return [{ text: `The user gets no prompt of its own about this link: the message about the link ${mention.link_id} mentioned this one, and counts as it. relink notes this`, at: until }];
  }
  if (episode.prompt === "postponed") {
    const looksAgain = because?.held === "other_answer" ? "relink looks again" : "The prompt is published";
    const next = isDown && !episode.prompt_released ? "The institution is down too. relink looks again" : looksAgain;
    return [{ text: `The user has not been prompted. ${ofWait(because)} ${next}`, at: until }];
  }
  if (episode.prompt === "unidentified") return [{ text: "The user has not been prompted, because relink asks Belvo first whose link it is. The prompt is published, if the link is still broken, at the latest", at: until }];
  // `nextSteps` adds that the link is muted.
  if (muted) return [];
  const at = due?.find(({ what }) => what === "reminder")?.at ?? dueAt ?? [episode.next_reminder_at, episode.next_reminder_at && snoozedUntil].filter(Boolean).sort().at(-1);
  const reminder = `Reminder ${(episode.reminders_count ?? 0) + 1}`;
  const isCounted = mention && episode.mention_counted_at >= mention.at;
  if (at && mention && !isCounted && at < (mention.counts_until ?? "")) {
    return [{ text: `${reminder} is not sent: the last message about the link ${mention.link_id} mentioned this one, and counts as it. It would be due`, at }];
  }
  if (at && episode.reminder_waits_since && !snoozedUntil) {
    const why = because?.due === "reminder" && own(WORDS.held, because.held);
    return [{ text: `${reminder} is overdue. ${why || "The bank has an incident, or the user may not get a message yet."} relink looks again`, at }];
  }
  if (at && isDown) return [{ text: `${reminder} is due. It waits if the institution is still down then`, at }];
  return at ? [{ text: `${reminder} is published, unless the link works again before`, at }]
    : [{ text: "No reminder is due. relink waits until the user repairs the link." }];
}

function ofUpdating({ update, due, institution_down_since: isDown }) {
  if (!update) return [];
  const step = update.phase === "with_user"
    ? { text: "The user may finish the repair. If no result arrives, the attempt ends", at: update.until }
    : { text: "relink asks Belvo whether the link works. It publishes `recovered` only with that proof, and waits until", at: update.until };
  const at = due?.find(({ what }) => what === "incident")?.at;
  if (!at) return [step];
  return [step, { text: isDown ? "Your application was notified that the institution is down. relink looks whether it works again"
    : "The institution works again. relink publishes `institution_restored`, but not in quiet hours", at }];
}
