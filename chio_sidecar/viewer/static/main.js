// The page's start: signing in, filters, and the address (`#id`) of the opened receipt.

import { get, Refused, save, token } from "./api.js";
import { byId } from "./dom.js";
import { Detail } from "./detail.js";
import { ReceiptList } from "./list.js";

const TYPING = 150; // milliseconds without a keystroke before a filter applies

const list = new ReceiptList({ failed });
const detail = new Detail({ failed, closed: leave, filter: narrow });

async function start() {
  try {
    const status = await get("status");
    byId("store").textContent = status.store;
    document.title = `${status.store} – Chio receipts`;
  } catch (error) {
    failed(error);
    return;
  }
  byId("sign-in").hidden = true;
  for (const id of ["main", "live", "download"]) byId(id).hidden = false;
  byId("sign-out").hidden = token.get() === null;
  const loaded = list.load(filters());
  follow();
  await loaded;
}

/** Show an error; null removes it. */
function failed(error) {
  const notice = byId("notice");
  notice.hidden = error === null || (error instanceof Refused && error.signIn);
  notice.textContent = error === null ? "" : `${capital(error.message)}.`;
  if (error instanceof Refused && error.signIn) requestToken();
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
  return { ...chosen, since: seconds(chosen.since), until: seconds(chosen.until) };
}

function seconds(text) {
  const time = new Date(text).getTime(); // field and text are in local time
  return Number.isNaN(time) ? null : Math.max(0, Math.floor(time / 1000));
}

function filtersChanged() {
  const chosen = filters();
  byId("clear").disabled = !Object.values(chosen).some((value) => value !== null && value !== "");
  list.load(chosen);
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

byId("live").addEventListener("click", () => {
  list.setLive(!list.live);
  byId("live").setAttribute("aria-pressed", String(list.live));
  byId("live").textContent = list.live ? "Live" : "Paused";
});

byId("download").addEventListener("click", async () => {
  try {
    await save("bundle", list.filters, "chio-receipts.json");
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
  if (!id || id === "list") return closeDetail();
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
  history.pushState(null, "", location.pathname);
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
