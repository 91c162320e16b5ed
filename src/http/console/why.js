// The history of a link as steps and sentences, as `relink why` prints them. This module draws nothing.

const SOURCES = {
  webhook: "Belvo reported in a webhook",
  api_error: "Belvo's API answered your application with an error",
  widget: "Belvo's widget, or your application, reported",
  observation: "relink read the link from Belvo",
  command: "An operator gave a command",
  timer: "A time limit of relink has passed",
};

const CAUSES = {
  credentials: "the institution refuses the stored credentials",
  token: "the institution requires a new MFA token",
  account_blocked: "the institution locked the account of the user, or forbids access to it",
  consent_ended: "the open-finance consent ended",
  unsupported: "the institution requires a kind of MFA that Belvo does not support",
};

const EVENTS = {
  credentials_rejected: CAUSES.credentials,
  token_requested: CAUSES.token,
  account_blocked: CAUSES.account_blocked,
  consent_ended: CAUSES.consent_ended,
  unsupported_login: CAUSES.unsupported,
  creation_unfinished: "the creation of the link is not finished",
  session_expired: "the MFA session has expired",
  consent_ending: "the consent ends soon",
  consent_changed: "the due date of the consent has changed, so most likely the user has renewed it",
  update_started: "the user has opened the widget to repair the link",
  update_claimed: "the user has repaired the link; this is not proven yet",
  update_abandoned: "the user has left the widget, or the widget has failed",
  observed_valid: "its status there is valid",
  observed_invalid: "its status there is invalid",
  observed_token_required: "its status there is token_required",
  observed_unconfirmed: "its status there is unconfirmed",
  observed_missing: "Belvo does not know the link any more",
  observed_consent_authorised: "its consent is authorised",
  observed_consent_ended: "its consent has ended",
  missing_reported: "the link was not found (404)",
  data_arrived: "data of the link is at Belvo",
  refresh_accepted: "Belvo accepted a request for a refresh",
  quota_reached: "the monthly quota of the user is used up",
  outage_met: "the bank is down, and a call or the user met this outage",
  link_deleted: "the link was deleted at Belvo",
  mute: "the user gets no prompts and no reminders",
  unmute: "the user gets prompts and reminders again",
  snooze: "the user gets no reminders before a given time",
  verify: "relink reads the link from Belvo now",
  forget: "relink removes the link for ever",
  superseded: "the user has connected the bank anew, with another link",
  unsupersede: "the user is asked about this link again",
  release: "the user is prompted, although the link was muted or its institution had an incident",
};

const STATES = {
  unconfirmed: "There is no proof yet that the creation of the link was finished.",
  valid: "The link works.",
  invalid: "The link does not work until its user repairs it.",
  token_required: "The link does not work until its user gives a new MFA token.",
  updating: "Its user is repairing the link, or relink is verifying the repair.",
  removed: "The link is removed. relink ignores all later messages about it.",
};

const NOTICES = {
  update_required: "Prompt the user: the link needs its user",
  reminder: "Remind the user",
  update_started: "The user is repairing the link",
  update_failed: "The attempt to repair the link failed",
  recovered: "The link works again",
  refresh_due: "Data of the outage is missing",
  refreshed: "The data of the outage is complete",
  stale: "Scheduled data did not arrive",
  data_available: "New data is at Belvo",
  consent_expiring: "The consent ends soon",
  institution_down: "The bank is down. There is nothing to do now",
  institution_restored: "The bank works again",
  removed: "The link is removed",
  creation_unfinished: "The creation of the link was not finished. For your application, not for the user",
  superseded: "The user has connected the bank anew. Do not ask about this link any more",
};

const DETAILS = ["action", "number", "attempt", "proof", "by", "resource", "kind", "reason", "why"];

const own = (table, key) => (Object.hasOwn(table, key ?? "") ? table[key] : null);
export const ofState = (state) => own(STATES, state) ?? "";
export const ofCause = (cause) => own(CAUSES, cause) ?? String(cause);

/** What happened and who reported it, as a sentence. */
export function ofEvent(event, origin) {
  const source = own(SOURCES, origin?.kind);
  if (origin?.kind === "timer") return `${source}.`;
  const what = own(EVENTS, event) ?? `the event ${event}`;
  const who = origin?.kind === "command" ? `${operator(origin)} gave a command` : source;
  const reason = origin?.reason ? ` Reason: "${origin.reason}".` : "";
  return `${who ?? "A message said"}: ${what}.${reason}`;
}

/** Who gave a command. */
function operator({ by, token }) {
  const who = by ? `The operator "${by}"` : token ? "The holder" : "An operator";
  return token ? `${who}${by ? ", with" : " of"} the API token "${token}"${by ? "," : ""}` : who;
}

/** A published notice or a requested job, as a clause. */
export function ofMessage(entry) {
  if (entry.kind === "job") return { verify: "relink asks Belvo for the status of the link", refresh: "relink asks Belvo for the missing data" }[entry.type] ?? `the job ${entry.type}`;
  return own(NOTICES, entry.type) ?? String(entry.type);
}

/** The most important fields of a message. */
export function detailsOf(body) {
  return DETAILS.filter((name) => ["string", "number"].includes(typeof body?.[name])).map((name) => `${name} ${body[name]}`).join(", ");
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
  if (link.muted && link.state !== "removed") steps.push({ text: "The link is muted: its user is neither prompted nor reminded until an operator ends that." });
  if (link.snoozed_until) steps.push({ text: "An operator has postponed reminders. There is none before", at: link.snoozed_until });
  return steps;
}

/** Why the user of a broken link was not prompted: `{ text, at, canRelease }`; null if the user was, or is not to be asked. */
export function heldPrompt({ state, episode, muted }) {
  if (!["invalid", "token_required"].includes(state) || !episode || episode.superseded_by) return null;
  const prompt = episode.prompt ?? (episode.prompt_sent ? "sent" : "muted");
  if (prompt === "sent") return null;
  const at = episode.prompt_deferred_until;
  if (muted) return { text: "The link is muted.", at: null, canRelease: true };
  if (["deferred", "waiting"].includes(prompt)) {
    return { text: episode.prompt_asked_at ? "After an incident, relink asks Belvo whether the link works again." : "The institution has an incident.", at, canRelease: true };
  }
  if (prompt === "postponed") return { text: "The person got a message a short time before, or it is a part of the day without messages.", at, canRelease: false };
  if (prompt === "unidentified") return { text: "relink asks Belvo whose link it is.", at, canRelease: false };
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

function ofBroken({ episode, muted, snoozed_until: snoozedUntil, due_at: dueAt }) {
  if (!episode) return [];
  if (episode.superseded_by) return [{ text: `The user is not asked any more, because the link ${episode.superseded_by} of the same user works.` }];
  if (["muted", "held"].includes(episode.prompt)) {
    return muted ? [{ text: "The user has not been prompted, because the link is muted." }]
      : [{ text: "The user has not been prompted. The prompt is published if the attempt in the widget fails." }];
  }
  const until = episode.prompt_deferred_until ?? episode.prompt_waits_until;
  if (["deferred", "waiting"].includes(episode.prompt)) {
    return episode.prompt_asked_at
      ? [{ text: "The user has not been prompted. relink has asked Belvo whether the link works again, and waits for the answer until", at: until }]
      : [{ text: "The user has not been prompted, because many links of the institution failed together. relink checks again", at: until }];
  }
  if (episode.prompt === "postponed") return [{ text: "The user has not been prompted, because the person got a message a short time before, or it is a part of the day without messages. The prompt is published", at: until }];
  if (episode.prompt === "unidentified") return [{ text: "The user has not been prompted, because relink asks Belvo first whose link it is. The prompt is published, if the link is still broken, at the latest", at: until }];
  // `nextSteps` adds that the link is muted.
  if (muted) return [];
  const at = dueAt ?? [episode.next_reminder_at, episode.next_reminder_at && snoozedUntil].filter(Boolean).sort().at(-1);
  return at ? [{ text: `Reminder ${(episode.reminders_count ?? 0) + 1} is published, unless the link works again before`, at }]
    : [{ text: "No reminder is due. relink waits until the user repairs the link." }];
}

function ofUpdating({ update }) {
  if (!update) return [];
  return update.phase === "with_user"
    ? [{ text: "The user may finish the repair. If no result arrives, the attempt ends", at: update.until }]
    : [{ text: "relink asks Belvo whether the link works. It publishes `recovered` only with that proof, and waits until", at: update.until }];
}
