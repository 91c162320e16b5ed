// Draws a Grafana dashboard on the data of a Prometheus: node draw.mjs DASHBOARD.json PROMETHEUS PICTURE.png [FROM]
//
// The exit status is 1 if Prometheus refuses a query of a panel. Panels without data are reported. CHROMIUM is the browser.
import { existsSync, readFileSync } from "node:fs";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const [file, prometheus, picture, from] = process.argv.slice(2);
const dashboard = JSON.parse(readFileSync(file, "utf8"));
const targets = await (await fetch(`${prometheus}/api/v1/status/config`)).json();
const scrape = targets.data.yaml.match(/scrape_interval: (\S+)/)[1];
const input = { dashboard, from: from ?? dashboard.time.from, scrape };
const modules = new URL("node_modules/", import.meta.url).pathname;
const bundle = await build({
  entryPoints: [new URL("page.tsx", import.meta.url).pathname], bundle: true, write: false, format: "iife", jsx: "automatic", minify: true,
  outdir: "out", logLevel: "error", define: { "process.env.NODE_ENV": '"production"', global: "window" },
  loader: { ".svg": "dataurl", ".css": "css", ".ttf": "dataurl", ".woff2": "dataurl" },
});
const output = (end) => bundle.outputFiles.find((file) => file.path.endsWith(end)).text;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
const page = await browser.newPage({ viewport: { width: 1600, height: 900 }, colorScheme: "dark" });
page.on("pageerror", (error) => console.error(`page: ${error.message}`));
page.on("console", (message) => message.type() === "error" && console.error(`page: ${message.text()}`));
await page.route("http://dashboard.invalid/**", async (route) => {
  const { pathname, search } = new URL(route.request().url());
  if (pathname.startsWith("/api/")) return route.fulfill({ response: await route.fetch({ url: prometheus + pathname + search }) });
  const icon = pathname.match(/img\/icons\/(.*\.svg)$/), font = pathname.match(/Inter-(Regular|Medium)\.woff2$/);
  if (pathname === "/") return route.fulfill({ contentType: "text/html", body: `<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="/page.css"><div id="root"></div><script>window.input = ${JSON.stringify(input).replaceAll("<", "\\u003c")}</script><script src="/page.js"></script>` });
  if (pathname === "/page.js") return route.fulfill({ contentType: "text/javascript", body: output(".js") });
  if (pathname === "/page.css") return route.fulfill({ contentType: "text/css", body: output(".css") });
  if (icon && existsSync(`${modules}@grafana/ui/dist/public/img/icons/${icon[1]}`)) return route.fulfill({ path: `${modules}@grafana/ui/dist/public/img/icons/${icon[1]}` });
  if (font) return route.fulfill({ path: `${modules}@fontsource/inter/files/inter-latin-${font[1] === "Medium" ? 500 : 400}-normal.woff2` });
  console.error(`not in the packages: ${pathname}`);
  return route.fulfill({ status: 404, body: "" });
});
await page.goto("http://dashboard.invalid/");
await page.waitForFunction(() => window.report, null, { timeout: 60_000 });
const report = await page.evaluate(() => window.report);
await page.screenshot({ path: picture, fullPage: true });
await browser.close();
for (const line of report.empty) console.log(`no data: ${line}`);
for (const line of report.refused) console.log(`REFUSED: ${line}`);
if (report.error) console.log(report.error);
process.exit(report.error || report.refused.length ? 1 : 0);
