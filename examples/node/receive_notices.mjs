// Receives relink's notices over HTTP, without NATS: node receive_notices.mjs PORT SECRET FILE [COUNT]
//
// The official library of Standard Webhooks verifies each request. The secret is one of RELINK_NOTICES_SECRETS. The program
// prints each notice, and ends after COUNT of them. It needs `npm install standardwebhooks`.
//
// relink sends a notice again if it got no answer, with the same `webhook-id`. So the id is stored together with the effect of
// the notice: one line of FILE has both, and a line is written whole or not at all. In your program the effect and the id
// belong into one transaction of your database. Node has a database of its own only from version 22.5 on (`node:sqlite`), and
// this example runs with older ones.

import { closeSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { createServer } from "node:http";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const [port, secret, path, count = Infinity] = process.argv.slice(2);
const BODY_BYTES_MAX = 1 << 20;

const file = openSync(path, "a+");
// A crash may have left a part of a line: its notice got no answer, and comes again.
const stored = readFileSync(path);
let size = stored.lastIndexOf("\n") + 1;
ftruncateSync(file, size);
const lines = stored.subarray(0, size).toString().split("\n").filter(Boolean);
const seen = new Set(lines.map((line) => JSON.parse(line).id));
let handled = 0;

/** Your part: the effect of a notice, in the same transaction as its id. */
function store(id, notice) {
  const { type, link_id: link } = notice;
  const line = JSON.stringify({ id, type, link });
  try {
    writeSync(file, `${line}\n`);
    fsyncSync(file);
  } catch (error) {
    ftruncateSync(file, size);
    throw error;
  }
  size += Buffer.byteLength(line) + 1;
  seen.add(id);
  handled += 1;
  console.log(line);
}

/** The status of the answer to a request. */
async function handle(request) {
  if (request.method !== "POST") return 405;
  const pieces = [];
  let length = 0;
  for await (const piece of request) {
    length += piece.length;
    if (length > BODY_BYTES_MAX) return 413;
    pieces.push(piece);
  }
  const notice = new Webhook(secret).verify(Buffer.concat(pieces).toString(), request.headers);
  const id = request.headers["webhook-id"];
  // Nothing waits between the look and the write, so two requests with one id cannot both be new.
  if (!seen.has(id)) store(id, notice);
  // relink does not send it again after a 2xx, so the notice is stored before.
  return 204;
}

const server = createServer((request, response) => {
  handle(request)
    .catch((error) => (error instanceof WebhookVerificationError ? 401 : 500))
    .then((status) => {
      response.writeHead(status, { Connection: "close" }).end();
      if (handled >= Number(count)) server.close(() => closeSync(file));
    });
});
server.listen(Number(port), "127.0.0.1");
