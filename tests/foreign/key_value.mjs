// Reads the bucket `links` with the key-value client, and prints what it has read: key_value.mjs <address> <key>.

import { Kvm } from "@nats-io/kv";
import { connect } from "@nats-io/transport-node";

const [address, key] = process.argv.slice(2);
// The client ignores a user and a password in the address, so they are passed on.
const { host, username, password } = new URL(address.replace(/^nats:/, "http:"));
const login = { user: decodeURIComponent(username), pass: decodeURIComponent(password) };
const connection = await connect({ servers: host, ...login });
const bucket = await new Kvm(connection).open("links");
const got = (await bucket.get(key)).string();
const history = [];
for await (const entry of await bucket.history({ key })) history.push(entry.string());
const keys = [];
for await (const found of await bucket.keys()) keys.push(found);
const watch = {};
for await (const entry of await bucket.watch()) {
  watch[entry.key] = entry.string();
  // The last value that the bucket has now.
  if (entry.delta === 0) break;
}
const purged = await bucket.purge(key).then(() => true, () => false);
console.log(JSON.stringify({ get: got, history, keys: keys.sort(), watch, purged }));
await connection.close();
