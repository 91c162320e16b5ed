// Follows the state of the link, and loads the page again when it changes. The page works without this program.
(() => {
  "use strict";
  const { view, trouble, state, check, next } = document.body.dataset;
  const PAUSE_MS = 2500, PAUSE_MAX_MS = 60000;
  let failures = 0, looks = 0, timer = 0, isLeaving = false;

  async function look() {
    clearTimeout(timer);
    if (document.hidden || isLeaving) return;
    try {
      const answer = await fetch(state, { cache: "no-store" });
      const seen = await answer.json();
      // The button has been pressed meanwhile: to load this page again would cancel the answer to it.
      if (isLeaving) return;
      if (seen.view !== view || seen.trouble !== trouble) return location.replace(next);
      failures = 0;
    } catch {
      failures += 1;
    }
    looks += 1;
    // A page that stays open for long looks less often.
    timer = setTimeout(look, Math.min(PAUSE_MS * 2 ** Math.max(failures, Math.floor(looks / 100)), PAUSE_MAX_MS));
  }

  if (state) {
    document.addEventListener("visibilitychange", look);
    // Perhaps the link works again and relink does not know it yet: this reads the link at Belvo.
    if (check) fetch(check, { method: "POST" }).then(look, look);
    else timer = setTimeout(look, PAUSE_MS);
  }
  addEventListener("pageshow", (event) => { if (event.persisted) location.replace(next || location.href); });
  for (const form of document.forms) {
    form.addEventListener("submit", () => {
      isLeaving = true;
      form.querySelector("button").disabled = true;
    });
  }
})();
