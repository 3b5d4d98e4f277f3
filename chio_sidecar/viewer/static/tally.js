// The panel that counts: verdicts over time as bars, and by route as a table. It is filled while it is open.

import { get } from "./api.js";
import { append, byId, count, foreign, make, moment } from "./dom.js";

const HEIGHT = 56;
const BAR = 12;
const SVG = "http://www.w3.org/2000/svg";
const KINDS = ["allow", "deny", "other"];

export class TallyPanel {
  /** `failed` is called with an error; `filter` with the route that was chosen. */
  constructor({ failed, filter }) {
    this.failed = failed;
    this.filter = filter;
    this.filters = {};
    byId("tally").addEventListener("toggle", () => this.update(this.filters));
  }

  /** Count the receipts that match these filters. */
  async update(filters) {
    this.filters = filters;
    if (!byId("tally").open) return;
    this.running?.abort();
    this.running = new AbortController();
    try {
      this.show(await get("tally", filters, this.running.signal));
    } catch (error) {
      if (error.name !== "AbortError") this.failed(error);
    }
  }

  show({ counted, complete, scanned, start, width, bars, routes }) {
    let which = complete ? `${count(counted)} receipts` : `The newest ${count(counted)} receipts`;
    if (scanned !== null) which = `${count(counted)} that match among the newest ${count(scanned)} receipts`;
    byId("tally-text").replaceChildren();
    append(byId("tally-text"), ...(bars.length ? [`${which} from `, moment(start), ` on; one bar is ${span(width)}.`] : [`${which}.`]));
    byId("chart").replaceChildren(...(bars.length ? [chart(bars.map(kinds))] : []));
    byId("routes").hidden = !routes.length;
    byId("routes").tBodies[0].replaceChildren(...routes.map((one) => this.row(one)));
  }

  row({ method, route, verdicts }) {
    const chosen = make("button", { type: "button", class: "plain small" }, foreign(`${method} ${route}`));
    chosen.addEventListener("click", () => this.filter(route));
    const numbers = kinds(verdicts);
    return make("tr", {}, make("th", { scope: "row" }, chosen), KINDS.map((kind) => make("td", {}, count(numbers[kind]))));
  }
}

function kinds(verdicts) {
  const { allow = 0, deny = 0, ...others } = verdicts;
  return { allow, deny, other: Object.values(others).reduce((sum, number) => sum + number, 0) };
}

function chart(bars) {
  const highest = Math.max(...bars.map((bar) => bar.allow + bar.deny + bar.other), 1);
  const totals = Object.fromEntries(KINDS.map((kind) => [kind, bars.reduce((sum, bar) => sum + bar[kind], 0)]));
  const label = KINDS.map((kind) => `${kind}: ${count(totals[kind])}`).join(", ");
  const picture = vector("svg", { viewBox: `0 0 ${bars.length * BAR} ${HEIGHT}`, role: "img", preserveAspectRatio: "none", "aria-label": label });
  bars.forEach((bar, index) => {
    let top = HEIGHT;
    for (const kind of KINDS) {
      const height = (bar[kind] / highest) * HEIGHT;
      top -= height;
      if (height) picture.append(vector("rect", { class: kind, x: index * BAR + 1, y: top, width: BAR - 2, height }));
    }
  });
  return picture;
}

function vector(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

function span(seconds) {
  const units = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];
  const [name, size] = units.find(([, one]) => seconds % one === 0);
  const number = seconds / size;
  return `${count(number)} ${name}${number === 1 ? "" : "s"}`;
}
