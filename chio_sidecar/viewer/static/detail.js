// The opened receipt: its content, the verifications by browser and sidecar, and its exact text.

import { get, save } from "./api.js";
import { parse, pretty } from "./canonical.js";
import { badge, byId, foreign, make, moment, prose } from "./dom.js";
import { isErasure, verify } from "./verify.js";

const MOST_SHOWN = 200_000; // characters of raw JSON on the page; the download has all

export class Detail {
  constructor({ failed, closed, filter }) {
    this.failed = failed;
    this.closed = closed;
    this.filter = filter;
    this.id = null;
  }

  async open(id) {
    this.id = id;
    let opened;
    try {
      opened = await get("receipt", { id });
    } catch (error) {
      if (this.id !== id) return;
      this.close(); // another receipt must not be shown under this one's id
      this.failed(error);
      return;
    }
    const browser = await verify(opened.text);
    if (this.id !== id) return; // another one was opened meanwhile
    const box = byId("detail");
    box.replaceChildren(...this.content(opened, browser));
    box.dataset.id = id;
    box.hidden = false;
    document.body.classList.add("opened");
    box.scrollTop = 0;
    box.querySelector("h2").focus({ preventScroll: true });
  }

  close() {
    this.id = null;
    byId("detail").hidden = true;
    delete byId("detail").dataset.id;
    byId("detail").replaceChildren();
    document.body.classList.remove("opened");
  }

  content(opened, browser) {
    const receipt = readable(opened.text);
    const buttons = make(
      "div",
      { class: "actions" },
      button("Download bundle", () => this.save(), { class: "primary", id: "bundle" }),
      button("Close", () => this.closed(), { id: "close", "aria-label": "Close this receipt" }),
    );
    return [
      make("div", { class: "detail-top" }, heading(receipt), buttons),
      verification(opened, browser),
      receipt && isErasure(receipt) ? erasure(receipt) : null,
      receipt ? this.decision(receipt) : null,
      receipt ? explanation(opened.explanation) : null,
      receipt ? facts(receipt, opened, (name, value) => this.filter(name, value)) : null,
      receipt ? evidence(receipt.get("evidence")) : null,
      receipt ? extra("Metadata", receipt.get("metadata")) : null,
      raw(opened.text, receipt),
    ].filter((part) => part !== null);
  }

  decision(receipt) {
    const verdict = receipt.get("verdict");
    const enforcement = observed(receipt);
    const said = verdict instanceof Map ? [...verdict].flatMap(statements) : [];
    if (!said.length && !enforcement) return null;
    return part(
      "Decision",
      enforcement && make("p", { class: "notice warn" }, "Observed, not enforced: the application recorded this decision and did not carry it out."),
      definitions(said.map(([name, value]) => [words(name), prose(plain(value))])),
    );
  }

  async save() {
    try {
      await save("bundle", { id: this.id }, `chio-receipt-${this.id.replace(/[^0-9A-Za-z_-]/g, "_").slice(0, 80)}.json`);
    } catch (error) {
      this.failed(error);
    }
  }
}

/** Return a member of the verdict as name and value; of `details`, each of its members. */
function statements([name, value]) {
  if (name === "verdict") return [];
  return name === "details" && value instanceof Map ? [...value] : [[name, value]];
}

function readable(text) {
  try {
    const receipt = parse(text);
    return receipt instanceof Map ? receipt : null;
  } catch {
    return null;
  }
}

function heading(receipt) {
  if (!receipt) return make("h2", { tabindex: "-1" }, badge("damaged"), " This row holds no receipt");
  if (isErasure(receipt)) return make("h2", { tabindex: "-1" }, badge("erased"));
  const verdict = receipt.get("verdict");
  const word = verdict instanceof Map ? plain(verdict.get("verdict")) : "none";
  return make(
    "h2",
    { tabindex: "-1" },
    badge(word),
    observed(receipt) && make("span", { class: "tag" }, "observed"),
    make("span", { class: "route" }, foreign(plain(receipt.get("method"))), " ", foreign(plain(receipt.get("route_pattern")))),
  );
}

function erasure(receipt) {
  const section = part(
    "Erasure",
    make("p", { class: "notice" }, "The content of this receipt was erased. Its row and its digest are still part of the chain, which receipt fsck checks."),
    definitions([
      ["Erased", when(receipt.get("erased_at"))],
      ["Reason", prose(plain(receipt.get("reason")))],
      ["Digest", code(receipt.get("digest"))],
      ["Hash of the receipt", code(receipt.get("receipt_sha256"))],
    ]),
  );
  section.id = "erasure";
  return section;
}

function observed(receipt) {
  const metadata = receipt.get("metadata");
  const mark = metadata instanceof Map ? metadata.get("chio_enforcement") : null;
  return (mark instanceof Map ? mark.get("mode") : mark) === "observe";
}

function verification(opened, browser) {
  return part("Verification", make("ul", { class: "checks", id: "checks" }, byBrowser(browser, opened.keys), byServer(opened.server)));
}

function byBrowser({ state, key, reason }, own) {
  if (state === "unavailable") return check("unknown", "Not verified by this browser", reason);
  if (state === "invalid") return check("bad", "Refused by this browser", reason);
  const owner = own.length === 0
    ? ["unknown", "No key of the sidecar is known here: compare it with the one that you trust."]
    : own.includes(key)
      ? ["good", "It is this sidecar's own key."]
      : ["bad", "It is NOT this sidecar's own key."];
  return check(owner[0], "Verified by this browser under key", make("code", { class: "key" }, foreign(key)), make("span", {}, owner[1]));
}

function byServer({ valid, rule, message, signer_is_own: own }) {
  if (!valid) return check("bad", "Refused by the sidecar", `rule ${rule}: ${message}`);
  const owner = { true: ", under its own key", false: ", under a key that is not its own" }[own] ?? "";
  return check(own === false ? "bad" : own === null ? "unknown" : "good", `Verified by the sidecar${owner}`);
}

function check(state, title, ...more) {
  const sign = { good: "✓", bad: "✕", unknown: "!" }[state];
  return make(
    "li",
    { class: state },
    make("span", { class: "sign", "aria-hidden": "true" }, sign),
    make("div", {}, make("strong", {}, title), more.map((item) => (item instanceof Node ? item : make("span", {}, item)))),
  );
}

/** The explanation of a refusal, as `chio-sidecar explain` prints it. */
function explanation(said) {
  if (!said) return null;
  const names = { rule: "Rule", why: "Why", remedy: "To do", passes: "Would pass", command: "Command", note: "Where" };
  const shown = Object.entries(names).filter(([name]) => typeof said[name] === "string");
  const section = part("Explanation", definitions(shown.map(([name, title]) => [title, name === "command" ? code(said[name]) : prose(said[name])])));
  section.id = "explanation";
  return section;
}

function facts(receipt, opened, filter) {
  const narrow = (name, value) =>
    typeof value === "string" && value
      ? [code(value), button("Show only these", () => filter(name, value), { class: "plain small" })]
      : null;
  const rows = [
    ["Time", when(receipt.get("timestamp"))],
    ["Stored", moment(Date.parse(opened.created_at) / 1000)],
    ["Response status", isErasure(receipt) ? null : plain(receipt.get("response_status"))],
    ["Receipt id", code(receipt.get("id"))],
    ["Request id", code(receipt.get("request_id"))],
    ["Caller", narrow("caller", receipt.get("caller_identity_hash"))],
    ["Capability", narrow("capability", receipt.get("capability_id"))],
    ["Session", code(receipt.get("session_id"))],
    ["Content hash", code(receipt.get("content_hash"))],
    ["Policy hash", code(receipt.get("policy_hash"))],
    ["Row", String(opened.sequence)],
  ];
  return part("Facts", definitions(rows.filter(([, value]) => value !== null)));
}

function when(timestamp) {
  return typeof timestamp === "bigint" ? [moment(timestamp), make("span", { class: "quiet" }, ` (${timestamp})`)] : plain(timestamp);
}

function evidence(list) {
  if (!Array.isArray(list) || !list.length) return null;
  const entries = list.map((item) => {
    if (!(item instanceof Map)) return make("li", {}, foreign(plain(item)));
    const verdict = item.get("verdict");
    const state = verdict === true ? "good" : verdict === false ? "bad" : "unknown";
    const word = { good: "passed", bad: "refused", unknown: plain(verdict) }[state];
    return make(
      "li",
      { class: state },
      make("span", { class: "sign", "aria-hidden": "true" }, { good: "✓", bad: "✕", unknown: "!" }[state]),
      make("div", {}, make("strong", {}, foreign(plain(item.get("guard_name"))), " ", word), item.get("details") ? make("span", {}, prose(plain(item.get("details")))) : null),
    );
  });
  return part("Evidence", make("ul", { class: "checks", id: "evidence" }, entries));
}

function extra(title, value) {
  if (value === null || value === undefined) return null;
  return part(title, make("pre", { tabindex: "0" }, lines(pretty(value))));
}

function raw(text, receipt) {
  const body = make("pre", { id: "raw", tabindex: "0" });
  const views = { Formatted: () => lines(pretty(receipt)), "As stored": () => [text.slice(0, MOST_SHOWN)] };
  const toggles = Object.entries(views).map(([name, view]) =>
    button(name, (event) => {
      body.replaceChildren(make("code", {}, view()));
      for (const toggle of toggles) toggle.setAttribute("aria-pressed", String(toggle === event.currentTarget));
    }, { class: "toggle", "aria-pressed": "false" }),
  );
  if (!receipt) toggles[0].disabled = true;
  const copy = button("Copy", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
  }, { class: "plain" });
  toggles[receipt ? 0 : 1].click();
  const shortened = text.length > MOST_SHOWN && make("p", { class: "quiet" }, "Only the beginning of this long text is shown; the bundle has all of it.");
  return part("JSON", make("div", { class: "toggles" }, toggles, copy), body, shortened);
}

/** Lines of formatted JSON. Its line breaks are layout: those of texts are escapes. */
function lines(text) {
  const all = text.slice(0, MOST_SHOWN).split("\n");
  return all.flatMap((line, index) => (index ? [document.createTextNode("\n"), line] : [line]));
}

function part(title, ...children) {
  return make("section", { class: "part" }, make("h3", {}, title), children);
}

function definitions(rows) {
  if (!rows.length) return null;
  return make("dl", {}, rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value instanceof Node || Array.isArray(value) ? value : foreign(value)))));
}

function code(value) {
  return value === null || value === undefined ? null : make("code", {}, foreign(plain(value)));
}

function plain(value) {
  if (value === undefined) return "(missing)";
  // These line breaks are layout: those of texts are escapes in JSON.
  return typeof value === "string" ? value : pretty(value).replace(/\n */g, " ");
}

function words(name) {
  return (name.charAt(0).toUpperCase() + name.slice(1)).replaceAll("_", " ");
}

function button(label, action, attributes = {}) {
  const element = make("button", { type: "button", ...attributes }, label);
  element.addEventListener("click", action);
  return element;
}
