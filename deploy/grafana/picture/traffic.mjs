// Inputs for the picture of the dashboard: links are created, refreshed, broken and repaired, a bank goes down, an application reports
// errors, NATS stops. node traffic.mjs MINUTES, in the folder of relink's data directory.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
const RELINK = "http://127.0.0.1:18480", SANDBOX = "http://127.0.0.1:18490", minutes = Number(process.argv[2] ?? 20);
// The application takes the forwarded webhooks and the notices, and is away for a minute in each seven.
createServer((request, answer) => {
  request.resume();
  request.on("end", () => answer.writeHead(Math.floor(Date.now() / 60_000) % 7 === 0 ? 503 : 204).end());
}).listen(18482, "127.0.0.1");
const auth = { authorization: "Bearer picture" };
const sleep = (ms) => new Promise((r) => setTimeout(r, ms));
const pick = (list) => list[Math.floor(Math.random() * list.length)];
async function call(url, body, headers = {}) {
  let answer;
  try { answer = await fetch(url, { method: body === undefined ? "GET" : "POST", headers: { "content-type": "application/json", ...headers }, body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body) });
  } catch (error) { console.log(url, String(error)); return {}; }
  const text = await answer.text();
  if (!answer.ok) console.log(answer.status, url, text.slice(0, 200));
  try { return JSON.parse(text); } catch { return text; }
}
const sandbox = (path, body = {}) => call(SANDBOX + "/sandbox" + path, body);
const relink = (path, body) => call(RELINK + path, body, auth);
const links = [];
const BANKS = ["erebor_mx_retail", "gringotts_co_retail", "heimdall_mx_retail", "tatooine_mx_fiscal"];
async function create(i) {
  const made = await sandbox("/links", { institution: BANKS[i % 4], external_id: `user-${i}` });
  if (made.link) links.push({ id: made.link, bank: BANKS[i % 4], broken: false });
}
async function repairs(link, how) {
  await sleep(8_000 + Math.random() * 90_000);
  if (how === "sandbox") await sandbox(`/links/${link.id}/repair`);
  else {
    await relink(`/v1/links/${link.id}/update`, { locale: "es" });
    await sleep(4_000 + Math.random() * 15_000);
    if (how === "exit") await relink(`/v1/links/${link.id}/widget`, { event: "exit" });
    if (how === "exit") return repairs(link, "widget");
    await sandbox(`/links/${link.id}/repair`);
    await relink(`/v1/links/${link.id}/widget`, { event: "success", link: link.id });
  }
  link.broken = false;
}
const valid = () => pick(links.filter((l) => !l.broken));
async function breaks() {
  const link = valid();
  if (!link) return;
  link.broken = true;
  const way = Math.random();
  if (way < 0.5) await sandbox(`/links/${link.id}/scheduled-refresh`, { outcome: "login_error" });
  else if (way < 0.7) await sandbox(`/links/${link.id}/scheduled-refresh`, { outcome: "token_required" });
  else if (way < 0.85) await sandbox(`/links/${link.id}/status`, { status: "invalid" }); // only a sweep notices
  else {
    await sandbox(`/links/${link.id}/status`, { status: "token_required" });
    await relink("/v1/api-errors", { http_status: 428, method: "POST", path: "/api/transactions/", link_id: link.id });
  }
  if (Math.random() < 0.9) repairs(link, pick(["widget", "widget", "sandbox", "exit"]));
}
for (const { id, institution, status } of await call(SANDBOX + "/sandbox/links")) if (status === "valid") links.push({ id, bank: institution, broken: false });
for (let i = links.length; i < 60; i++) { await create(i); await sleep(300); }
const PROXY = "http://127.0.0.1:18481", basic = { authorization: `Basic ${Buffer.from("sandbox:sandbox").toString("base64")}` };
const nats = () => readFileSync("data/nats/nats-server.pid", "utf8");
const events = [ // minute, what happens
  [2.3, () => process.kill(Number(nats()), "SIGSTOP")], [2.7, () => process.kill(Number(nats()), "SIGCONT")],
  [3.2, () => sandbox("/faults/webhooks", { kind: "unknown_code", count: 1 })],
  [3.5, () => sandbox("/faults/api", { kind: "unexpected_error", count: 6, on: "/api/links" })],
  [5, () => process.kill(Number(nats()), "SIGKILL")], [9, () => process.kill(Number(nats()), "SIGKILL")],
];
const begin = Date.now();
let next = 60, outage = false;
while (Date.now() - begin < minutes * 60_000) {
  const at = (Date.now() - begin) / 60_000;
  while (events.length && events[0][0] < at) await events.shift()[1]();
  // The app reads data of a link through relink's proxy.
  if (Math.random() < 0.3) await call(`${PROXY}/api/transactions/?link=${pick(links).id}`, undefined, basic);
  const busy = 1 + Math.sin(at * 1.1) * 0.6;
  if (Math.random() < 0.55 * busy) { const link = valid(); if (link) await sandbox(`/links/${link.id}/scheduled-refresh`, { outcome: "ok" }); }
  if (Math.random() < 0.09 * busy) breaks();
  if (Math.random() < 0.03) { await create(next++); }
  if (Math.random() < 0.25) await relink(pick(["/v1/links?limit=20", "/v1/summary", "/v1/prompts", "/v1/status", "/v1/activity?hours=1", `/v1/links/${links[0].id}/history`]));
  if (Math.random() < 0.02) await call(RELINK + "/webhooks/belvo", '{"half": ', { authorization: "Bearer picture-webhooks" });
  if (Math.random() < 0.01) await call(RELINK + "/v1/links", undefined);
  if (!outage && at > minutes * 0.4) { // a bank is down for some minutes
    outage = true;
    const down = links.filter((l) => !l.broken && l.bank === "gringotts_co_retail").slice(0, 8);
    for (const link of down) { link.broken = true; await sandbox(`/links/${link.id}/login`, { login: "institution_down" }); await sandbox(`/links/${link.id}/scheduled-refresh`, { outcome: "institution_down" }); await relink("/v1/api-errors", { http_status: 400, method: "POST", path: "/api/transactions/", link_id: link.id, body: [{ request_id: crypto.randomUUID().replaceAll("-", ""), code: "institution_down", message: "The financial institution is down" }] }); await sleep(1500); }
    setTimeout(async () => { for (const link of down) { await sandbox(`/links/${link.id}/login`, { login: "works" }); await sandbox(`/links/${link.id}/scheduled-refresh`, { outcome: "ok" }); link.broken = false; await sleep(700); } }, minutes * 0.22 * 60_000);
  }
  await sleep(1000 / busy);
}
console.log("end");
process.exit(0);
