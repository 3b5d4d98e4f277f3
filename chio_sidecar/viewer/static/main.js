// The page's start: signing in, and the address: the filters (`?verdict=deny`) and the opened receipt (`#id`).

import { get, Refused, save, token } from "./api.js";
import { byId, fieldSeconds, fieldTime, setZone } from "./dom.js";
import { Detail } from "./detail.js";
import { ReceiptList } from "./list.js";
import { TallyPanel } from "./tally.js";

const TYPING = 150; // milliseconds without a keystroke before a filter applies

const ZONE = "chio-zone";

const list = new ReceiptList({ failed: away, changed: () => tally.update(filters()) });
const detail = new Detail({ failed, closed: leave, filter: narrow });
const tally = new TallyPanel({ failed, filter: (route) => narrow("route", route) });

async function start() {
  clearTimeout(list.timer);
  try {
    const status = await get("status");
    byId("store").textContent = status.store;
    document.title = `${status.store} – Chio receipts`;
  } catch (error) {
    list.failures += 1;
    away(error, list.pause);
    if (!byId("away").hidden) list.timer = setTimeout(start, list.pause);
    return;
  }
  away(null);
  readAddress();
  byId("sign-in").hidden = true;
  for (const id of ["main", "live", "download"]) byId(id).hidden = false;
  byId("sign-out").hidden = token.get() === null;
  const loaded = list.load(filters());
  follow();
  await loaded;
}

/** Show an error until it is dismissed. */
function failed(error) {
  if (signedOut(error)) return;
  byId("problem-text").textContent = `${capital(error.message)}.`;
  byId("problem").hidden = false;
}

/** Show that the sidecar does not answer, and when it is tried again; null: it answers. */
function away(error, pause) {
  byId("away").hidden = error === null || signedOut(error);
  if (error === null) return;
  const next = list.live ? ` Next attempt in ${Math.round(pause / 1000)} s.` : "";
  byId("away-text").textContent = `${capital(error.message)}.${next}`;
}

function signedOut(error) {
  const out = error instanceof Refused && error.signIn;
  if (out) requestToken();
  return out;
}

function requestToken() {
  byId("sign-in-failed").hidden = token.get() === null;
  token.forget();
  list.reset();
  detail.close();
  for (const id of ["main", "live", "download", "sign-out"]) byId(id).hidden = true;
  byId("rows").replaceChildren();
  byId("store").textContent = "";
  byId("sign-in").hidden = false;
  byId("token").focus();
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = byId("token").value.trim();
  byId("token").value = "";
  if (!/^[\x21-\x7e]+$/.test(typed)) {
    byId("sign-in-failed").hidden = false;
    return;
  }
  token.set(typed);
  start();
});

byId("sign-out").addEventListener("click", () => {
  token.forget();
  leave();
  requestToken();
});

// Filters

function filters() {
  const form = new FormData(byId("filters"));
  const chosen = Object.fromEntries([...form].map(([name, value]) => [name, value.trim()]));
  return { ...chosen, since: fieldSeconds(chosen.since), until: fieldSeconds(chosen.until) };
}

function inUse(chosen) {
  return Object.entries(chosen).filter(([, value]) => value !== null && value !== "");
}

function filtersChanged() {
  const chosen = filters();
  byId("clear").disabled = !inUse(chosen).length;
  const query = new URLSearchParams(inUse(chosen)).toString();
  history.replaceState(null, "", `${location.pathname}${query && `?${query}`}${location.hash}`);
  list.load(chosen);
}

/** Fill the fields from the address, which a link or a reload has. */
function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const field of byId("filters").elements) {
    if (!field.name) continue;
    const value = query.get(field.name) ?? "";
    field.value = field.type === "datetime-local" ? (value && fieldTime(value)) : value;
  }
  byId("clear").disabled = !inUse(filters()).length;
}

function narrow(name, value) {
  if (matchMedia("(max-width: 1100px)").matches) leave(); // the receipt covers the list there
  byId("filters").reset();
  byId(`f-${name}`).value = value;
  filtersChanged();
}

let typing;
byId("filters").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(filtersChanged, TYPING);
});
byId("filters").addEventListener("reset", () => setTimeout(filtersChanged));
byId("filters").addEventListener("submit", (event) => event.preventDefault());

byId("zone").value = localStorage.getItem(ZONE) ?? "local";
setZone(byId("zone").value);
byId("zone").addEventListener("change", () => {
  const { since, until } = filters();
  localStorage.setItem(ZONE, byId("zone").value);
  setZone(byId("zone").value);
  for (const [name, value] of Object.entries({ since, until })) byId(`f-${name}`).value = value === null ? "" : fieldTime(value);
});

byId("dismiss").addEventListener("click", () => {
  byId("problem").hidden = true;
});
byId("retry").addEventListener("click", () => (byId("main").hidden ? start() : list.poll()));
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is for the opened receipt
  (byId("rows").querySelector("a") ?? byId("list")).focus();
});

byId("live").addEventListener("click", () => {
  list.setLive(!list.live);
  byId("live").setAttribute("aria-pressed", String(list.live));
  byId("live").textContent = list.live ? "Live" : "Paused";
});

byId("download").addEventListener("click", async () => {
  try {
    const leftOut = await save("bundle", list.filters, "chio-receipts.json");
    if (leftOut !== null) failed(new Error(`the file leaves out ${leftOut}; narrow the filters, or use chio-sidecar receipt export`));
  } catch (error) {
    failed(error);
  }
});

// The opened receipt

function follow() {
  let id = "";
  try {
    id = decodeURIComponent(location.hash.slice(1));
  } catch {
    // a malformed address opens nothing
  }
  if (!id) return closeDetail();
  list.select(id);
  return detail.open(id);
}

function closeDetail() {
  const row = byId("rows").querySelector("tr[aria-current] a");
  const inside = byId("detail").contains(document.activeElement);
  detail.close();
  list.select(null);
  if (inside) row?.focus({ preventScroll: true });
}

function leave() {
  closeDetail();
  history.pushState(null, "", location.pathname + location.search);
}

addEventListener("hashchange", follow);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && detail.id !== null) leave();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && list.live && !byId("main").hidden) list.setLive(true);
});

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

start();
