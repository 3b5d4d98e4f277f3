// JSON as it is signed: read strictly, written by RFC 8785. Integers are BigInt, so each keeps all its digits, as the
// protocol requires for 64 bits; objects are Map, so that no member's name has a meaning in JavaScript.

const MOST_DEPTH = 128;
const LARGEST_EXACT = BigInt(Number.MAX_SAFE_INTEGER);
const SMALLEST_I64 = -(2n ** 63n);
const LARGEST_U64 = 2n ** 64n - 1n;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const BLANK = /[ \t\n\r]*/y;
const HALF_A_PAIR = /\p{Cs}/u;

/**
 * Parse a JSON text. Throws a SyntaxError also for what the protocol forbids: a member twice, too deep nesting, or a
 * number that no double can hold, which has no canonical form.
 */
export function parse(text) {
  const reader = { text, at: 0 };
  const value = readValue(reader, 0);
  skipBlank(reader);
  if (reader.at !== text.length) fail(reader);
  return value;
}

/** Return the canonical text. Throws a RangeError for a number that no double can hold. */
export function canonical(value) {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "bigint") return integer(value);
  if (typeof value === "number") return double(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  // Array.sort compares UTF-16 units, which is the order of RFC 8785.
  const members = [...value.keys()].sort().map((name) => `${JSON.stringify(name)}:${canonical(value.get(name))}`);
  return `{${members.join(",")}}`;
}

/** Return the value for people, indented; every number as it was read. */
export function pretty(value, indent = "") {
  const deeper = `${indent}  `;
  if (Array.isArray(value) && value.length) {
    return `[\n${value.map((item) => deeper + pretty(item, deeper)).join(",\n")}\n${indent}]`;
  }
  if (value instanceof Map && value.size) {
    const members = [...value].map(([name, item]) => `${deeper}${JSON.stringify(name)}: ${pretty(item, deeper)}`);
    return `{\n${members.join(",\n")}\n${indent}}`;
  }
  return typeof value === "bigint" ? value.toString() : canonical(value);
}

function integer(value) {
  const magnitude = value < 0n ? -value : value;
  if (magnitude <= LARGEST_EXACT || (value >= SMALLEST_I64 && value <= LARGEST_U64)) return value.toString();
  return double(Number(value));
}

function double(value) {
  if (!Number.isFinite(value)) throw new RangeError("a number is too large");
  return String(value); // RFC 8785 writes a number as ECMAScript does
}

function readValue(reader, depth) {
  skipBlank(reader);
  const first = reader.text[reader.at];
  if (first === "{") return readObject(reader, depth + 1);
  if (first === "[") return readArray(reader, depth + 1);
  if (first === '"') return readString(reader);
  for (const [word, value] of [["true", true], ["false", false], ["null", null]]) {
    if (reader.text.startsWith(word, reader.at)) {
      reader.at += word.length;
      return value;
    }
  }
  return readNumber(reader);
}

function readObject(reader, depth) {
  const found = new Map();
  readItems(reader, depth, "}", () => {
    skipBlank(reader);
    const name = readString(reader);
    if (found.has(name)) throw new SyntaxError(`member ${JSON.stringify(name.slice(0, 80))} occurs twice`);
    skipBlank(reader);
    expect(reader, ":");
    found.set(name, readValue(reader, depth));
  });
  return found;
}

function readArray(reader, depth) {
  const found = [];
  readItems(reader, depth, "]", () => found.push(readValue(reader, depth)));
  return found;
}

function readItems(reader, depth, end, readItem) {
  if (depth > MOST_DEPTH) throw new SyntaxError(`nested deeper than ${MOST_DEPTH} levels`);
  reader.at += 1;
  skipBlank(reader);
  if (reader.text[reader.at] === end) {
    reader.at += 1;
    return;
  }
  for (;;) {
    readItem();
    skipBlank(reader);
    if (reader.text[reader.at] === end) break;
    expect(reader, ",");
  }
  reader.at += 1;
}

function readString(reader) {
  const value = JSON.parse(match(reader, STRING)[0]);
  if (HALF_A_PAIR.test(value)) throw new SyntaxError("half of a surrogate pair");
  return value;
}

function readNumber(reader) {
  const [text, fraction, exponent] = match(reader, NUMBER);
  if (fraction === undefined && exponent === undefined) return BigInt(text);
  const value = Number(text);
  if (!Number.isFinite(value)) throw new SyntaxError("a number is too large");
  return value;
}

function match(reader, pattern) {
  pattern.lastIndex = reader.at;
  const found = pattern.exec(reader.text);
  if (found === null) fail(reader);
  reader.at = pattern.lastIndex;
  return found;
}

function skipBlank(reader) {
  BLANK.lastIndex = reader.at;
  BLANK.exec(reader.text);
  reader.at = BLANK.lastIndex;
}

function expect(reader, character) {
  if (reader.text[reader.at] !== character) fail(reader);
  reader.at += 1;
}

function fail(reader) {
  throw new SyntaxError(`not a JSON document at character ${reader.at}`);
}
