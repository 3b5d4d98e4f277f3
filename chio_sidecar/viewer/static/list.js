// The table: the first rows, more rows, and new rows while the page is open.

import { get } from "./api.js";
import { append, badge, byId, count, foreign, make, moment, shortened, visible } from "./dom.js";

const POLL = 1_000; // milliseconds
const LONGEST = 30_000; // between two attempts while the sidecar does not answer
const ROOM = 2_000; // rows that an untouched page keeps
const PAGE = 200; // rows that are shown at once

export class ReceiptList {
  /**
   * `failed` is called with every error but that of an aborted request, and the milliseconds until the next attempt;
   * with null after a success. `changed` is called when other receipts are listed, or new ones.
   */
  constructor({ failed, changed }) {
    this.failed = failed;
    this.changed = changed;
    this.failures = 0;
    this.sorted = null;
    this.filters = {};
    this.live = true;
    this.selected = null;
    this.reset();
    byId("more").addEventListener("click", () => this.more());
    byId("rows").addEventListener("click", (event) => openRow(event));
    byId("rows").addEventListener("keydown", (event) => moveFocus(event));
    for (const button of document.querySelectorAll("[data-sort]")) {
      button.addEventListener("click", () => this.sortBy(button.dataset.sort));
    }
  }

  reset() {
    this.running?.abort();
    this.running = new AbortController();
    clearTimeout(this.timer);
    this.loaded = false;
    this.room = ROOM;
    this.polling = false;
    this.next = null;
    this.passed = null;
    this.newest = 0;
    this.matched = { number: 0, exact: false };
  }

  get filtered() {
    return Object.values(this.filters).some((value) => value !== null && value !== "");
  }

  /** Show the newest receipts that match these filters. */
  async load(filters) {
    this.reset();
    this.filters = filters;
    const { signal } = this.running;
    await this.guarded(signal, async () => {
      await this.fill(signal);
      this.loaded = true;
      this.changed();
      await this.countAll(signal);
    });
    if (signal === this.running.signal) this.wait();
  }

  /**
   * Show matches until a page is full or no row is left, and return their rows. One listing passes a limited number of
   * receipts, so of few matches each may have none: the summary says how far they have come.
   */
  async fill(signal, before = null) {
    const added = [];
    let next = before;
    try {
      do {
        const query = { ...this.filters, before: next, limit: PAGE - added.length };
        const listing = await get("receipts", query, signal);
        if (next === null) {
          byId("rows").replaceChildren();
          this.newest = listing.newest;
        }
        const rows = listing.rows.map(row);
        byId("rows").append(...rows);
        added.push(...rows);
        if (before !== null) this.room = Math.max(this.room, byId("rows").children.length);
        next = listing.next;
        this.passed = this.newest - (next ?? 1) + 1;
        this.arranged();
      } while (next !== null && added.length < PAGE);
    } finally {
      if (signal === this.running.signal) {
        this.passed = null;
        this.next = next;
        this.show();
      }
    }
    return added;
  }

  async more() {
    const { signal } = this.running;
    await this.guarded(signal, async () => {
      const added = await this.fill(signal, this.next);
      added[0]?.querySelector("a").focus({ preventScroll: true });
    });
  }

  async countAll(signal) {
    if (!this.filtered) return;
    if (this.next === null) {
      this.matched = { number: byId("rows").children.length, exact: true };
      this.show();
      return;
    }
    let step = { next: this.newest + 1 };
    while (step.next !== null) {
      step = await get("count", { ...this.filters, before: step.next }, signal);
      this.matched.number += step.matched;
      this.matched.exact = step.next === null;
      this.show();
    }
  }

  /** Request newer receipts every second while the page is visible; less often while no answer comes. */
  wait() {
    clearTimeout(this.timer);
    if (this.live) this.timer = setTimeout(() => this.poll(), this.pause);
  }

  get pause() {
    return Math.min(POLL * 2 ** this.failures, LONGEST);
  }

  async poll() {
    const { signal } = this.running;
    if (this.polling) return undefined;
    if (!this.loaded) return this.load(this.filters); // the first request has failed
    this.polling = true;
    if (!document.hidden) {
      await this.guarded(signal, async () => {
        const { rows, next, newest } = await get("receipts", { ...this.filters, after: this.newest }, signal);
        if (next !== null) {
          await this.load(this.filters); // more than one listing holds
          return;
        }
        this.newest = newest;
        this.matched.number += rows.length;
        const added = rows.map(row);
        for (const element of added) element.classList.add("fresh");
        byId("rows").prepend(...added);
        this.makeRoom();
        this.arranged();
        if (rows.length) this.changed();
      });
    }
    if (signal !== this.running.signal) return undefined;
    this.polling = false;
    return this.wait();
  }

  /** Remove the oldest rows if there are too many; "Show more" brings them back. */
  makeRoom() {
    const rows = byId("rows");
    if (rows.children.length <= this.room) return;
    const oldestLast = [...rows.children].sort((one, other) => other.dataset.row - one.dataset.row);
    for (const element of oldestLast.splice(this.room)) element.remove();
    this.next = Number(oldestLast.at(-1).dataset.row);
  }

  /** Sort the rows by a column; again the other way round, and then the newest first as before. */
  sortBy(name) {
    const same = this.sorted?.name === name;
    this.sorted = same && this.sorted.down ? null : { name, down: same };
    for (const button of document.querySelectorAll("[data-sort]")) {
      const order = this.sorted?.name === button.dataset.sort && (this.sorted.down ? "descending" : "ascending");
      if (order) button.parentElement.setAttribute("aria-sort", order);
      else button.parentElement.removeAttribute("aria-sort");
    }
    this.arranged();
  }

  /** Bring the rows into their order, and show what is said about them. */
  arranged() {
    const rows = byId("rows");
    const { name, down } = this.sorted ?? { name: "row", down: true };
    const ordered = [...rows.children].map((element) => ({ element, key: key(element, name) }));
    ordered.sort((one, other) => (down ? -1 : 1) * compare(one, other));
    if (ordered.some(({ element }, index) => element !== rows.children[index])) {
      const focused = document.activeElement;
      rows.replaceChildren(...ordered.map(({ element }) => element));
      if (rows.contains(focused)) focused.focus({ preventScroll: true });
    }
    this.mark();
    this.show();
  }

  setLive(live) {
    this.live = live;
    clearTimeout(this.timer);
    if (live && this.loaded) this.poll();
  }

  /** Mark the row of the opened receipt. */
  select(id) {
    this.selected = id;
    this.mark();
  }

  mark() {
    for (const element of byId("rows").children) {
      if (this.selected !== null && element.dataset.id === this.selected) element.setAttribute("aria-current", "true");
      else element.removeAttribute("aria-current");
    }
  }

  show() {
    const shown = byId("rows").children.length;
    byId("more").hidden = this.next === null || this.passed !== null;
    byId("empty").hidden = shown > 0;
    if (!shown) byId("empty").textContent = this.passed !== null ? NONE_YET : this.filtered ? NO_MATCH : NOTHING;
    const text = this.summary(shown);
    if (byId("summary").textContent !== text) byId("summary").textContent = text;
  }

  summary(shown) {
    if (!this.newest) return "";
    if (this.passed !== null) {
      return `${count(shown)} found so far, looked through ${count(this.passed)} of ${count(this.newest)} receipts`;
    }
    const order = this.sorted && this.next !== null ? `; only these ${count(shown)} are sorted` : "";
    const first = this.sorted ? "" : ", newest first";
    if (!this.filtered) return `${count(shown)} of ${count(this.newest)} receipts${first}${order}`;
    const matched = `${count(this.matched.number)}${this.matched.exact ? "" : "+"}`;
    return `${count(shown)} of ${matched} that match, among ${count(this.newest)} receipts${order}`;
  }

  async guarded(signal, work) {
    try {
      await work();
      this.failures = 0;
      this.failed(null);
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      this.failures += 1;
      this.failed(error, this.pause);
    }
  }
}

const NOTHING = "No receipts yet. They appear here as soon as the sidecar decides about a request.";
const NONE_YET = "No receipt matches these filters so far.";
const NO_MATCH = "No receipt matches these filters.";

function row(receipt) {
  const element = make("tr", { role: "row", "data-id": receipt.id, "data-row": receipt.seq });
  append(
    element,
    cell("time", "Time", receipt.timestamp === null ? null : moment(receipt.timestamp)),
    cell("verdict", "Verdict", receipt.damaged ? badge("damaged") : badge(String(receipt.verdict))),
    cell("method", "Method", text(receipt.method)),
    cell("route", "Route", mark(receipt), text(receipt.route)),
    cell("caller", "Caller", hash(receipt.caller)),
    cell("capability", "Capability", text(receipt.capability)),
    cell("id", "Receipt", make("a", { href: `#${encodeURIComponent(receipt.id)}` }, foreign(receipt.id))),
  );
  return element;
}

function key(element, name) {
  if (name === "row") return Number(element.dataset.row);
  const cell = element.querySelector(`.c-${name}`);
  return cell.querySelector("time")?.dateTime ?? cell.textContent;
}

function compare(one, other) {
  if (one.key !== other.key) return one.key < other.key ? -1 : 1;
  return one.element.dataset.row - other.element.dataset.row;
}

function mark(receipt) {
  return receipt.observed ? make("span", { class: "tag", title: "not enforced: the application only observes" }, "observed") : null;
}

function cell(name, title, ...children) {
  const empty = children.every((child) => child === null);
  return make("td", { role: "cell", class: `c-${name}${empty ? " none" : ""}`, "data-title": title }, empty ? "–" : children);
}

function text(value) {
  return value === null ? null : foreign(String(value), { title: visible(String(value)).textContent });
}

function hash(value) {
  return value === null ? null : foreign(shortened(String(value)), { title: visible(String(value)).textContent });
}

function openRow(event) {
  const link = event.target.closest("tr")?.querySelector("a");
  if (link && !event.target.closest("a") && !String(getSelection())) {
    link.focus({ preventScroll: true });
    link.click();
  }
}

function moveFocus(event) {
  const steps = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" };
  const target = event.target.closest("tr")?.[steps[event.key]]?.querySelector("a");
  if (target && !event.altKey && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    target.focus();
  }
}
