// Looks at a page as people do: at three sizes, in both colour schemes, with axe-core, and by keyboard.
// node look.cjs MODULES CHROMIUM URL PICTURES NAME; prints what it found as JSON.
"use strict";
const [modules, chromium, url, pictures, name] = process.argv.slice(2);
const path = require("node:path");
const puppeteer = require(path.join(modules, "puppeteer-core"));
const SIZES = { phone: [390, 844], laptop: [1280, 800], wide: [1920, 1080] };

(async () => {
  const browser = await puppeteer.launch({ executablePath: chromium, headless: true, userDataDir: path.join(pictures, "chromium"),
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
  const found = { violations: [], overflow: [], checked: 0, errors: [] };
  const page = await browser.newPage();
  page.on("pageerror", (error) => found.errors.push(String(error)));
  // Only for axe-core, which is put in: the page itself may run nothing but its own script.
  await page.setBypassCSP(true);
  for (const [size, [width, height]] of Object.entries(SIZES)) {
    for (const scheme of ["light", "dark"]) {
      await page.setViewport({ width, height });
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.goto(url, { waitUntil: "load" });
      await page.waitForFunction(() => !document.getElementById("verdict").classList.contains("unknown"), { timeout: 30000 });
      const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      if (over > 0) found.overflow.push(`${size} ${scheme}: ${over} pixels`);
      await page.addScriptTag({ path: require.resolve(path.join(modules, "axe-core")) });
      const results = await page.evaluate(() => window.axe.run(document));
      found.checked += results.passes.length;
      for (const { id, help, nodes } of results.violations) found.violations.push(`${size} ${scheme}: ${id}: ${help}: ${nodes[0].html.slice(0, 200)}`);
      const shade = scheme === "dark" ? "-dark" : "";
      await page.screenshot({ path: path.join(pictures, `${name}-${size}${shade}.png`), fullPage: true });
    }
  }
  // A wide table on a phone is moved by keyboard, and stays where it is when the page asks again.
  const [width, height] = SIZES.phone;
  await page.setViewport({ width, height });
  found.scrolled = await page.evaluate(() => {
    const part = [...document.querySelectorAll(".wide")].find((one) => one.scrollWidth > one.clientWidth + 40);
    if (!part) return null;
    part.focus();
    return part.ariaLabel;
  });
  if (found.scrolled) {
    for (let at = 0; at < 3; at += 1) await page.keyboard.press("ArrowRight");
    const left = () => page.evaluate(() => (document.activeElement.classList.contains("wide") ? document.activeElement.scrollLeft : -1));
    await page.waitForFunction(() => document.activeElement.scrollLeft > 0, { timeout: 10000 });
    const asked = await page.evaluate(() => document.getElementById("asof").textContent);
    await page.waitForFunction((before) => document.getElementById("asof").textContent !== before, { timeout: 30000 }, asked);
    found.left = await left();
  }
  // What somebody has selected stays selected while the page asks again, and what did not change is left alone.
  const renewed = async () => {
    const asked = await page.evaluate(() => document.getElementById("asof").textContent);
    await page.waitForFunction((before) => document.getElementById("asof").textContent !== before, { timeout: 30000 }, asked);
  };
  found.selected = await page.evaluate(() => {
    const part = document.querySelector("#alarms .alarm p:last-child") || document.querySelector("#disk .body strong");
    window.getSelection().selectAllChildren(part);
    window.touched = 0;
    new MutationObserver((changes) => { window.touched += changes.length; }).observe(part.parentNode, { subtree: true, childList: true, characterData: true, attributes: true });
    return part.textContent;
  });
  await renewed();
  await renewed();
  found.kept = await page.evaluate(() => window.getSelection().toString());
  found.touched = await page.evaluate(() => window.touched);
  // Only what is worth a word is spoken: not everything that is new every two seconds.
  found.spoken = await page.evaluate(() => [...document.querySelectorAll("[aria-live]")].map((part) => part.id || part.parentNode.id));
  found.drawings = await page.evaluate(() => [...document.querySelectorAll("svg.strip, svg.chart")].map((drawing) => [drawing.querySelector("title").textContent, drawing.querySelector("desc").textContent]));
  await browser.close();
  console.log(JSON.stringify(found));
})().catch((error) => { console.error(error); process.exit(1); });
