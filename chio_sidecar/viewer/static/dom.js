// Elements made from text. Nothing on this page is made by parsing markup: strangers write the content of receipts.
// Invisible characters, and those that change the direction of the text around them, are shown as escapes.

const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{e0000}-\u{e0fff}\p{Cs}]/gu;

export function byId(id) {
  return document.getElementById(id);
}

/** Make an element; a text among the children is shown by `visible`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  append(element, ...children);
  return element;
}

export function append(parent, ...children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : visible(String(child)));
  }
}

/** Return the text with each invisible character as an element that shows its escape. */
export function visible(text) {
  const fragment = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > end) fragment.append(text.slice(end, match.index));
    const mark = document.createElement("span");
    mark.className = "unseen-character";
    mark.textContent = escaped(match[0]);
    fragment.append(mark);
    end = match.index + match[0].length;
  }
  if (end < text.length) fragment.append(text.slice(end));
  return fragment;
}

function escaped(character) {
  return [...Array(character.length).keys()]
    .map((index) => "\\u" + character.charCodeAt(index).toString(16).padStart(4, "0"))
    .join("");
}

/** A stranger's text: isolated, so that it cannot reorder its surroundings, and left to right like paths and ids. */
export function foreign(text, attributes = {}) {
  return make("bdi", { dir: "ltr", ...attributes }, text);
}

/** The same for sentences, in the direction of their language. */
export function prose(text) {
  return foreign(text, { dir: "auto" });
}

export function shortened(text, length = 12) {
  return text.length > length + 1 ? `${text.slice(0, length)}…` : text;
}

let utc = false;

/** Show every time of the page in UTC, or in local time. */
export function setZone(name) {
  utc = name === "utc";
  for (const element of document.querySelectorAll("time")) element.textContent = local(new Date(element.dateTime));
}

/** The value of a field of date and time for whole seconds since 1970, in the zone of the page. */
export function fieldTime(seconds) {
  const date = new Date(Number(seconds) * 1000);
  return Number.isNaN(date.getTime()) ? "" : local(date).replace(" ", "T");
}

/** Whole seconds since 1970 for the value of such a field; null for none. */
export function fieldSeconds(text) {
  const time = new Date(utc && text ? `${text}Z` : text).getTime();
  return Number.isNaN(time) ? null : Math.max(0, Math.floor(time / 1000));
}

/** A <time> for whole seconds since 1970, or the number itself if it is no date. */
export function moment(seconds) {
  const date = new Date(Number(seconds) * 1000);
  if (Number.isNaN(date.getTime())) return make("span", {}, String(seconds));
  return make("time", { datetime: date.toISOString(), title: date.toISOString() }, local(date));
}

function local(date) {
  if (utc) return date.toISOString().slice(0, 19).replace("T", " ");
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

const SIGNS = { allow: "✓", deny: "✕", cancel: "–", incomplete: "…", erased: "∅" };

/** A badge for a verdict; its sign and its word say the same as its colour. */
export function badge(verdict) {
  const known = Object.hasOwn(SIGNS, verdict);
  return make(
    "span",
    { class: `badge ${known ? verdict : "unknown"}` },
    make("span", { "aria-hidden": "true" }, known ? SIGNS[verdict] : "?"),
    foreign(verdict),
  );
}

export function count(number) {
  return Number(number).toLocaleString("en-GB");
}
