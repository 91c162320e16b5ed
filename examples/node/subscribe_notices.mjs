// Prompts the user of a link that needs repair: node subscribe_notices.mjs [NATS_URL] [COUNT]
//
// One durable pull consumer on the stream LINKS. It remembers where it was, so this program may be stopped and started
// at any time, and several copies of it share the work. Ends after COUNT notices; without it, never.

import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { connect, nanos } from "@nats-io/transport-node";

const SUBJECT = "link.notice.update_required.*";
const DURABLE = "prompts-node";

const [url = "nats://127.0.0.1:4222", count = Infinity] = process.argv.slice(2);

const connection = await connect({ servers: url });
const manager = await jetstreamManager(connection);
await manager.consumers.add("LINKS", {
  durable_name: DURABLE,
  filter_subject: SUBJECT,
  ack_policy: AckPolicy.Explicit,
  ack_wait: nanos(30_000),
});
const links = await new Kvm(connection).open("links");
const consumer = await jetstream(connection).consumers.get("LINKS", DURABLE);

// Each notice arrives at least once, with a stable id. Keep the ids where you keep what you did about them, in the same
// transaction; a set in memory only shows the idea.
const seen = new Set();
for await (const message of await consumer.consume({ max_messages: 10 })) {
  const id = message.headers.get("ce-id");
  if (!seen.has(id)) {
    const notice = message.json();
    await prompt(id, notice, await stateNow(notice.link_id));
    seen.add(id);
  }
  // Only now: what is not acknowledged comes again.
  await message.ackAck();
  if (seen.size >= Number(count)) break;
}
await connection.close();

// Your part: an e-mail, a push message, a banner. `action` says what the user has to do.
async function prompt(id, notice, state) {
  const { type, link_id, external_id, institution, action } = notice;
  console.log(JSON.stringify({ id, type, link_id, external_id, institution, action, state_now: state }));
}

// The state of a link at this moment; the bucket may be a moment behind, and then does not know a new link.
async function stateNow(linkId) {
  return (await links.get(linkId))?.json().state ?? null;
}
