// The stories of users who repair a link in the browser. Each story has its own link and its own browser context.
import assert from "node:assert/strict";
import { consoleStories } from "./console.mjs";
import { Link, User, close, options, until } from "./drive.mjs";

const stories = {
  async "from a mailed link to all set, on a phone, in Portuguese"() {
    const link = await Link.broken("hosted");
    const user = await User.with({ locale: "pt-BR", phone: true });
    await user.open(link.url);
    await user.sees("Conecte Erebor novamente");
    await user.check("phone-needs-you-pt");
    const seen = await link.state();
    assert.deepEqual([seen.state, seen.episode.attempts_count], ["invalid", 0], "a look changes nothing");
    await user.press("Conectar agora");
    await user.sees("Conecte Erebor novamente");
    assert.match(user.page.url(), /\/widget\/\?access_token=.*&locale=pt$/);
    await user.check("phone-stand-in-pt");
    await link.is("updating");
    await user.press("Informar uma senha errada");
    await user.page.getByText("login_error").waitFor();
    await user.press("Informar a senha certa");
    await user.sees("Tudo pronto");
    await user.check("phone-all-set-pt");
    assert.match(user.page.url(), /\?locale=pt&done$/, "the address has nothing of Belvo's callback");
    const back = user.page.getByRole("link", { name: "Voltar para Acme" });
    assert.equal(await back.getAttribute("href"), "https://acme.example.com/banks");
    await link.is("valid");
    assert.equal((await link.notices("recovered"))[0].proof, "observed");
    await user.leave();
  },

  async "the user closes the widget, and tries again"() {
    const link = await Link.broken("hosted", "heimdall_mx_retail", (link) => link.refresh("token_required"));
    const user = await User.with({ locale: "en-GB" });
    await user.open(link.url);
    await user.sees("Reconnect Heimdall");
    await user.page.getByText("asks for a new security code").waitFor();
    await user.check("desktop-needs-you-en");
    await user.press("Reconnect now");
    await user.press("Close the widget");
    await user.sees("Reconnect Heimdall");
    await link.is("token_required");
    await user.page.getByRole("button", { name: "Reconnect now" }).waitFor();
    assert.equal((await link.notices("update_required")).length, 1, "an attempt leads to no new prompt");
    await user.press("Reconnect now");
    await user.press("Let the session expire");
    await user.sees("Reconnect Heimdall");
    await user.press("Reconnect now");
    await user.press("Give the right password");
    await user.sees("All set");
    await user.leave();
  },

  async "the user repairs the link on another device"() {
    const link = await Link.broken("hosted", "gringotts_co_retail");
    const [desk, phone] = await Promise.all([User.with({ locale: "es-MX", dark: true }), User.with({ locale: "es-MX", phone: true, dark: true })]);
    await desk.open(link.url);
    await desk.sees("Vuelve a conectar Gringotts");
    await desk.check("desktop-needs-you-es-dark");
    await phone.open(link.url);
    await phone.check("phone-needs-you-es-dark");
    await phone.press("Conectar ahora");
    await phone.sees("Vuelve a conectar Gringotts");
    await desk.sees("Estás conectando Gringotts");
    await desk.check("desktop-in-progress-es-dark");
    await phone.press("Dar la contraseña correcta");
    await phone.sees("Todo listo");
    await desk.sees("Todo listo");
    await desk.check("desktop-all-set-es-dark");
    await Promise.all([desk.leave(), phone.leave()]);
  },

  async "the link works again before the user opens the page"() {
    const link = await Link.broken("hosted");
    // Belvo knows it, and sends no webhook.
    await link.sandbox(`/sandbox/links/${link.id}/status`, { status: "valid" });
    const user = await User.with();
    await user.open(link.url);
    await user.sees("This is already fixed");
    await user.check("desktop-already-fixed-en");
    await link.is("valid");
    assert.deepEqual(await link.notices("update_started"), [], "no token was minted");
    await user.leave();
  },

  async "the same without JavaScript, by the button"() {
    const link = await Link.broken("hosted");
    const user = await User.with({ javaScriptEnabled: false });
    await user.open(link.url);
    await user.sees("Reconnect Erebor");
    // Only now, because a sweep of relink may find it as well.
    await link.sandbox(`/sandbox/links/${link.id}/status`, { status: "valid" });
    await user.press("Reconnect now");
    await user.sees("This is already fixed");
    await link.is("valid");
    assert.deepEqual(await link.notices("update_started"), []);
    await user.leave();
  },

  async "without JavaScript the page leads to the widget and follows the attempt"() {
    const link = await Link.broken("hosted");
    const [user, other] = await Promise.all([User.with({ javaScriptEnabled: false }), User.with()]);
    await user.open(link.url);
    await user.press("Reconnect now");
    await user.page.waitForURL(/\/widget\//);
    await other.open(user.page.url());
    await user.open(link.url);
    await user.sees("You are reconnecting Erebor");
    await other.press("Give the right password");
    await other.sees("All set");
    // The page loads itself again.
    await user.sees("All set");
    await Promise.all([user.leave(), other.leave()]);
  },

  async "a renewal in Belvo's portal"() {
    const expire = (link) => link.sandbox(`/sandbox/links/${link.id}/consent`, { event: "expire" });
    const link = await Link.broken("hosted", "ofmockbank_br_retail", expire);
    const user = await User.with({ locale: "fr-FR", phone: true });
    await user.open(link.url);
    await user.sees("Renove sua permissão para OF Mock Bank");
    await user.check("phone-consent-pt");
    await user.press("Renovar agora");
    await user.page.getByText("Digite seu nome completo.").waitFor();
    await user.check("phone-consent-mistakes-pt");
    await user.page.getByLabel("Nome completo").fill("Ralph Bragg");
    await user.page.getByLabel("CPF ou CNPJ").fill("761.092.776-73");
    await user.press("Renovar agora");
    await user.sees("OF Mock Bank");
    await user.check("phone-portal");
    // A signed address may have any three digits.
    assert.doesNotMatch(user.page.url(), /Ralph|Bragg|761\W?092\W?776/);
    await user.page.locator("[data-action=leave]").click();
    await user.sees("Renove sua permissão para OF Mock Bank");
    await user.page.getByLabel("Nome completo").fill("Ralph Bragg");
    await user.page.getByLabel("CPF ou CNPJ").fill("761.092.776-73");
    await user.press("Renovar agora");
    await user.page.locator("[data-action=renew]").click();
    await user.sees("Tudo pronto");
    await link.is("valid");
    await user.leave();
  },

  async "the widget on the page itself"() {
    const link = await Link.broken("page");
    const user = await User.with();
    await user.open(link.url);
    await user.press("Reconnect now");
    const frame = user.page.frameLocator("iframe");
    await frame.getByRole("button", { name: "Close the widget" }).click();
    await user.page.getByRole("button", { name: "Reconnect now" }).click();
    await frame.getByRole("button", { name: "Give the right password" }).waitFor();
    // A signed address may have the letters "ey", but no dot, as the three parts of a token.
    assert.doesNotMatch(user.page.url(), /access_token|ey[\w-]*\./, "the token is in no address of relink");
    await user.check("desktop-widget-on-page-en");
    await frame.getByRole("button", { name: "Give the right password" }).click();
    await user.sees("All set");
    await user.leave();
  },

  async "a look at the state does not overtake the button"() {
    const link = await Link.broken("page");
    const user = await User.with();
    let release, looked;
    const pressed = new Promise((resolve) => { release = resolve; });
    const seen = new Promise((resolve) => { looked = resolve; });
    // The answer to the look has the state after the button, and arrives before the answer to the button.
    await user.page.route(/\/state(\?|$)/, async (route) => {
      await pressed;
      await route.fulfill({ json: { view: "in_progress" } });
      looked();
    });
    await user.page.route(/\/repair\/[^/?]+(\?|$)/, async (route) => {
      if (route.request().method() === "POST") {
        release();
        await seen;
      }
      await route.continue();
    });
    const look = user.page.waitForRequest(/\/state(\?|$)/);
    await user.open(link.url);
    await look;
    await user.press("Reconnect now");
    await user.page.frameLocator("iframe").getByRole("button", { name: "Give the right password" }).waitFor();
    await user.page.unrouteAll({ behavior: "ignoreErrors" });
    await user.leave();
  },

  async "expired, replaced, removed and wrong links"() {
    const link = await Link.broken("hosted");
    const user = await User.with({ phone: true });
    for (const [name, url, title] of [
      ["expired", link.signed({ expires: 1_700_000_000 }), "This link has expired"],
      ["replaced", link.signed({ episode: 7 }), "This link is out of date"],
      ["foreign", link.signed({ key: "the-key-of-somebody-else-is-long-too" }), "This link does not work"],
      ["tampered", link.url.slice(0, -2), "This link does not work"],
    ]) {
      await user.open(url);
      await user.sees(title);
      assert.equal(await user.page.getByRole("button").count(), 0, name);
      assert.equal(await user.page.getByRole("link", { name: "help@acme.example.com" }).count(), 1);
      // The other pages differ in their texts only.
      if (name !== "expired") continue;
      await user.check(`phone-${name}-en`);
      for (const [language, lang] of [["Español", "es"], ["Português", "pt"], ["English", "en"]]) {
        await user.page.getByRole("link", { name: language }).click();
        await user.page.locator(`html[lang=${lang}]`).waitFor();
      }
    }
    assert.equal(link.signed({ expires: 4_000_000_000 }).split("/")[4].length, link.url.split("/")[4].length);
    await link.relink(`/v1/links/${link.id}/commands`, { command: "forget" });
    await link.is("removed");
    await user.open(link.url);
    await user.sees("This connection was removed");
    await user.leave();
  },

  async "the bank goes down while the user is at the page, and comes back"() {
    const bank = "heimdall_mx_retail";
    const link = await Link.broken("page", bank, (link) => link.refresh("token_required"));
    const user = await User.with();
    await user.open(link.url);
    await user.sees("Reconnect Heimdall");
    await link.statusPage(bank, "major_outage");
    // The open page shows it, and reports that its user waits.
    await user.page.getByText("there is nothing to do now: Acme will write to you").waitFor();
    await user.check("desktop-bank-down-en");
    assert.equal((await link.notices("institution_down")).length, 1);
    await link.statusPage(bank, "operational");
    await user.page.getByText("there is nothing to do now").waitFor({ state: "detached" });
    const restored = await until("the notice", async () => (await link.notices("institution_restored"))[0]);
    assert.equal(restored.action, "provide_token");
    await user.leave();
    // The address in this notice leads to the same page.
    const later = await User.with();
    await later.open(restored.repair_url);
    await later.sees("Reconnect Heimdall");
    assert.equal(await later.page.getByText("there is nothing to do now").count(), 0);
    assert.equal((await link.notices("institution_down")).length, 1);
    await later.leave();
  },

  async "the bank has trouble, and then Belvo"() {
    const link = await Link.broken("hosted");
    const user = await User.with({ phone: true });
    await link.sandbox("/sandbox/faults/api", { kind: "institution_down", count: 1, on: "/api/token/" });
    await user.open(link.url);
    await user.press("Reconnect now");
    await user.page.getByText("cannot be opened at the moment").waitFor();
    user.problems = user.problems.filter((problem) => !problem.includes("status of 502"));
    await user.check("phone-not-now-en");
    await user.press("Reconnect now");
    await user.press("Give the right password");
    await user.sees("All set");
    await user.leave();
  },

  // The fleet of the console uses up the budget of Belvo calls for jobs, so the prompts of later stories would wait.
  ...consoleStories,
};

const only = options.only;
const failures = [];
// One after the other on a slow machine takes too long; all at once makes each of them slow.
const waiting = Object.entries(stories).filter(([name]) => !only || name.includes(only));
const play = async () => {
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    const [name, story] = next;
    const began = Date.now();
    try {
      await story();
      console.log(`ok    ${name} (${Date.now() - began} ms)`);
    } catch (error) {
      failures.push(name);
      console.log(`FAILED ${name}: ${error.stack}`);
    }
  }
};
await Promise.all([play(), play(), play()]);
await close();
process.exitCode = failures.length ? 1 : 0;
