// Follows relink's events, so that the page loads its data again when something has happened. Without events the page still loads its
// data every few seconds.
import { token } from "./api.js";

const ROOT = new URL("../", import.meta.url);
const RETRY_MS = 10_000;

/** Calls `happened` after each message of relink, until `signal` is aborted. */
export async function follow(happened, signal) {
  let last = null;
  while (!signal.aborted) {
    try {
      last = await readEvents(last, happened, signal);
    } catch {
      // relink is away, has too many watchers, or the token may not read. The other calls of the page say so.
      if (!signal.aborted) await new Promise((done) => setTimeout(done, RETRY_MS));
    }
  }
}

/** Reads one answer; relink ends it after some time. Returns the id of the last event. */
async function readEvents(last, happened, signal) {
  const headers = { authorization: `Bearer ${token.get() ?? ""}` };
  if (last) headers["last-event-id"] = last;
  const url = new URL("v1/events?kind=state,notice,incident", ROOT);
  const response = await fetch(url, { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  // The stream was replaced, and its new one has not come so far: begin now.
  if (response.status === 400 && last) return undefined;
  if (!response.ok) throw new Error(`${response.status}`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("id:")) last = line.slice(3).trim();
    if (lines.some((line) => line.startsWith("data:"))) happened();
  }
  return last;
}
