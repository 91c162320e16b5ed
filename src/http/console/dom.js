// Makes elements. Texts become text nodes only, so that a text from outside can never become HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element of HTML: `h("a", { href: "#/links", class: "x", onclick: f }, "text", child)`. */
export const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);

/** An element of SVG. */
export const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false).map((child) =>
    child instanceof Node ? child : printable(child)));
  return element;
}

/** Replaces the children of an element. The focus stays at the same place, so that a refresh does not disturb the keyboard. */
export function replace(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const steps = [];
  for (let at = focused; at && at !== parent; at = at.parentElement) steps.unshift([...at.parentElement.children].indexOf(at));
  parent.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (!focused || focused === parent) return;
  const same = steps.reduce((at, index) => at?.children[index], parent);
  const next = focused.id ? document.getElementById(focused.id) : same?.tagName === focused.tagName ? same : null;
  next?.focus({ preventScroll: true });
}

/** Calls `draw` only if the data differs from the last time: a selected text stays selected. Relative times are drawn anew every minute. */
export function whenChanged(draw) {
  let last = null;
  return (...data) => {
    const seen = JSON.stringify([Math.floor(Date.now() / 60_000), ...data]);
    if (seen !== last) draw(...data);
    last = seen;
  };
}

// Control characters, direction marks and invisible characters. Line breaks and tabs are kept: HTML shows them as spaces.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]|[\u{e0000}-\u{e007f}]/gu;
const SHOWN_MAX = 100_000;

/** A text that hides nothing: ESC and its like are shown as \u{1b}. */
export function printable(value) {
  const text = String(value);
  const shown = text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}… (${text.length} characters)` : text;
  return shown.replace(HIDDEN, (character) => `\\u{${character.codePointAt(0).toString(16)}}`);
}

const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always" });

/** "5 minutes ago", "in 2 hours". */
export function distance(time, now = Date.now()) {
  const seconds = Math.round((Date.parse(time) - now) / 1000);
  if (Number.isNaN(seconds)) return "";
  const [unit, length] = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? UNITS.at(-1);
  return relative.format(Math.trunc(seconds / length), unit);
}

/** "2026-11-04 09:00:00" in the zone of the browser. */
export function clock(time) {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return printable(time ?? "?");
  const two = (number) => String(number).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":")}`;
}

/** A time with its distance; the exact value, in UTC, is in the title. */
export const when = (time) => h("time", { datetime: time, title: time }, `${clock(time)} (${distance(time)})`);

/** The name of a state with its colour. */
export const badge = (state) => h("span", { class: "badge", "data-state": state }, state);

export const number = (value) => Number(value).toLocaleString("en");

/** A link of the page to itself: the path and the parameters are encoded. */
export function address(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
  const encoded = path.map((part) => encodeURIComponent(part)).join("/");
  return `#/${encoded}${query.size ? `?${query}` : ""}`;
}
