// Verifies a receipt, or the record of its erasure, in the browser from its exact text: Ed25519 over the canonical bytes of all members but the
// signature (wire protocol, sections 3.1 and 3.6).

import { canonical, parse } from "./canonical.js";
import { oddMember } from "./shape.js";

const OPTIONAL = ["session_id", "capability_id", "metadata", "observation_outcome"];
const OMIT_EMPTY = ["evidence", "actor_chain"];
const ERASURE = "chio-receipt-erasure/1";
const NEWER = { receipt_kind: "mediated_decision", boundary_class: "prevent", trust_level: "mediated" };

// Points of small order: a signature under such a key proves nothing. The highest bit is the sign and does not count.
const SMALL_ORDER = new Set([
  "00".repeat(32),
  `01${"00".repeat(31)}`,
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
  `ec${"ff".repeat(30)}7f`,
]);

/**
 * Verify the text of a receipt.
 * Returns `state` (valid, invalid, or unavailable if this browser cannot verify), `key` and `reason`.
 */
export async function verify(text) {
  let receipt;
  try {
    receipt = parse(text);
  } catch (error) {
    return invalid(`the text is no receipt: ${error.message}`);
  }
  if (!(receipt instanceof Map)) return invalid("the text is no JSON object");
  const odd = isErasure(receipt) ? null : oddMember(receipt);
  if (odd !== null) return invalid(`the text is no receipt: ${odd} is missing or of another type`);
  if (!globalThis.crypto?.subtle) {
    return unavailable("browsers verify only on pages from https:// or from this machine");
  }
  try {
    return await verifyParsed(receipt);
  } catch (error) {
    return invalid(`the receipt cannot be verified: ${error.message}`);
  }
}

/** Return true for the record in the place of an erased receipt, genuine or not. */
export function isErasure(receipt) {
  return receipt.get("format") === ERASURE;
}

async function verifyParsed(receipt) {
  const problem = receipt.has("receipt_kind") ? await newerProblem(receipt) : null;
  if (problem) return invalid(problem);
  const name = receipt.get("kernel_key");
  const key = keyBytes(name);
  const signature = hexBytes(receipt.get("signature"), 64);
  if (key === null) return invalid("kernel_key is no Ed25519 key");
  if (signature === null || isWeak(signature.subarray(0, 32))) return invalid("the signature does not verify");
  let imported;
  try {
    imported = await crypto.subtle.importKey("raw", key, "Ed25519", false, ["verify"]);
  } catch (error) {
    if (error.name === "NotSupportedError") return unavailable("this browser does not know Ed25519");
    return invalid("kernel_key is no Ed25519 key");
  }
  const good = await crypto.subtle.verify("Ed25519", imported, signature, signedBytes(receipt));
  return good ? { state: "valid", key: name, reason: null } : invalid("the signature does not verify");
}

/** Return the bytes that a signature covers. */
export function signedBytes(receipt) {
  const body = new Map(receipt);
  body.delete("signature");
  for (const name of [...OPTIONAL, ...OMIT_EMPTY]) if (body.get(name) === null) body.delete(name);
  for (const name of OMIT_EMPTY) if (Array.isArray(body.get(name)) && !body.get(name).length) body.delete(name);
  const verdict = body.get("verdict");
  if (verdict instanceof Map && verdict.has("outcome") && verdict.get("outcome") === verdict.get("verdict")) {
    const without = new Map(verdict); // listings add this; it is never signed
    without.delete("outcome");
    body.set("verdict", without);
  }
  return new TextEncoder().encode(canonical(body));
}

async function newerProblem(receipt) {
  for (const [name, value] of Object.entries(NEWER)) {
    if (receipt.get(name) !== value) return `${name} must be ${value}`;
  }
  if ((receipt.get("observation_outcome") ?? null) !== null) return "an observation is not a decision";
  const body = new Map(receipt);
  body.delete("id");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", signedBytes(body)));
  return hex(digest) === receipt.get("id") ? null : "the receipt id is not the hash of the receipt";
}

function keyBytes(text) {
  if (typeof text !== "string") return null;
  const key = hexBytes(text.trim().replace(/^0x/, "").toLowerCase(), 32);
  return key === null || isWeak(key) ? null : key;
}

function isWeak(point) {
  const plain = new Uint8Array(point);
  plain[31] &= 0x7f;
  const canonicalPoint = plain[31] !== 0x7f || plain[0] < 0xed || plain.subarray(1, 31).some((byte) => byte !== 0xff);
  return !canonicalPoint || SMALL_ORDER.has(hex(plain));
}

function hexBytes(text, length) {
  if (typeof text !== "string" || text.length !== 2 * length || !/^[0-9a-f]*$/.test(text)) return null;
  return Uint8Array.from({ length }, (_, index) => Number.parseInt(text.slice(2 * index, 2 * index + 2), 16));
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function invalid(reason) {
  return { state: "invalid", key: null, reason };
}

function unavailable(reason) {
  return { state: "unavailable", key: null, reason };
}
