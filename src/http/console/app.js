// The console: login, the bar, and which view is shown. The address after # selects the view; it never has the token.
//
// - api.js: calls relink, keeps the token; dom.js: makes elements from texts
// - overview.js, machine.js, activity.js: the fleet; links.js: the search; link.js, why.js: one link and its timeline
// - status.js: freshness and what waits; held.js: prompts that were not sent yet
// - live.js: follows what happens; commands.js: commands on a link; dead_letters.js: messages that could not be handled
//
// A view is a function `(main, parts, query, go) => refresh`. `refresh(signal)` loads the data and draws it. It is called at once, when
// something happens, and every few seconds, while the tab is visible.
import { Failed, call, freshness, token } from "./api.js";
import { deadLetters } from "./dead_letters.js";
import { clock, distance, h, printable, replace } from "./dom.js";
import { held } from "./held.js";
import { link } from "./link.js";
import { links } from "./links.js";
import { follow } from "./live.js";
import { overview } from "./overview.js";

const REFRESH_MS = 5_000;
/** The least time between two refreshes because of events: a busy relink must not keep the page busy. */
const EVENTS_MS = 1_000;
const THEME = "relink.theme";
const THEMES = { system: "System colours", light: "Light", dark: "Dark" };
const VIEWS = { "": overview, links, link, held, "dead-letters": deadLetters };
const TABS = [["#/", "Overview", ""], ["#/links", "Links", "links"], ["#/held", "Held prompts", "held"], ["#/dead-letters", "Dead letters", "dead-letters"]];

const main = document.getElementById("main");
const bar = document.getElementById("bar");
const notice = document.getElementById("notice");

let current = null;
let live = null;
let refreshedAt = 0;

/** The path and the parameters after #. A part that cannot be decoded is used as it is. */
function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const decoded = (part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  };
  const [name, ...parts] = path.split("/").map(decoded);
  return { name, parts, query: new URLSearchParams(query) };
}

function show() {
  current?.stop.abort();
  clearTimeout(current?.timer);
  current = { stop: new AbortController(), timer: 0, refresh: null, isBusy: false };
  document.body.dataset.login = token.get() ? "done" : "needed";
  const { name, parts, query } = place();
  drawBar(name);
  tell(null);
  if (!token.get()) return login();
  if (!live) {
    live = new AbortController();
    follow(happened, live.signal);
  }
  const view = Object.hasOwn(VIEWS, name) ? VIEWS[name] : null;
  if (!view) {
    replace(main, h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "#/" }, "Go to the overview")));
    return;
  }
  replace(main, h("p", { class: "soft" }, "Loading…"));
  current.refresh = view(main, parts, query, refreshSoon);
  refresh();
}

/** Loads the view again, now. Called by a view after it has changed something. */
function refreshSoon() {
  clearTimeout(current.timer);
  current.timer = setTimeout(refresh, 0);
}

/** Something has happened: loads the view again soon, and at most once in a second. */
function happened() {
  if (!current?.refresh || current.isExpected) return;
  current.isExpected = true;
  clearTimeout(current.timer);
  current.timer = setTimeout(refresh, Math.max(0, refreshedAt + EVENTS_MS - Date.now()));
}

async function refresh() {
  const mine = current;
  if (!mine.refresh || mine.isBusy) return;
  clearTimeout(mine.timer);
  mine.isBusy = true;
  mine.isExpected = false;
  refreshedAt = Date.now();
  try {
    if (!document.hidden) {
      const asOf = await mine.refresh(mine.stop.signal);
      if (mine !== current) return;
      freshness.at = new Date().toISOString();
      freshness.failure = null;
      tell(null);
      drawFoot(asOf);
    }
  } catch (error) {
    if (mine !== current || mine.stop.signal.aborted) return;
    if (error instanceof Failed && error.status === 401) return leave("relink does not accept the token any more. Enter another one.");
    failed(error);
  } finally {
    mine.isBusy = false;
  }
  // An event that came during the refresh may not be in its data.
  const pause = mine.isExpected ? EVENTS_MS : REFRESH_MS;
  clearTimeout(mine.timer);
  mine.timer = setTimeout(refresh, pause);
}

/** Keeps the old data on the page, and says how old it is. */
function failed(error) {
  freshness.failure ??= error;
  if (!(error instanceof Failed)) console.error(error);
  const why = error instanceof Failed ? error.message : "The page has failed.";
  const isShown = main.querySelector("h1") !== null;
  const age = freshness.at && isShown ? ` This data is from ${clock(freshness.at)} (${distance(freshness.at)}).` : "";
  if (!isShown) replace(main, h("h1", {}, error.status === 404 ? "Not found" : "No data yet"), h("p", {}, why));
  tell(`${why}${age} The page tries again every ${REFRESH_MS / 1000} seconds.`);
}

function tell(text) {
  notice.hidden = text === null;
  if (text !== null && notice.textContent !== printable(text)) replace(notice, document.createTextNode(printable(text)));
}

function drawFoot(asOf) {
  const state = asOf ? `State of the links as of ${clock(asOf)}. ` : "";
  replace(document.getElementById("foot"), h("p", {}, state, `Read at ${clock(freshness.at)}. Times are in the zone of this browser.`));
}

function drawBar(name) {
  const tabs = TABS.map(([href, text, of]) =>
    h("a", { href, "aria-current": name === of || (name === "link" && of === "links") ? "page" : null }, text));
  const theme = h("select", { id: "theme", "aria-label": "Colours", onchange: (event) => setTheme(event.target.value) },
    Object.entries(THEMES).map(([value, text]) => h("option", { value, selected: value === wantedTheme() }, text)));
  const out = h("button", { type: "button", class: "quiet", onclick: () => leave(null) }, "Log out");
  replace(bar, h("a", { class: "brand", href: "#/" }, "relink"), token.get() && h("nav", { "aria-label": "Pages" }, tabs),
    h("div", { class: "tools" }, theme, token.get() && out));
}

function wantedTheme() {
  const wanted = localStorage.getItem(THEME);
  return Object.hasOwn(THEMES, wanted ?? "") ? wanted : "system";
}

function setTheme(theme) {
  if (theme === "system") localStorage.removeItem(THEME);
  else localStorage.setItem(THEME, theme);
  document.documentElement.dataset.theme = theme;
  // The plots are pictures, which do not change their colours by themselves.
  if (current?.refresh) refreshSoon();
}

function leave(why) {
  live?.abort();
  live = null;
  token.forget();
  freshness.at = null;
  replace(document.getElementById("foot"));
  show();
  if (why) tell(why);
}

function login() {
  const field = h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true,
    "aria-describedby": "token-hint" });
  const enter = async (event) => {
    event.preventDefault();
    const value = field.value.trim();
    // A header takes printable ASCII only.
    if (!/^[\x21-\x7e]+$/.test(value)) return tell("This is no API token: it has spaces or other characters that no token has.");
    button.disabled = true;
    token.set(value);
    try {
      await call("v1/summary");
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        token.forget();
        field.select();
        return tell(error.status === 401 ? "relink does not accept this token." : error.message);
      }
      if (error.status === 0) {
        token.forget();
        return tell("relink does not answer. The token was not checked; try again.");
      }
    } finally {
      button.disabled = false;
    }
    show();
  };
  const button = h("button", { type: "submit" }, "Log in");
  replace(main, h("form", { class: "card login", onsubmit: enter }, h("h1", {}, "relink console"),
    h("label", { for: "token" }, "API token"), field,
    h("p", { class: "soft", id: "token-hint" }, "One of RELINK_API_TOKENS, or a token with the scope read. It stays in this tab until you log out or close the tab."), button));
  field.focus();
}

setTheme(wantedTheme());
addEventListener("hashchange", () => {
  show();
  main.focus();
  scrollTo(0, 0);
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && current?.refresh) refreshSoon(); });
show();
