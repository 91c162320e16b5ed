// The tools of the stories: the browser, axe-core, relink's API, and the control API of the sandbox.
import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

export const options = JSON.parse(process.argv[2]);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({
  executablePath: options.chromium,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
export const close = () => browser.close();

const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const DESKTOP = { viewport: { width: 1280, height: 800 } };

async function call(url, body, headers = {}) {
  const answer = await fetch(url, body === undefined ? { headers } : {
    method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body),
  });
  const text = await answer.text();
  assert.ok(answer.ok, `${url}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

/** Asks again until the answer is there. */
export async function until(what, ask, within = 20_000) {
  const end = Date.now() + within;
  for (;;) {
    const found = await ask();
    if (found) return found;
    assert.ok(Date.now() < end, `${what} did not happen`);
    await new Promise((again) => setTimeout(again, 40));
  }
}

/** A link at the sandbox, and what relink says about it. */
export class Link {
  // A person gets one message in a pause, so each link has a user of its own.
  static async create(place, institution = "erebor_mx_retail", externalId = `user-${crypto.randomUUID()}`) {
    const link = new Link();
    link.addresses = options[place];
    link.id = (await link.sandbox("/sandbox/links", { institution, external_id: externalId })).link;
    await link.is("valid");
    return link;
  }

  static async broken(place, institution, breakIt = (link) => link.refresh("login_error")) {
    const link = await Link.create(place, institution);
    await breakIt(link);
    link.url = await until("a notice with a repair link", async () => (await link.notices("update_required"))[0]?.repair_url);
    return link;
  }

  sandbox(path, body) {
    return call(this.addresses.sandbox + path, body);
  }

  relink(path, body) {
    return call(this.addresses.relink + path, body, { authorization: `Bearer ${options.api_token}` });
  }

  /** Belvo's status page reports an institution. */
  async statusPage(institution, status) {
    const answer = await fetch(`${this.addresses.relink}/webhooks/belvo-status`, {
      method: "POST", headers: { authorization: options.webhook_secret },
      body: JSON.stringify({ component: { name: institution, status }, component_update: { new_status: status } }),
    });
    assert.equal(answer.status, 200, await answer.text());
  }

  refresh(outcome) {
    return this.sandbox(`/sandbox/links/${this.id}/scheduled-refresh`, { outcome });
  }

  async state() {
    const answer = await fetch(`${this.addresses.relink}/v1/links/${this.id}`, {
      headers: { authorization: `Bearer ${options.api_token}` },
    });
    return answer.ok ? answer.json() : null;
  }

  is(state) {
    return until(`the state ${state}`, async () => (await this.state())?.state === state);
  }

  async notices(type) {
    const { entries } = await this.relink(`/v1/links/${this.id}/history`);
    return entries.map((entry) => entry.body ?? entry.message ?? entry).filter((body) => body.type === type);
  }

  /** A repair link as relink signs it, with another episode or expiry. */
  signed({ episode = 1, expires = 4_000_000_000, purpose = "p", key = options.key } = {}) {
    const id = createHash("sha256").update("relink repair key id").update(key).digest().subarray(0, 4);
    const numbers = Buffer.alloc(12);
    numbers.writeUInt32BE(episode, 0);
    numbers.writeBigUInt64BE(BigInt(expires), 4);
    const signed = Buffer.concat([Buffer.from([1]), Buffer.from(purpose), id, numbers, Buffer.from(this.id)]);
    const mac = createHmac("sha256", key).update(signed).digest();
    return `${this.addresses.relink}/repair/${Buffer.concat([signed, mac]).toString("base64url")}`;
  }
}

/** A user with a browser of their own. */
export class User {
  static async with({ locale = "en-GB", phone = false, dark = false, javaScriptEnabled = true, expected = /^$/ } = {}) {
    const user = new User();
    user.problems = [];
    user.context = await browser.newContext({
      ...(phone ? PHONE : DESKTOP), locale, javaScriptEnabled, colorScheme: dark ? "dark" : "light", reducedMotion: "reduce",
    });
    user.page = await user.context.newPage();
    user.page.setDefaultTimeout(15_000);
    user.page.on("console", (message) => {
      // The browser reports the status of a page such as "expired" as an error.
      const isExpected = /status of (404|410|422)/.test(message.text()) || expected.test(message.text());
      if (message.type() === "error" && !isExpected) user.problems.push(message.text());
    });
    user.page.on("pageerror", (error) => user.problems.push(String(error)));
    user.page.on("request", async (request) => {
      // The headers as they were sent.
      const { referer = "" } = await request.allHeaders().catch(() => ({}));
      if (referer.includes("/repair/")) user.problems.push(`${request.url()} was told ${referer}`);
    });
    user.page.on("request", (request) => {
      const ours = [options.hosted, options.page].flatMap(Object.values).some((origin) => request.url().startsWith(origin));
      if (!ours) user.problems.push(`the page loads ${request.url()}`);
    });
    return user;
  }

  async open(url) {
    return this.page.goto(url);
  }

  /** Waits for a headline. */
  async sees(title) {
    try {
      await this.page.locator("h1", { hasText: title }).first().waitFor();
    } catch {
      const shown = await this.page.locator("body").innerText().catch(String);
      throw new Error(`${this.page.url()} shows no headline "${title}", but: ${shown}`);
    }
  }

  async press(text) {
    await this.page.getByRole("button", { name: text }).click();
  }

  async keep(name, { whole = false } = {}) {
    await this.page.screenshot({ path: `${options.screens}/${name}.png`, fullPage: whole });
  }

  /** Checks the page with axe-core, and keeps a picture of it. */
  async check(name, { whole = false } = {}) {
    await this.keep(name, { whole });
    await this.page.evaluate(axe);
    const { violations } = await this.page.evaluate(() => window.axe.run({ resultTypes: ["violations"] }));
    const found = violations.map((one) => `${one.id}: ${one.help} ${one.nodes.map((node) => node.html).join(" ")}`);
    assert.deepEqual(found, [], `axe-core on ${name}`);
    const overflow = await this.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `${name} is ${overflow} pixels too wide`);
  }

  async leave() {
    assert.deepEqual(this.problems, []);
    await this.context.close();
  }
}
