// Drives npm belvo, unchanged, against a sandbox: node.mjs URL FOLDER [SANDBOX], with the package in FOLDER/node_modules.
// SANDBOX is the address of the sandbox itself, if URL is that of a proxy in front of it.
// Any difference from Belvo is a failed assertion.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [url, folder, sandbox = url] = process.argv.slice(2);
const require = createRequire(`${folder}/package.json`);
const Client = require("belvo").default;
const { version } = require("belvo/package.json");

const UPDATE_SCOPES = "read_institutions,write_links,read_links";
const MISSING = "00000000-0000-4000-8000-000000000000";

// Every error class: code, HTTP status.
const ERRORS = [
  ["login_error", 400],
  ["invalid_link", 400],
  ["unconfirmed_link", 400],
  ["session_expired", 400],
  ["institution_down", 400],
  ["institution_unavailable", 400],
  ["institution_inactive", 400],
  ["too_many_sessions", 400],
  ["operational_limits_reached", 400],
  ["unsupported_operation", 400],
  ["authentication_failed", 401],
  ["consent_without_accounts", 401],
  ["access_to_resource_denied", 403],
  ["not_found", 404],
  ["expired_credentials", 404],
  ["request_timeout", 408],
  ["unexpected_error", 500],
];

// A call of the control API, which Belvo does not have.
async function control(path, body = {}) {
  const answer = await fetch(`${sandbox}/sandbox/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  assert.equal(answer.status, 200, path);
  return answer.json();
}

// The call rejects with the SDK's error, with this status and code in Belvo's envelope.
async function refused(status, code, promise) {
  const error = await promise.then(
    (answer) => assert.fail(`${code} was expected, not ${JSON.stringify(answer)}`),
    (error) => error,
  );
  assert.equal(error.statusCode, status, String(error.stack));
  assert.ok(Array.isArray(error.detail));
  assert.equal(error.detail[0].code, code);
  assert.match(error.detail[0].request_id, /^[0-9a-f]{32}$/);
  return error.detail[0];
}

assert.equal(version, "0.28.0");
// The SDK logs the whole error of a failed login; the test hides this output.
const log = console.log;
console.log = () => {};
await assert.rejects(new Client("sandbox", "not the password", url).connect(), /Login failed/);
console.log = log;
const client = new Client("sandbox", "sandbox", url);
await client.connect();

// All pages, by the absolute next links. By default this SDK returns at most 100 items; with `limit` it requests one
// large page.
assert.equal((await client.links.list()).length, 100);
const paged = await client.links.list({ filters: { page_size: 7, status: "valid" } });
assert.equal(new Set(paged.map((link) => link.id)).size, 100);
const links = await client.links.list({ limit: 1000 });
assert.equal(new Set(links.map((link) => link.id)).size, 130);
const broken = await client.links.list({ filters: { status__in: "invalid,token_required" } });
assert.equal(broken.length, 30);
assert.equal((await client.institutions.list()).length, 6);
assert.deepEqual(await client.links.detail(links[0].id), links[0]);
await refused(404, "not_found", client.links.detail(MISSING));

// Create, 428, resume.
const options = { accessMode: "recurrent" };
let first = await refused(428, "token_required", client.links.register("heimdall_mx_retail", "user", "pass", options));
assert.ok(first.expiry > 0);
assert.equal((await client.links.detail(first.link)).status, "unconfirmed");
const heimdall = await client.links.resume(first.session, "1234ab", first.link);
assert.deepEqual([heimdall.id, heimdall.status, heimdall.access_mode], [first.link, "valid", "recurrent"]);
first = await refused(428, "token_required", client.accounts.retrieve(heimdall.id));
assert.equal((await client.links.detail(heimdall.id)).status, "token_required");
assert.equal((await client.accounts.resume(first.session, "1234ab", heimdall.id)).length, 2);
assert.equal((await client.links.detail(heimdall.id)).status, "valid");

// A wrong password, an institution that is not there.
await refused(400, "login_error", client.links.register("erebor_mx_retail", "user", "wrong"));
await refused(400, "does_not_exist", client.links.register("narnia", "user", "pass"));
const link = await client.links.register("erebor_mx_retail", "user", "pass", { externalId: "node" });
assert.deepEqual([link.status, link.external_id, link.access_mode], ["valid", "node", "single"]);

// The link breaks; a new password repairs it.
await control(`links/${link.id}/status`, { status: "invalid" });
await refused(400, "invalid_link", client.accounts.retrieve(link.id));
await refused(400, "login_error", client.links.update(link.id, { password: "wrong" }));
assert.equal((await client.links.detail(link.id)).status, "invalid");
assert.equal((await client.links.update(link.id, { password: "right" })).status, "valid");
assert.equal((await client.owners.retrieve(link.id)).length, 1);
assert.equal((await client.transactions.retrieve(link.id, "2024-01-01")).length, 24);
assert.equal((await client.transactions.list({ filters: { link: link.id } })).length, 24);
const patched = await client.links.patch(link.id, { accessMode: "recurrent" });
assert.deepEqual([patched.access_mode, patched.refresh_rate], ["recurrent", "7d"]);

// Tokens, in update mode and without.
assert.equal((await client.widgetToken.create()).access.split(".").length, 3);
const token = await client.widgetToken.create({ scopes: UPDATE_SCOPES, link: link.id });
await control(`links/${link.id}/status`, { status: "token_required" });
const done = await fetch(`${sandbox}/widget/complete`, {
  method: "POST",
  body: JSON.stringify({ access_token: token.access, outcome: "success" }),
});
assert.deepEqual(await done.json(), { link: link.id, institution: "erebor_mx_retail" });
assert.equal((await client.links.detail(link.id)).status, "valid");
await refused(400, "does_not_exist", client.widgetToken.create({ link: MISSING }));

// Every error class.
for (const [code, status] of ERRORS) {
  await control("faults/api", { kind: code, on: "POST /api/owners/" });
  await refused(status, code, client.owners.retrieve(link.id));
}
await control("faults/api", { kind: "rate_limited", secs: 1, on: "POST /api/owners/" });
await refused(429, "throttled", client.owners.retrieve(link.id));

// A deletion, and the errors after it. The SDK answers false to any error.
assert.equal(await client.links.delete(link.id), true);
assert.equal(await client.links.delete(link.id), false);
await refused(404, "not_found", client.links.update(link.id, { password: "right" }));
for (const spare of links.slice(0, 4)) assert.equal(await client.links.delete(spare.id), true);
assert.equal(await client.links.delete(links[4].id), false, "five deletions a minute");
assert.equal((await client.links.list({ limit: 1000 })).length, 127);
