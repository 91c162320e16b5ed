// Reports the errors that the npm package `belvo` gets to relink: node report_sdk_errors.mjs BELVO_URL RELINK_URL TOKEN LINK_ID
//
// Copy the function `reportErrors`, and call it once. An error of the package has neither the method nor the path of the
// request, and relink needs both. So the function is an interceptor of axios, the library that the package uses.
// It needs `npm install belvo`.
//
// A report never delays and never breaks a call of your program: nothing waits for it. If relink is away, or too slow for the
// errors, standard error has a line, and relink finds the link with its next sweep.

import { createRequire } from "node:module";

const { default: Client } = createRequire(import.meta.url)("belvo");

/** From now on, relink gets every error that Belvo answers to this client. */
function reportErrors(client, relinkUrl, token) {
  let open = 0;
  const send = async ({ response, request, config }) => {
    if (open >= 8) throw new Error("too many reports wait");
    open += 1;
    // AbortSignal.timeout does not keep the program running, so the end of the program could lose the report without a word.
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(new Error("no answer in 2 s")), 2000);
    try {
      const { status: http_status, data: body } = response;
      const report = { http_status, method: config.method, path: request.path, link_id: linkOf(config.data), body };
      const answer = await fetch(`${relinkUrl}/v1/api-errors`, {
        method: "POST",
        headers: { Authorization: `Bearer ${token}` },
        body: JSON.stringify(report),
        signal: limit.signal,
      });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
    } finally {
      clearTimeout(timer);
      open -= 1;
    }
  };
  client.session.session.interceptors.response.use(undefined, (error) => {
    if (error.response) {
      send(error).catch((problem) => console.error(`relink did not get an error of Belvo: ${problem.message}`));
    }
    return Promise.reject(error);
  });
}

/** The link in the body of a request; relink also looks into the path and the answer. */
function linkOf(sent) {
  try {
    return JSON.parse(sent).link;
  } catch {
    return undefined;
  }
}

const [belvoUrl, relinkUrl, token, linkId] = process.argv.slice(2);
const client = new Client("sandbox", "sandbox", belvoUrl);
await client.connect();
reportErrors(client, relinkUrl, token);
// Your program, unchanged.
await client.accounts.retrieve(linkId).catch((error) => console.log(JSON.stringify(error.detail)));
