// How it looks: at three widths, light and dark, and to those who do not see it.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { before, test } from "node:test";

import { AXE, open, row, stage, until } from "./support.mjs";

const pictures = process.env.PAGE_PICTURES;
/** A phone, a tablet and a desk; contrasts do not depend on the width, so that two of them are enough in dark. */
const LOOKS = [[360, "light"], [768, "light"], [1280, "light"], [360, "dark"], [1280, "dark"]];

let address;

before(async () => {
  mkdirSync(pictures, { recursive: true });
  const scene = await stage();
  ({ address } = await scene.served("--allow-break"));
  const actors = scene.actors();
  const holds = ["4711 nightly-report reports/nightly", "4712 importer warehouse/orders", "4713 exporter warehouse/stock",
    "4714 deploy deploy/production", "4715 mailer mail/outbox", "4716 migrate database/migrations"];
  for (const line of holds) {
    actors.write(line);
    await actors.says(`held ${line.split(" ")[2]}`);
  }
  const waits = ["4712 importer warehouse/stock", "4713 exporter warehouse/orders", "4720 deploy deploy/production",
    "4721 hotfix deploy/production", "4722 nightly-report reports/nightly"];
  for (const line of waits) actors.write(line);
  const reader = scene.run("cache/images", "thumbnails", "--permits", "2/5");
  await reader.says("ready");
});

/** What axe finds that is serious or worse. */
async function findings(page) {
  await page.evaluate(readFileSync(AXE, "utf8"));
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return violations.filter(({ impact }) => ["serious", "critical", "moderate"].includes(impact))
    .map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.html).join(" ")}`);
}

/** That nothing is cut at the right edge, and nothing lies on something else. */
async function fits(page, what) {
  const wide = await page.evaluate(() => {
    const outside = (node) => {
      const box = node.getBoundingClientRect();
      return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
    };
    const nodes = [...document.querySelectorAll("header *, main *, footer *, dialog[open] *, #banner")];
    const isHidden = (node) => node.closest(".hidden, [hidden], .skip, .wide");
    return nodes.filter((node) => !isHidden(node) && outside(node)).map((node) => node.outerHTML.slice(0, 120));
  });
  assert.deepEqual(wide, [], `${what} is wider than the window`);
  const cut = await page.$$eval("#locks th", (heads) => heads
    .filter((head) => head.offsetWidth > 0 && head.scrollWidth > head.clientWidth).map((head) => head.textContent));
  assert.deepEqual(cut, [], "headings are cut");
}

const shot = (page, name) => page.screenshot({ path: path.join(pictures, `${name}.png`) });

for (const [width, colorScheme] of LOOKS) {
  test(`at ${width} pixels, ${colorScheme}, everything fits and axe has no finding`, async () => {
    const page = await open(address, { viewport: { width, height: 640 }, colorScheme });
    await row(page, "warehouse/stock").getByText("deadlock").waitFor();
    await until(page, () => document.querySelectorAll("tr[data-name]").length === 7);
    await fits(page, "the list");
    assert.deepEqual(await findings(page), []);
    await shot(page, `serve-list-${width}-${colorScheme}`);
    await row(page, "deploy/production").locator("a").click();
    await until(page, () => document.querySelectorAll("#lock tbody tr").length === 3);
    await fits(page, "a lock");
    assert.deepEqual(await findings(page), []);
    await shot(page, `serve-lock-${width}-${colorScheme}`);
    await page.locator("#lock tbody button").first().click();
    await fits(page, "the dialog");
    assert.deepEqual(await findings(page), []);
    await shot(page, `serve-break-${width}-${colorScheme}`);
    await page.keyboard.press("Escape");
    await page.goto(`${address}#/waits`);
    await page.locator(".deadlock").waitFor();
    await fits(page, "the waits");
    assert.deepEqual(await findings(page), []);
    await shot(page, `serve-waits-${width}-${colorScheme}`);
    page.fine();
    await page.context().close();
  });
}
