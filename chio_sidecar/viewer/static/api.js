// Requests to the sidecar. A control token is kept for this tab only and sent with each request.

const TOKEN = "chio-control-token";

export class Refused extends Error {
  constructor(message, signIn) {
    super(message);
    this.signIn = signIn;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (text) => sessionStorage.setItem(TOKEN, text),
  forget: () => sessionStorage.removeItem(TOKEN),
};

/** Fetch a JSON document. */
export async function get(name, query = {}, signal = undefined) {
  return (await request(name, query, signal)).json();
}

/** Fetch a file and let the browser save it; return what the file leaves out, or null. */
export async function save(name, query, filename) {
  const link = document.createElement("a");
  const response = await request(name, query);
  link.href = URL.createObjectURL(await response.blob());
  link.download = filename;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return response.headers.get("x-chio-left-out");
}

async function request(name, query, signal) {
  const text = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null && value !== ""));
  const headers = token.get() === null ? {} : { Authorization: `Bearer ${token.get()}` };
  let response;
  try {
    response = await fetch(`api/${name}?${text}`, { headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the sidecar does not answer");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const message = problem.message ?? `the sidecar answered ${response.status}`;
  throw response.status === 403 ? new Refused(message, problem.sign_in === true) : new Error(message);
}
