// Prompts and reminds the users of links that need repair, or whose consent ends:
// node subscribe_notices.js [NATS_URL] [COUNT] [FILE], after `npx tsc`
//
// One durable pull consumer on the stream KV_links. The server stores its position, so this program may be stopped and started
// at any time, and several copies of it share the work. It ends after COUNT notices; without COUNT it does not end.
//
// A new consumer starts at the oldest notice that the stream has, and a consumer that was stopped for a day starts at
// yesterday's. So this program reads the state of each link before it prompts: a user whose links work again gets no message.
// With the address of relink in RELINK_URL, and a token with the scope `read` in RELINK_API_TOKEN, it also asks relink
// whether a newer message mentions the link, and whether its bank is down now: then the message waits.

import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, nanos } from "@nats-io/transport-node";
// From Node 22 on, `DatabaseSync` of node:sqlite does the same.
import sqlite from "node-sqlite3-wasm";

type Link = { link_id: string; institution: string | null; action: string; repair_url?: string; due_at?: string };
type Waiting = Link & { episode?: number };
type Notice = Link & {
  type: string;
  external_id: string | null;
  because: { at: string };
  episode: { number: number } | null;
  also_broken?: Waiting[];
  also_ending?: Waiting[];
};
type State = {
  state: string;
  version: number;
  muted?: boolean;
  messaged?: { at: string; mentioned?: { link_id: string }[] } | null;
  episode?: { number: number; superseded_by?: string } | null;
  consent?: { due_at: string | null } | null;
};

// All messages to users. Each of them may have other links of the person that wait, and that get no prompt of their own.
const TYPES = ["update_required", "reminder", "consent_expiring", "institution_restored"];
const SUBJECTS = TYPES.map((type) => `link.notice.${type}.*`);
const DURABLE = "prompts-node";
// While a bank is down, a notice is delivered again after this time.
const BANK_PAUSE_MS = 600_000;

const [url = "nats://127.0.0.1:4222", count = "Infinity", file = "messages.sqlite"] = process.argv.slice(2);

// The messages to your users. Your mailer sends those whose `links` are not empty.
const database = new sqlite.Database(file);
database.run("CREATE TABLE IF NOT EXISTS messages (notice_id TEXT PRIMARY KEY, external_id TEXT, links TEXT)");

// The client ignores a user and a password in the address, so they are passed on.
const { host, username, password } = new URL(url.replace(/^nats:/, "http:"));
const login = username ? { user: decodeURIComponent(username), pass: decodeURIComponent(password) } : {};
const connection = await connect({ servers: host, ...login });
const manager = await jetstreamManager(connection);
await manager.consumers.add("KV_links", {
  durable_name: DURABLE,
  filter_subjects: SUBJECTS,
  ack_policy: AckPolicy.Explicit,
  ack_wait: nanos(30_000),
  // However many notices wait for a bank, those of other banks are delivered.
  max_ack_pending: -1,
});
const consumer = await jetstream(connection).consumers.get("KV_links", DURABLE);

let handled = 0;
for await (const message of await consumer.consume({ max_messages: 10 })) {
  const id = message.headers!.get("ce-id");
  const notice = message.json<Notice>();
  const state = await stateNow(notice.link_id);
  if (!state || state.version < versionOf(id)) {
    // The state is older than the notice, so it cannot decide. The notice is delivered again in a second.
    message.nak(1_000);
    continue;
  }
  const found = await linksToAskFor(notice);
  if (found.some((one) => one.bankIsDown)) {
    message.nak(BANK_PAUSE_MS);
    continue;
  }
  const links = found.map((one) => one.link);
  // A notice arrives at least once, with a stable id: the same transaction remembers the id and stores the message.
  const row = [id, notice.external_id, JSON.stringify(links)];
  const isNew = database.run("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", row).changes;
  if (isNew && links.length > 0) console.log(JSON.stringify({ id, type: notice.type, external_id: notice.external_id, links }));
  else if (isNew) console.error(`no message for ${id}: what it was about is over, under repair, or in a later message`);
  // Acknowledge last: a notice without an acknowledgement is delivered again.
  await message.ackAck();
  handled += isNew;
  if (handled >= Number(count)) break;
}
await connection.close();
database.close();

// The links of this person that need the person now: the link of the notice, and others that wait. The others get no prompt of
// their own, so check each link, also if the first one works again.
async function linksToAskFor(notice: Notice): Promise<{ link: Link; bankIsDown: boolean }[]> {
  const newer = newerMessage(notice, await stateNow(notice.link_id));
  // Those are in the newer message.
  const leftOut = newer ? [notice.link_id, ...(newer.mentioned ?? []).map((link) => link.link_id)] : [];
  const ending = (notice.also_ending ?? []).map((link) => ({ ...link, action: "renew_consent" }));
  const links: { link: Link; bankIsDown: boolean }[] = [];
  for (const link of [{ ...notice, episode: notice.episode?.number }, ...(notice.also_broken ?? []), ...ending]) {
    const state = await stateNow(link.link_id);
    if (leftOut.includes(link.link_id) || newerMessage(notice, state) || !stillNeedsItsUser(link, state)) continue;
    const known = await askedOfRelink(link);
    // A newer message about another link of the person mentions this link: then only that one is sent.
    if ((known.last_mention?.at ?? "") > notice.because.at) continue;
    const { link_id, institution, action, repair_url, due_at } = link;
    const bankIsDown = known.institution_down_since != null;
    links.push({ link: { link_id, institution, action, repair_url, due_at }, bankIsDown });
  }
  return links;
}

// The last message about a link, if it is newer than the notice, as after a pause of this program: then only that one is sent.
// Times have one form, so their texts can be compared.
function newerMessage(notice: Notice, state: State | null): State["messaged"] {
  return (state?.messaged?.at ?? "") > notice.because.at ? state!.messaged : null;
}

// What relink knows of the link besides its state: whether a message about another link mentions it, and whether its bank is down.
async function askedOfRelink(link: Link): Promise<{ last_mention?: { at: string }; institution_down_since?: string }> {
  const { RELINK_URL, RELINK_API_TOKEN = "" } = process.env;
  if (!RELINK_URL) return {};
  const headers = { authorization: `Bearer ${RELINK_API_TOKEN}` };
  const answer = await fetch(`${RELINK_URL}/v1/links/${link.link_id}`, { headers, signal: AbortSignal.timeout(10_000) });
  if (!answer.ok) throw new Error(`${answer.status}: check RELINK_API_TOKEN, which needs the scope \`read\`: ${await answer.text()}`);
  return (await answer.json()) as { last_mention?: { at: string }; institution_down_since?: string };
}

// Whether this outage is still open, and the user is not repairing the link. An episode is one outage. The episodes of a link
// are numbered, so the number shows whether it is the outage that is open now. If the episode is superseded, the user has
// connected the bank anew. A link without an episode works, and its consent ends at `due_at`. An operator may have muted the link.
// An `institution_restored` may have nothing to do.
function stillNeedsItsUser(link: Waiting, state: State | null): boolean {
  if (!state || state.muted || state.state === "removed" || link.action === "none") return false;
  const now = state.episode;
  if (link.episode === undefined) return !now && state.consent?.due_at === link.due_at;
  if (!now || now.superseded_by) return false;
  return now.number === link.episode && state.state !== "updating";
}

// The version of the link that sent this notice; notice ids are <link>.<version>.<n>.
function versionOf(id: string): number {
  return Number(id.split(".").at(-2));
}

// The state of a link at this moment: the last message on its subject.
async function stateNow(linkId: string): Promise<State | null> {
  const last = await manager.streams.getMessage("KV_links", { last_by_subj: `$KV.links.${linkId}` });
  return last?.json<State>() ?? null;
}
