// Opens the page with each picture's dashboard and its answers, and takes a picture of it.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { chromium } from "playwright-core";
import UPNG from "upng-js";

const [folder] = process.argv.slice(2);
// As on a screen of 1440 pixels, drawn 1200 pixels wide.
const WIDTH = 1440;
const SCALE = 1200 / WIDTH;
// Enough for lines on one ground, at half of the bytes.
const COLOURS = 128;
const PATIENCE = 60_000;
const PAGE = '<!doctype html><meta charset="utf-8"><body><div id="root"></div></body>';

mkdirSync(`${folder}/pictures`, { recursive: true });
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
const drawn = [];
for (const { name, ...given } of JSON.parse(readFileSync(`${folder}/pictures.json`, "utf8"))) {
  const page = await browser.newPage({ viewport: { width: WIDTH, height: 900 }, deviceScaleFactor: SCALE });
  const troubles = [];
  const broken = new Promise((done) => page.on("pageerror", (error) => done(troubles.push(error.stack))));
  // An address, since Grafana's components keep settings in the browser; nothing is fetched from there.
  await page.route("**/*", (route) => route.fulfill({ contentType: "text/html", body: PAGE }));
  await page.goto("http://dashboards.invalid/");
  await page.addStyleTag({ path: "page.css" });
  await page.evaluate((given) => (window.given = given), given);
  await page.addScriptTag({ path: "page.js", type: "module" });
  const drawing = page.waitForFunction(() => window.isDrawn, null, { timeout: PATIENCE });
  await Promise.race([drawing, broken]).catch((error) => troubles.push(error.message));
  const failed = await page.evaluate(() => window.failed ?? []);
  if (troubles.length + failed.length > 0) {
    console.error(`${name}: ${[...failed, ...troubles].slice(0, 5).join("\n")}`);
    process.exit(1);
  }
  const picture = UPNG.decode(await page.locator("#root").screenshot());
  const small = UPNG.encode(UPNG.toRGBA8(picture), picture.width, picture.height, COLOURS);
  writeFileSync(`${folder}/pictures/${name}.png`, Buffer.from(small));
  drawn.push(`${name}.png`);
}
await browser.close();
console.log(`${drawn.join(", ")} in ${folder}/pictures`);
