// Prompts the user of a link that needs repair: node subscribe_notices.mjs [NATS_URL] [COUNT]
//
// One durable pull consumer on the stream KV_links. The server stores its position, so this program may be stopped and started
// at any time, and several copies of it share the work. It ends after COUNT notices; without COUNT it does not end.
//
// A new consumer starts at the oldest notice that the stream has, and a consumer that was stopped for a day starts at
// yesterday's. So this program reads the state of each link before it prompts: a user whose link works again gets no
// message.

import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, nanos } from "@nats-io/transport-node";

const SUBJECT = "link.notice.update_required.*";
const DURABLE = "prompts-node";

const [url = "nats://127.0.0.1:4222", count = Infinity] = process.argv.slice(2);

// The client ignores a user and a password in the address, so they are passed on.
const { host, username, password } = new URL(url.replace(/^nats:/, "http:"));
const login = username ? { user: decodeURIComponent(username), pass: decodeURIComponent(password) } : {};
const connection = await connect({ servers: host, ...login });
const manager = await jetstreamManager(connection);
await manager.consumers.add("KV_links", {
  durable_name: DURABLE,
  filter_subject: SUBJECT,
  ack_policy: AckPolicy.Explicit,
  ack_wait: nanos(30_000),
});
const consumer = await jetstream(connection).consumers.get("KV_links", DURABLE);

// Each notice arrives at least once, with a stable id. Store the ids together with your reaction to the notices, in the same
// transaction; the set in memory is only an illustration.
const seen = new Set();
for await (const message of await consumer.consume({ max_messages: 10 })) {
  const id = message.headers.get("ce-id");
  if (!seen.has(id)) {
    const notice = message.json();
    const state = await stateNow(notice.link_id);
    if (!(state?.version >= versionOf(id))) {
      // The state is older than the notice, so it cannot decide. The notice is delivered again in a second.
      message.nak(1_000);
      continue;
    }
    if (stillNeedsItsUser(notice, state)) await prompt(id, notice, state);
    else console.error(`no prompt for ${id}: that outage is over, or under repair`);
    seen.add(id);
  }
  // Acknowledge last: a notice without an acknowledgement is delivered again.
  await message.ackAck();
  if (seen.size >= Number(count)) break;
}
await connection.close();

// Whether the outage of this notice is still open, and its user is not repairing the link. An episode is one outage.
// The episodes of a link are numbered, so the number shows whether the notice is about the open episode. If the episode
// is superseded, the user has connected the bank anew.
function stillNeedsItsUser(notice, state) {
  if (state?.episode?.superseded_by) return false;
  return state?.episode?.number === notice.episode.number && state.state !== "updating";
}

// The version of the link that sent this notice; notice ids are <link>.<version>.<n>.
function versionOf(id) {
  return Number(id.split(".").at(-2));
}

// The state of a link at this moment: the last message on its subject.
async function stateNow(linkId) {
  const last = await manager.streams.getMessage("KV_links", { last_by_subj: `$KV.links.${linkId}` });
  return last?.json() ?? null;
}

// Your part: an e-mail, a push message, a banner. `action` is the required action of the user.
async function prompt(id, notice, state) {
  const { type, link_id, external_id, institution, action } = notice;
  console.log(JSON.stringify({ id, type, link_id, external_id, institution, action, state_now: state.state }));
}
