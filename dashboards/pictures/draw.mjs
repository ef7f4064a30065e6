// Opens the page with each dashboard and its answers, and takes a picture of it.
import { mkdirSync, readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [folder, dashboards] = process.argv.slice(2);
// As on a screen of 1440 pixels, drawn 1200 pixels wide.
const WIDTH = 1440;
const SCALE = 1200 / WIDTH;
const PATIENCE = 60_000;

const data = JSON.parse(readFileSync(`${folder}/answers.json`, "utf8"));
const [first] = Object.keys(data.instances);
mkdirSync(`${folder}/pictures`, { recursive: true });
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
const drawn = [];
for (const name of ["overview", "throughput", "learning"]) {
  const page = await browser.newPage({ viewport: { width: WIDTH, height: 900 }, deviceScaleFactor: SCALE });
  const troubles = [];
  page.on("pageerror", (error) => troubles.push(error.message));
  await page.setContent('<!doctype html><meta charset="utf-8"><body><div id="root"></div></body>');
  const answers = data.answers
    .filter((answer) => answer.dashboard === name)
    .map(({ title, runs }) => ({ title, queries: runs[first] ?? Object.values(runs)[0] }));
  const dashboard = JSON.parse(readFileSync(`${dashboards}/${name}.json`, "utf8"));
  const variables = name === "overview" ? [["Run", "All"]] : [["Run", first], ["Instance", `127.0.0.1:${data.instances[first]}`]];
  await page.evaluate((given) => (window.given = given), { ...data, answers, dashboard, variables });
  await page.addScriptTag({ path: "page.js", type: "module" });
  await page.waitForFunction(() => window.isDrawn, null, { timeout: PATIENCE }).catch((error) => troubles.push(error.message));
  const failed = await page.evaluate(() => window.failed ?? []);
  if (troubles.length + failed.length > 0) {
    console.error(`${name}: ${[...failed, ...troubles].slice(0, 5).join("\n")}`);
    process.exit(1);
  }
  await page.locator("#root").screenshot({ path: `${folder}/pictures/${name}.png` });
  drawn.push(`${name}.png`);
}
await browser.close();
console.log(`${drawn.join(", ")} in ${folder}/pictures`);
