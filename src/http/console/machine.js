// The drawing of the machine: each state as a node with the number of its links, each transition as an arrow with its events.
// The states and the transitions come from relink; only the places of the nodes are here.
import { call } from "./api.js";
import { address, h, number, svg } from "./dom.js";

const WIDTH = 760;
const NODE = { width: 150, height: 62 };
// The middle of each node. A state of a newer relink gets a place in the last row.
const PLACES = {
  unconfirmed: [95, 90],
  valid: [380, 90],
  removed: [665, 90],
  invalid: [120, 240],
  updating: [640, 240],
  token_required: [380, 335],
};

let known = null;

/** The machine of this relink: `{ states, events, moves }`. */
export async function readMachine(signal) {
  known ??= (await call("console/machine.json", { signal, withToken: false })).body;
  return known;
}

/** The arrows between two different states, with their events. */
function arrows(moves) {
  const found = new Map();
  for (const { from, on, to } of moves) {
    for (const target of to.filter((target) => target !== from)) {
      const key = `${from} ${target}`;
      found.set(key, { from, to: target, events: [...(found.get(key)?.events ?? []), on] });
    }
  }
  return [...found.values()];
}

/** `transitions` has the number of transitions of each arrow in the last hour: `{ from, to, count }`. */
export function drawMachine(machine, counts, transitions = []) {
  const flow = new Map(transitions.map(({ from, to, count }) => [`${from} ${to}`, count]));
  const rest = machine.states.filter((state) => !PLACES[state]);
  const places = { ...PLACES };
  rest.forEach((state, index) => { places[state] = [95 + index * 190, 430]; });
  const height = rest.length > 0 ? 480 : 385;
  const all = arrows(machine.moves);
  const pairs = new Set(all.map(({ from, to }) => `${from} ${to}`));
  const drawn = all.map((arrow) => drawArrow(arrow, places, pairs.has(`${arrow.to} ${arrow.from}`), flow.get(`${arrow.from} ${arrow.to}`) ?? 0));
  const text = machine.states.map((state) => `${state}: ${number(counts[state] ?? 0)}`).join(", ");
  const head = svg("marker", { id: "head", viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" },
    svg("path", { d: "M0 0L10 5L0 10z", class: "head" }));
  // On a phone the drawing is wider than the page, so the numbers are also in a list.
  const list = h("ul", { class: "states" }, machine.states.map((state) => h("li", {}, h("a", { href: address(["links"], { state }) }, state), ` ${number(counts[state] ?? 0)}`)));
  return [list, h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `Links by state. ${text}` },
    svg("svg", { class: "machine", viewBox: `0 0 ${WIDTH} ${height}`, role: "group", "aria-label": "The states of a link" },
      svg("defs", {}, head), drawn, machine.states.map((state) => drawNode(state, places[state], counts[state] ?? 0))))];
}

function drawNode(state, [x, y], count) {
  return svg("a", { href: address(["links"], { state }), class: "node", "data-state": state },
    svg("rect", { x: x - NODE.width / 2, y: y - NODE.height / 2, width: NODE.width, height: NODE.height, rx: 12 }),
    svg("text", { x, y: y - 11, class: "name" }, state),
    svg("text", { x, y: y + 16, class: "figure" }, number(count)));
}

/** Whether a point is inside the box of a node, with some room for the head of an arrow. */
const isInside = ([x, y], [left, top], room) => Math.abs(x - left) < NODE.width / 2 + room && Math.abs(y - top) < NODE.height / 2 + room;

/** The part of a curve between two boxes, as points. */
function between(a, control, b) {
  const at = (t) => [0, 1].map((axis) => (1 - t) ** 2 * a[axis] + 2 * t * (1 - t) * control[axis] + t ** 2 * b[axis]);
  const points = Array.from({ length: 81 }, (_, index) => at(index / 80));
  return points.filter((point) => !isInside(point, a, 1) && !isInside(point, b, 4));
}

function drawArrow({ from, to, events }, places, isPair, count) {
  const [a, b] = [places[from], places[to]];
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
  const length = Math.hypot(dx, dy);
  // The two arrows between a pair of states bend to different sides. One along the first row bends around the node between.
  const isOverNode = dy === 0 && Math.abs(dx) > 400 && !isPair;
  const bend = isOverNode ? -120 : isPair ? 34 : 0;
  const control = [(a[0] + b[0]) / 2 - (dy / length) * bend, (a[1] + b[1]) / 2 + (dx / length) * bend];
  const points = between(a, control, b).map((point) => point.map((value) => value.toFixed(1)));
  if (points.length < 2) return null;
  const middle = points[Math.floor(points.length / 2)];
  const about = `${from} to ${to}: ${events.join(", ")}${count > 0 ? `; ${number(count)} in the last hour` : ""}`;
  return svg("g", { class: "arrow", "data-to": to, "data-flows": count > 0 ? "true" : null },
    svg("title", {}, about),
    svg("path", { d: `M${points.map((point) => point.join(" ")).join("L")}`, "marker-end": "url(#head)" }),
    count > 0 && svg("text", { x: middle[0], y: middle[1], class: "flow" }, number(count)));
}
