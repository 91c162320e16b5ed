// Reports the errors that the npm package `belvo` gets to relink: node report_sdk_errors.mjs BELVO_URL RELINK_URL TOKEN LINK_ID
//
// Copy the function `reportErrors`, and call it once. An error of the package has neither the method nor the path of the
// request, and relink needs both. So the function is an interceptor of axios, the library that the package uses.
// It needs `npm install belvo`.

import { createRequire } from "node:module";

const { default: Client } = createRequire(import.meta.url)("belvo");

/** From now on, relink gets every error that Belvo answers to this client. */
function reportErrors(client, relinkUrl, token) {
  client.session.session.interceptors.response.use(undefined, async (error) => {
    if (error.response) {
      const { status: http_status, data: body, config } = error.response;
      const link_id = JSON.parse(config.data || "{}").link;
      const report = { http_status, method: config.method, path: error.request.path, link_id, body };
      await fetch(`${relinkUrl}/v1/api-errors`, {
        method: "POST",
        headers: { Authorization: `Bearer ${token}` },
        body: JSON.stringify(report),
        signal: AbortSignal.timeout(2000),
      }).catch((problem) => console.error(`relink did not get an error of Belvo: ${problem.name}`));
    }
    throw error;
  });
}

const [belvoUrl, relinkUrl, token, linkId] = process.argv.slice(2);
const client = new Client("sandbox", "sandbox", belvoUrl);
await client.connect();
reportErrors(client, relinkUrl, token);
// Your program, unchanged.
await client.accounts.retrieve(linkId).catch((error) => console.log(JSON.stringify(error.detail)));
