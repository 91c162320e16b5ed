// Commands on a link. Each asks before it is sent, and says what it does.
import { call, linkPath } from "./api.js";
import { h, replace } from "./dom.js";

const COMMANDS = {
  verify: { name: "Verify", about: "relink reads the link from Belvo now. This needs Belvo's keys." },
  mute: { name: "Mute", about: "The user of the link is neither prompted nor reminded until somebody ends this." },
  unmute: { name: "Unmute", about: "The user gets prompts and reminders again. A prompt that was not sent is sent now, if the link is still broken." },
  snooze: { name: "Snooze", about: "The user is not reminded before the time that you choose.", hasTime: true },
  unsupersede: { name: "Ask again", about: "The user is asked about this link again, although a newer link of the same user has replaced it." },
  release: { name: "Release", object: "the prompt of the link", about: "The user of the link is prompted now, also if the link is muted or its institution has an incident. A mute ends. If the person got a message a short time before, or in quiet hours, the prompt waits for the end of that." },
  forget: { name: "Forget", about: "relink removes this link for ever and ignores all later messages about it. The link stays at Belvo. This cannot be undone.", isFinal: true },
};

/** The buttons for a link in this state. `status` is an element of the caller for what became of a command; it outlives the buttons. */
export function commands(id, state, { isMuted, isSuperseded, canRelease }, status, go) {
  if (state === "removed") return [];
  const names = ["verify", isMuted ? "unmute" : "mute", "snooze", isSuperseded && "unsupersede", canRelease && "release", "forget"].filter(Boolean);
  const button = (name) => h("button", { type: "button", id: `command-${name}`, class: COMMANDS[name].isFinal ? "danger" : "quiet", onclick: async () => {
    const answer = await askFor(id, name);
    if (answer) replace(status, document.createTextNode(answer));
    if (answer) go();
  } }, COMMANDS[name].name);
  return [h("section", { class: "card" }, h("h2", {}, "Commands"), h("div", { class: "buttons" }, names.map(button)))];
}

/** Asks, and gives the command. Returns what became of it, or null if the user did not want it. */
export async function askFor(id, name) {
  const { name: title, about, object = "the link", hasTime, isFinal } = COMMANDS[name];
  const tomorrow = new Date(Date.now() + 86_400_000);
  const local = new Date(tomorrow.getTime() - tomorrow.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
  const until = hasTime && h("input", { id: "until", type: "datetime-local", value: local, required: true });
  const by = h("input", { id: "by", maxlength: 100, autocomplete: "off" });
  const reason = h("input", { id: "reason", maxlength: 200, autocomplete: "off" });
  const send = async () => {
    const body = { command: name };
    if (until) {
      const time = new Date(until.value);
      if (Number.isNaN(time.getTime())) throw new Error("Choose a time.");
      body.until = time.toISOString();
    }
    if (by.value.trim()) body.by = by.value.trim();
    if (reason.value.trim()) body.reason = reason.value.trim();
    const { body: stored } = await call(linkPath(id, "/commands"), { body });
    return `The command ${name} is stored as message ${stored.message_id ?? "?"}.`;
  };
  return ask({
    title: `${title} ${object} ${id}?`,
    content: [h("p", {}, about), until && h("label", { for: "until" }, "Until"), until,
      h("label", { for: "by" }, "Your name, for the history (optional)"), by,
      h("label", { for: "reason" }, "Reason, for the history (optional)"), reason],
    action: title,
    isFinal,
    send,
  });
}

/** Asks, then calls `send`. Returns what `send` returned, or null if the user did not want it. An error is shown, and the user may try again. */
export function ask({ title, content, action, isFinal, send }) {
  return new Promise((done) => {
    let answer = null;
    const problem = h("p", { class: "wrong", role: "alert" });
    const confirm = async (event) => {
      event.preventDefault();
      yes.disabled = true;
      replace(problem);
      try {
        answer = await send();
        dialog.close();
      } catch (error) {
        replace(problem, h("span", {}, error.message));
      } finally {
        yes.disabled = false;
      }
    };
    const yes = h("button", { type: "submit", class: isFinal ? "danger" : null }, action);
    const no = h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel");
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" },
      h("form", { onsubmit: confirm }, h("h2", { id: "dialog-title" }, title), content, problem, h("div", { class: "buttons" }, yes, no)));
    dialog.addEventListener("close", () => {
      dialog.remove();
      done(answer);
    });
    // Another view must not leave the question of this one on the page.
    addEventListener("hashchange", () => dialog.close(), { once: true });
    document.body.append(dialog);
    dialog.showModal();
    (isFinal ? no : yes).focus();
  });
}
