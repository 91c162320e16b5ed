// The stories of the console: support and operators look at the fleet, at one link, and at dead letters.
import assert from "node:assert/strict";
import { Link, User, options, until } from "./drive.mjs";

// The console's relink is that of the hosted widget, which the other stories use at the same time.
const PLACE = "hosted";
const HOSTILE = `<img src=x onerror="document.title='owned'">\u001b[2J\u202e`;

const console_ = (path = "") => `${options[PLACE].relink}/console${path}`;

async function enter(user, path = "") {
  await user.open(console_(path));
  await user.page.getByLabel("API token").fill(options.api_token);
  await user.press("Log in");
}

const post = (path, body, authorization) => fetch(options[PLACE].relink + path, {
  method: "POST", headers: { "content-type": "application/json", authorization }, body,
});

/** Waits until nothing is loading, so that a picture shows data. */
const headline = (user, text) => user.page.getByRole("heading", { level: 1, name: text }).waitFor();

export const consoleStories = {
  async "console: a token is needed, and is kept in the tab only"() {
    const user = await User.with({ expected: /status of 401/ });
    await user.open(console_());
    await user.page.getByLabel("API token").fill("a-wrong-token");
    await user.page.keyboard.press("Enter");
    await user.page.getByText("relink does not accept this token").waitFor();
    await user.check("console-login");
    await user.page.getByLabel("API token").fill(options.api_token);
    await user.page.keyboard.press("Enter");
    await headline(user, "Overview");
    const kept = await user.page.evaluate(() => [location.href, document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage)]);
    assert.deepEqual(kept.map((text) => text.includes(options.api_token)), [false, false, false, true]);
    const other = await user.context.newPage();
    await other.goto(console_());
    await other.getByLabel("API token").waitFor();
    // The browser refuses every way from a text to HTML.
    const refused = await user.page.evaluate(() => {
      try {
        document.body.innerHTML = "<b>x</b>";
        return "set";
      } catch (error) {
        return error.name;
      }
    });
    assert.equal(refused, "TypeError");
    user.problems = user.problems.filter((problem) => !problem.includes("TrustedHTML"));
    await user.press("Log out");
    await user.page.getByLabel("API token").waitFor();
    assert.equal(await user.page.evaluate(() => sessionStorage.length), 0);
    await user.leave();
  },

  async "console: the fleet, in both themes and on a phone"() {
    const link = await Link.broken(PLACE, "gringotts_co_retail");
    // relink learns the institution when it reads the link.
    await link.relink(`/v1/links/${link.id}/commands`, { command: "verify" });
    await until("the institution", async () => (await link.state()).institution);
    for (const [name, look] of [["light", {}], ["phone-dark", { phone: true, dark: true }]]) {
      const user = await User.with(look);
      await enter(user);
      await headline(user, "Overview");
      await user.page.getByRole("link", { name: "gringotts_co_retail" }).waitFor();
      assert.match(await user.page.getByText("Ready", { exact: true }).innerText(), /Ready/);
      // The repairs of the last day: as numbers, as plots, and the plots as a table.
      const prompted = user.page.getByRole("row", { name: /Users prompted/ }).getByRole("cell").first();
      await until("a prompt", async () => Number(await prompted.innerText()) > 0);
      await until("the plots", async () => (await user.page.locator(".plot canvas").count()) === 2);
      await user.page.locator("g.arrow[data-flows] text.flow").first().waitFor();
      const freshness = user.page.locator("section", { hasText: "Freshness and what waits" }).last();
      await freshness.getByText(/of 1,000 in 30 s/).first().waitFor();
      await freshness.getByText("The 2 partitions").click();
      await freshness.getByRole("rowheader", { name: "1" }).waitFor();
      await user.page.getByText("The plots as a table").click();
      await user.page.getByRole("region", { name: "The last day in periods" }).waitFor();
      await user.check(`console-overview-${name}`, { whole: true });
      if (name !== "light") { await user.leave(); continue; }
      // The switch overrules the colours of the system, also in the next tab.
      await user.page.getByLabel("Colours").selectOption("dark");
      await user.page.reload();
      assert.equal(await user.page.evaluate(() => getComputedStyle(document.documentElement).colorScheme), "dark");
      await headline(user, "Overview");
      // A node of the drawing leads to its links, by the keyboard.
      await user.page.locator("a.node", { hasText: "invalid" }).focus();
      await user.page.keyboard.press("Enter");
      await headline(user, "Links");
      await user.page.getByRole("link", { name: link.id }).waitFor();
      await user.leave();
    }
  },

  async "console: why a user was prompted, and texts from outside stay texts"() {
    const link = await Link.create(PLACE, "erebor_mx_retail", HOSTILE);
    await link.refresh("login_error");
    await link.is("invalid");
    const user = await User.with();
    await enter(user, "#/links");
    await headline(user, "Links");
    await user.page.getByLabel("Link id or external id").fill(link.id);
    await user.page.keyboard.press("Enter");
    await headline(user, link.id);
    await user.page.getByText("Published notice update_required").waitFor();
    await user.page.getByText("Belvo reported in a webhook: the institution refuses the stored credentials.").waitFor();
    await user.page.getByText("Reminder 1 is published, unless the link works again before").waitFor();
    const shown = await user.page.getByText("onerror").first().innerText();
    assert.ok(shown.includes("<img src=x") && shown.includes("\\u{1b}[2J\\u{202e}"), shown);
    assert.equal(await user.page.locator("img").count(), 0);
    assert.equal(await user.page.title(), "relink console");
    await user.check("console-link-light", { whole: true });
    await user.page.emulateMedia({ colorScheme: "dark" });
    await user.check("console-link-dark", { whole: true });
    // The list finds it by its external id too, which is in an address only after the #.
    await user.open(console_(`#/links?external_id=${encodeURIComponent(HOSTILE)}`));
    await user.page.getByRole("link", { name: link.id }).waitFor();
    assert.equal(await user.page.locator("img").count(), 0);
    await user.check("console-links-dark");
    await user.leave();
  },

  async "console: commands on a link ask before they are sent"() {
    const link = await Link.broken(PLACE);
    const user = await User.with({ phone: true, dark: true });
    await enter(user, `#/link/${link.id}`);
    await headline(user, link.id);
    const dialog = user.page.getByRole("dialog");
    const command = async (name, fill = async () => {}) => {
      await user.page.getByRole("button", { name, exact: true }).click();
      await fill();
      await dialog.getByRole("button", { name }).click();
      await user.page.getByText(`The command ${name.toLowerCase()} is stored`).waitFor();
    };
    await user.page.getByRole("button", { name: "Forget" }).click();
    await user.page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });
    await user.page.getByRole("button", { name: "Forget" }).click();
    await user.check("console-forget-phone-dark");
    // The focus is on "Cancel", so Enter removes nothing.
    await user.page.keyboard.press("Enter");
    await dialog.waitFor({ state: "detached" });
    assert.equal((await link.state()).state, "invalid");
    await command("Mute", () => dialog.getByLabel("Your name").fill(HOSTILE));
    await until("the mute", async () => (await link.state()).muted);
    await user.page.getByRole("button", { name: "Unmute" }).waitFor();
    await user.keep("console-link-phone-dark", { whole: true });
    await command("Unmute");
    await until("the end of the mute", async () => !(await link.state()).muted);
    await command("Snooze", () => dialog.getByLabel("Until").fill("2040-01-02T03:04"));
    await until("the snooze", async () => (await link.state()).snoozed_until?.startsWith("2040-01-0"));
    await link.sandbox(`/sandbox/links/${link.id}/status`, { status: "valid" });
    await command("Verify");
    await link.is("valid");
    await user.page.getByText("The link works.").waitFor();
    await command("Forget");
    await link.is("removed");
    await user.page.getByText("Nothing happens any more.").waitFor();
    await user.leave();
  },

  async "console: a held prompt is seen and released, by the keyboard"() {
    const link = await Link.create(PLACE, "erebor_mx_retail");
    await link.relink(`/v1/links/${link.id}/commands`, { command: "mute" });
    await until("the mute", async () => (await link.state()).muted);
    await link.refresh("login_error");
    await link.is("invalid");
    for (const [name, look] of [["light", {}], ["phone-dark", { phone: true, dark: true }]]) {
      const user = await User.with(look);
      await enter(user);
      await headline(user, "Overview");
      await user.page.getByRole("navigation").getByRole("link", { name: "Held prompts" }).focus();
      await user.page.keyboard.press("Enter");
      await headline(user, "Held prompts");
      const row = user.page.getByRole("row", { name: new RegExp(link.id) });
      await row.getByText("The link is muted.").waitFor();
      await user.check(`console-held-${name}`, { whole: true });
      if (name === "light") { await user.leave(); continue; }
      // A question that is left changes nothing.
      const release = user.page.getByRole("button", { name: `Release the prompt of ${link.id}` });
      await release.focus();
      await user.page.keyboard.press("Enter");
      const dialog = user.page.getByRole("dialog");
      await user.check("console-release-phone-dark");
      await user.page.keyboard.press("Escape");
      await dialog.waitFor({ state: "detached" });
      assert.equal((await link.state()).muted, true);
      await release.focus();
      await user.page.keyboard.press("Enter");
      await dialog.getByLabel("Reason").fill("the customer asked for it");
      await user.page.keyboard.press("Enter");
      await user.page.getByText("The command release is stored").waitFor();
      await until("the prompt", async () => (await link.notices("update_required")).length === 1);
      await row.waitFor({ state: "detached" });
      assert.ok(!(await link.state()).muted);
      // The history says who released it. The page of a link has the button only if a prompt is held.
      await user.page.goto(console_(`#/link/${link.id}`));
      await headline(user, link.id);
      await user.page.getByText("gave the command release: neither a mute nor an incident of the institution keeps the prompt back").waitFor();
      await user.page.getByText("the customer asked for it").first().waitFor();
      assert.equal(await user.page.getByRole("button", { name: "Release", exact: true }).count(), 0);
      await user.leave();
    }
  },

  async "console: the page follows what happens"() {
    const link = await Link.create(PLACE, "erebor_mx_retail");
    const user = await User.with();
    // Without the regular reads, only an event can change the page.
    await user.page.addInitScript(() => {
      const setTimer = window.setTimeout;
      window.setTimeout = (call, delay, ...rest) => (delay >= 5_000 ? 0 : setTimer(call, delay, ...rest));
    });
    const following = user.page.waitForResponse(/v1\/events/);
    await enter(user, `#/link/${link.id}`);
    await headline(user, link.id);
    await following;
    await link.refresh("login_error");
    await user.page.getByText("Published notice update_required").waitFor();
    await user.leave();
  },

  async "console: a dead letter is read and replayed"() {
    const id = "0d0d0d0d-0000-4000-8000-00000000dead";
    // An unreadable webhook that names its link, and bytes that are no text.
    const unreadable = `{"link_id": "${id}", "webhook_type": 7, "note": "${HOSTILE.replaceAll('"', "'").replace("\u001b", "\\u001b")}"}`;
    await post("/webhooks/belvo", unreadable, options.webhook_secret);
    await post("/webhooks/belvo", new Uint8Array([0xff, 0xfe, 0x00, 0xd8, 0x1b]), options.webhook_secret);
    const user = await User.with({ phone: true, expected: /status of 409/ });
    await enter(user, "#/dead-letters");
    await headline(user, "Dead letters");
    await user.page.getByRole("rowheader").nth(1).waitFor();
    await user.keep("console-dead-letters-phone");
    await user.page.getByRole("rowheader").first().getByRole("link").click();
    await headline(user, "Dead letter 1");
    await user.check("console-dead-letter-phone", { whole: true });
    assert.equal(await user.page.locator("img").count(), 0);
    await user.press("Replay");
    const dialog = user.page.getByRole("dialog");
    await dialog.getByRole("button", { name: "Replay" }).click();
    await user.page.getByText(/was published again|cannot be replayed|no link id/).first().waitFor();
    await user.leave();
  },

  async "console: a fleet is shown in pages"() {
    // With RELINK_TEST_CONSOLE_LINKS=100000 the story also shows how fast the page is with that many links.
    const count = options.console_links;
    const place = options.page.relink;
    const send = async (index, family, code, number = 0) => {
      const id = `f1ee7000-0000-4000-8000-${String(index).padStart(12, "0")}`;
      const webhook_id = `${String(number).padStart(8, "0")}${id.slice(8)}`;
      const body = JSON.stringify({ link_id: id, webhook_type: family, webhook_code: code, webhook_id, data: {} });
      const answer = await fetch(`${place}/webhooks/belvo`, { method: "POST", body, headers: { authorization: options.webhook_secret } });
      assert.equal(answer.status, 200, await answer.text());
    };
    for (let at = 0; at < count; at += 100) {
      await Promise.all(Array.from({ length: Math.min(100, count - at) }, (_, index) => send(at + index, "ACCOUNTS", "historical_update")));
    }
    const user = await User.with();
    // A task that takes longer than 50 ms holds up a frame. `shownAt` is when the overview has its numbers.
    await user.page.addInitScript(() => {
      window.longTasks = [];
      new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((task) => ({ at: task.startTime, ms: Math.round(task.duration) }))))
        .observe({ type: "longtask", buffered: true });
      const look = () => {
        if (document.querySelector(".machine")) window.shownAt = Math.round(performance.now());
        else requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
      // The pauses between frames also contain the wait for a processor.
      window.gaps = [];
      let before = performance.now();
      const frame = (now) => {
        window.gaps.push(Math.round(now - before));
        before = now;
        requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    });
    const asked = [];
    user.page.on("request", (request) => { if (request.url().includes("/v1/links?")) asked.push(new URL(request.url())); });
    await user.open(`${place}/console#/links?state=valid`);
    await user.page.getByLabel("API token").fill(options.api_token);
    await user.press("Log in");
    const rows = user.page.getByRole("rowheader");
    const first = async () => (await rows.count()) === 50 && rows.first().innerText();
    const one = await until("a full page", first);
    await user.page.getByRole("link", { name: "Next page" }).click();
    await until("another page", async () => { const shown = await first(); return shown && shown !== one; });
    await user.keep("console-links-fleet");
    await user.page.getByRole("link", { name: "First page" }).click();
    await user.page.getByRole("link", { name: "First page" }).waitFor({ state: "detached" });
    await until("a full page", first);
    assert.ok(asked.length >= 3 && asked.every((url) => url.searchParams.get("limit") === "50"), String(asked));
    await user.page.getByRole("link", { name: "Overview" }).click();
    const shown = async () => Number((await user.page.locator(".tile .figure").first().innerText()).replaceAll(",", ""));
    await until("all links", async () => await shown() >= count, 20_000 + 5 * count);
    // The page is opened again, with its token: how long until the fleet is shown?
    await user.page.reload();
    await until("all links again", async () => await shown() >= count);
    // Links break while the overview is open: each event makes the page read again, at most once in a second.
    const rounds = count > 1_000 ? 100 : 10;
    const before = await user.page.evaluate(() => {
      window.gaps = [];
      return performance.now();
    });
    for (let number = 1; number <= rounds; number += 1) {
      await Promise.all([0, 1, 2, 3].map((index) => send(number * 4 + index, "LINK", "invalid_credentials", number)));
      // With many links, the events flow for some time.
      if (count > 1_000) await user.page.waitForTimeout(100);
    }
    const broken = user.page.locator(".tile .figure").nth(1);
    await until("the broken links", async () => Number((await broken.innerText()).replaceAll(",", "")) >= rounds * 4);
    await user.keep("console-overview-fleet");
    const [paint, shownAt, took, all, flowing, gaps] = await user.page.evaluate((start) => [
      Math.round(performance.getEntriesByName("first-contentful-paint")[0]?.startTime), window.shownAt, Math.round(performance.now() - start),
      window.longTasks.length, window.longTasks.filter((task) => task.at >= start).map((task) => task.ms), window.gaps], before);
    console.log(`console with ${count} links: first paint after ${paint} ms, the overview after ${shownAt} ms; ${rounds * 4} links broke in ${took} ms; `
      + `tasks above 50 ms: ${all} since the reload, ${flowing.length} while they broke, the longest ${Math.max(0, ...flowing)} ms; `
      + `pauses between ${gaps.length} frames above 50 ms: ${gaps.filter((gap) => gap > 50).length}, the longest ${Math.max(0, ...gaps)} ms`);
    await user.leave();
  },

  async "documents: the description of the API and the sandbox's control API"() {
    for (const [name, look] of [["light", {}], ["phone-dark", { phone: true, dark: true }]]) {
      const user = await User.with(look);
      await user.open(`${options[PLACE].relink}/openapi`);
      await user.page.getByText("/v1/prompts/held").first().waitFor();
      await user.check(`openapi-${name}`);
      await user.open(`${options[PLACE].sandbox}/sandbox`);
      await user.sees("The control API of belvo-sandbox");
      await user.page.getByRole("rowheader", { name: "POST /sandbox/wipe" }).waitFor();
      await user.check(`sandbox-control-${name}`, { whole: true });
      await user.leave();
    }
  },

  async "console: the service is away, and the page says how old its data is"() {
    const user = await User.with({ expected: /ERR_FAILED|status of 503/ });
    await enter(user);
    await headline(user, "Overview");
    await user.context.route("**/v1/**", (route) => route.abort());
    await user.page.getByText(/relink does not answer\. This data is from 20\d\d-/).waitFor();
    await headline(user, "Overview");
    await user.keep("console-away");
    await user.context.unroute("**/v1/**");
    await user.page.locator("#notice").waitFor({ state: "hidden" });
    await user.leave();
  },
};
