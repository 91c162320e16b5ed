// Calls relink's HTTP API. The token is in the sessionStorage of this tab and in the header of each call, and nowhere else.

const ROOT = new URL("../", import.meta.url);
const KEY = "relink.token";
const LIMIT_MS = 10_000;

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** Since when the data on the page is not newer, and why. */
export const freshness = { at: null, failure: null };

/** A call that did not succeed. `status` is 0 if no response came. */
export class Failed extends Error {
  constructor(status, title, detail, problem = {}) {
    super(detail || title);
    Object.assign(this, { status, title, problem });
  }
}

/** GET or, with a body, POST. The path is relative: "v1/links". */
export async function call(path, { parameters = {}, body, signal, withToken = true } = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(parameters)) if (value) url.searchParams.set(name, value);
  const headers = withToken ? { authorization: `Bearer ${token.get() ?? ""}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  const limit = AbortSignal.timeout(LIMIT_MS);
  let response, text;
  try {
    response = await fetch(url, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failed(0, "relink does not answer", "relink does not answer.");
  }
  let read = null;
  try {
    read = text ? JSON.parse(text) : null;
  } catch {
    throw new Failed(response.status, "unreadable response", `The response ${response.status} is not JSON; a proxy may have sent it.`);
  }
  if (!response.ok) throw new Failed(response.status, read?.title, read?.detail ?? `The response was ${response.status}.`, read ?? {});
  return { body: read, asOf: response.headers.get("relink-as-of") };
}

/** The encoded path of a link. */
export const linkPath = (id, rest = "") => `v1/links/${encodeURIComponent(id)}${rest}`;

/** The readiness of relink, which needs no token: `{ ready, reasons, journal }`. */
export async function readiness(signal) {
  try {
    const { body } = await call("readyz", { signal, withToken: false });
    return { ready: true, reasons: [], journal: body?.journal };
  } catch (error) {
    if (!(error instanceof Failed) || error.status !== 503) throw error;
    return { ready: false, reasons: error.problem.reasons ?? [error.message], journal: error.problem.journal };
  }
}
