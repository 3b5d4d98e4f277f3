// The members of a receipt and their types (wire protocol, sections 1.3, 1.4 and 3.1). The sidecar refuses other shapes
// too, whatever their signature.

const isText = (value) => typeof value === "string";
const isFlag = (value) => typeof value === "boolean";
const isObject = (value) => value instanceof Map;
const upTo = (most) => (value) => typeof value === "bigint" && value >= 0n && value <= most;
const optional = (fits) => (value) => value === undefined || value === null || fits(value);
const listOf = (fits) => (value) => Array.isArray(value) && value.every(fits);
const objectOf = (members) => (value) => isObject(value) && oddMember(value, members) === null;

const EVIDENCE = { guard_name: isText, verdict: isFlag, details: optional(isText) };
const VERDICT = {
  verdict: isText,
  reason: optional(isText),
  guard: optional(isText),
  http_status: optional(upTo(0xffffn)),
  details: (value) => value === undefined || isObject(value),
};
const RECEIPT = {
  id: isText,
  request_id: isText,
  route_pattern: isText,
  method: isText,
  caller_identity_hash: isText,
  session_id: optional(isText),
  verdict: objectOf(VERDICT),
  receipt_kind: optional(isText),
  boundary_class: optional(isText),
  observation_outcome: optional(isText),
  tool_origin: optional(isText),
  redaction_mode: optional(isText),
  actor_chain: optional(listOf(isObject)),
  evidence: optional(listOf(objectOf(EVIDENCE))),
  response_status: upTo(0xffffn),
  timestamp: upTo(2n ** 64n - 1n),
  content_hash: isText,
  policy_hash: isText,
  trust_level: optional(isText),
  capability_id: optional(isText),
  kernel_key: isText,
  signature: isText,
};

/** Return the name of a member that is missing or of a wrong type; null for a well-formed receipt. */
export function oddMember(object, members = RECEIPT) {
  return Object.keys(members).find((name) => !members[name](object.get(name))) ?? null;
}
