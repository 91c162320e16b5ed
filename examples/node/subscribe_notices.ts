// Prompts and reminds the users of links that need repair, or whose consent ends:
// node subscribe_notices.js [NATS_URL] [COUNT] [FILE], after `npx tsc`
//
// One durable pull consumer on the stream KV_links: NATS stores its position, so this program may be stopped at any time, and several
// copies share the work. A new consumer starts at the oldest notice. So before each message it asks relink (RELINK_URL, and
// RELINK_API_TOKEN with the scope `read`) whom the notice is still about. It ends after COUNT notices; without COUNT it does not end.

import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
// From Node 22 on, `DatabaseSync` of node:sqlite does the same.
import sqlite from "node-sqlite3-wasm";

type Link = { link_id: string; institution: string | null; action: string; repair_url?: string; due_at?: string };
type Checked = { links: Link[]; left_out: { link_id: string; reason: string }[]; check_again_secs?: number };

// All messages to users. Each of them may have other links of the person that wait, and that get no prompt of their own.
const TYPES = ["update_required", "reminder", "consent_expiring", "institution_restored"];
const DURABLE = "prompts-node";
const { RELINK_URL = "http://127.0.0.1:8480", RELINK_API_TOKEN = "" } = process.env;
const [url = "nats://127.0.0.1:4222", count = "Infinity", file = "messages.sqlite"] = process.argv.slice(2);

// The messages to your users. Your mailer sends those whose `links` are not empty.
const database = new sqlite.Database(file);
database.run("CREATE TABLE IF NOT EXISTS messages (notice_id TEXT PRIMARY KEY, external_id TEXT, links TEXT)");

// The client ignores a user and a password in the address, so they are passed on.
const { host, username, password } = new URL(url.replace(/^nats:/, "http:"));
const login = username ? { user: decodeURIComponent(username), pass: decodeURIComponent(password) } : {};
const connection = await connect({ servers: host, ...login });
await (await jetstreamManager(connection)).consumers.add("KV_links", {
  durable_name: DURABLE,
  filter_subjects: TYPES.map((type) => `link.notice.${type}.*`),
  ack_policy: AckPolicy.Explicit,
  // However many notices wait for a bank, those of other banks are delivered: no limit to notices without an acknowledgement.
  max_ack_pending: -1,
});
const consumer = await jetstream(connection).consumers.get("KV_links", DURABLE);

let handled = 0;
for await (const message of await consumer.consume({ max_messages: 10 })) {
  const id = message.headers!.get("ce-id");
  const { type, external_id } = message.json<{ type: string; external_id: string | null }>();
  const { links, left_out, check_again_secs } = await whomItIsAbout(message.string());
  if (check_again_secs !== undefined) {
    message.nak(check_again_secs * 1000); // A bank is down: NATS delivers the notice again later.
    continue;
  }
  // A notice arrives at least once, with a stable id: the same transaction remembers the id and stores the message.
  const isNew = database.run("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", [id, external_id, JSON.stringify(links)]).changes;
  if (isNew && links.length > 0) console.log(JSON.stringify({ id, type, external_id, links }));
  else if (isNew) console.error(`no message for ${id}: ${JSON.stringify(left_out)}`);
  await message.ackAck(); // Last: a notice without an acknowledgement is delivered again.
  handled += isNew;
  if (handled >= Number(count)) break;
}
await connection.close();
database.close();

// The links to write about now, and the others with the reason. If relink cannot be asked, the program ends; nothing is lost.
async function whomItIsAbout(notice: string): Promise<Checked> {
  const headers = { authorization: `Bearer ${RELINK_API_TOKEN}`, "content-type": "application/json" };
  const request = { method: "POST", headers, body: notice, signal: AbortSignal.timeout(10_000) };
  const answer = await fetch(`${RELINK_URL}/v1/notices/check`, request);
  if (!answer.ok) throw new Error(`relink answered ${answer.status}: ${await answer.text()}`);
  return (await answer.json()) as Checked;
}
