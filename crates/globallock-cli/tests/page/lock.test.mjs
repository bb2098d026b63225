// The page of one lock, breaking, and deadlocks.

import assert from "node:assert/strict";
import { test } from "node:test";

import { open, row, stage, until } from "./support.mjs";

test("a lock's page has its queue in order, and what has happened since it was opened", async () => {
  const scene = await stage();
  const { address } = await scene.served("--allow-break", "--as", "alice");
  const one = scene.run("deploy", "one");
  await one.says("ready");
  const page = await open(`${address}#/lock/deploy`);
  await page.getByText("Nothing has happened since this page was opened.").waitFor();
  const two = scene.run("deploy", "two");
  const places = (expected) => until(page, (text) => {
    const lines = [...document.querySelectorAll("#lock tbody tr")];
    const found = lines.map((line) => `${line.querySelector(".place").textContent} `
      + line.querySelector(".owner bdi").textContent.split(" ")[0]);
    return found.join() === text;
  }, expected);
  await places("holds one,1 two");
  const three = scene.run("deploy", "three");
  await places("holds one,1 two,2 three");
  await page.getByText("two (pid").first().waitFor();
  await one.end();
  await places("holds two,1 three");
  const history = () => page.locator(".history li").allTextContents();
  await until(page, () => document.querySelector(".history").textContent.includes("changed hands from one"));
  assert.ok((await history()).some((line) => line.includes("has 1 waiter, after 0")), (await history()).join("\n"));
  await three.kill("SIGTERM");
  await two.end();
  await page.getByText("Nobody holds or waits for it.").waitFor();
  await until(page, () => document.querySelector(".history").textContent.includes("is free"));
  page.fine();
  await page.context().close();
});

test("a claim is broken once its lock's name is typed, and its owner is told who did it and why", async () => {
  const scene = await stage();
  const { address } = await scene.served("--allow-break", "--as", "alice");
  const held = scene.run("import <b>", "stuck");
  await held.says("ready");
  const page = await open(address);
  await row(page, "import <b>").locator("a").click();
  await page.getByRole("button", { name: "Break the claim of stuck" }).click();
  const dialog = page.getByRole("dialog");
  const button = dialog.getByRole("button", { name: "Break", exact: true });
  assert.equal(await button.isDisabled(), true);
  await dialog.getByText("alice").waitFor();
  await page.keyboard.type("import <b");
  assert.equal(await button.isDisabled(), true);
  await page.keyboard.press("Enter");
  assert.equal(held.child.exitCode, null);
  await page.keyboard.type(">");
  assert.equal(await button.isDisabled(), false);
  await dialog.getByLabel("Reason, for its owner").fill("it hangs since noon");
  await button.click();
  await dialog.getByText("Broken: the claim is out of the queue, and its owner is told.").waitFor();
  const said = await held.says("is lost: it was broken by alice (pid ");
  assert.match(said, /: it hangs since noon; the command is told to end$/);
  assert.equal(await held.ended, 76);
  await page.keyboard.press("Enter");
  await dialog.waitFor({ state: "hidden" });
  await page.getByText("Nobody holds or waits for it.").waitFor();
  page.fine();
  await page.context().close();
});

test("a claim that has gone meanwhile is told, and the next holder is not hit", async () => {
  const scene = await stage();
  const { address } = await scene.served("--allow-break", "--as", "alice");
  const first = scene.run("backup", "first");
  await first.says("ready");
  const page = await open(`${address}#/lock/backup`);
  await page.getByRole("button", { name: "Break the claim of first" }).click();
  await first.end();
  const next = scene.run("backup", "next");
  await next.says("ready");
  await page.keyboard.type("backup");
  await page.keyboard.press("Enter");
  await page.getByText("That claim was not there any more. Nothing was changed.").waitFor();
  await page.keyboard.press("Escape");
  await page.locator("#lock").getByText("next (pid").first().waitFor();
  assert.equal(next.child.exitCode, null);
  await next.end();
  page.fine();
  await page.context().close();
});

test("a waiter that was granted the lock meanwhile is asked about once more", async () => {
  const scene = await stage();
  const { address } = await scene.served("--allow-break", "--as", "alice");
  const first = scene.run("backup", "first");
  await first.says("ready");
  const next = scene.run("backup", "next");
  const page = await open(`${address}#/lock/backup`);
  await page.getByRole("button", { name: "Break the claim of next" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("Waited for").waitFor();
  await first.end();
  await next.says("ready");
  await page.keyboard.type("backup");
  await page.keyboard.press("Enter");
  await dialog.getByText("It has been granted the lock since, and holds it now. Nothing was changed.").waitFor();
  await dialog.getByText("Held for").waitFor();
  assert.equal(await dialog.getByRole("button", { name: "Break", exact: true }).isDisabled(), true);
  assert.equal(next.child.exitCode, null);
  await page.keyboard.type("backup");
  await page.keyboard.press("Enter");
  await dialog.getByText("Broken: the claim is out of the queue, and its owner is told.").waitFor();
  assert.equal(await next.ended, 76);
  page.fine();
  await page.context().close();
});

test("what nobody knows is not said to be so or not", async () => {
  const scene = await stage();
  const { address } = await scene.served("--allow-break", "--as", "alice");
  const held = scene.run("backup", "first");
  await held.says("ready");
  const page = await open(`${address}#/lock/backup`);
  const answers = [
    [503, { outcome: "unknown", message: "it is away; look again" }, "Not known: it is away; look again"],
    [503, { outcome: "failed", message: "it is away; nothing was changed" }, "Not broken: it is away; nothing"],
    [503, {}, "Not known: 503"],
    [409, { error: "no" }, "Not broken: no"],
  ];
  for (const [status, json, expected] of answers) {
    await page.route("**/api/break", (route) => route.fulfill({ status, json }));
    await page.getByRole("button", { name: "Break the claim of first" }).click();
    await page.keyboard.type("backup");
    await page.keyboard.press("Enter");
    await page.getByText(expected).waitFor();
    await page.keyboard.press("Escape");
    await page.unroute("**/api/break");
  }
  await held.end();
  page.fine();
  await page.context().close();
});

test("a deadlock is marked in the list, and shown as a chain", async () => {
  const scene = await stage();
  const { address } = await scene.served("--allow-break", "--as", "alice");
  const actors = scene.actors();
  actors.write("1001 importer orders");
  await actors.says("held orders");
  actors.write("1002 exporter stock");
  await actors.says("held stock");
  actors.write("1001 importer stock");
  actors.write("1002 exporter orders");
  const page = await open(address);
  await row(page, "orders").getByText("deadlock").waitFor();
  await row(page, "stock").getByText("deadlock").waitFor();
  await page.getByText("1 deadlock", { exact: true }).waitFor();
  await page.getByRole("link", { name: /Waits/ }).click();
  const chain = page.getByRole("region", { name: "Deadlock" });
  await chain.getByText("which is where it began").waitFor();
  const steps = await chain.locator("li:not(.end)").allTextContents();
  assert.equal(steps.length, 2);
  assert.match(steps.join("\n"), /importer \(pid 1001 .*\) waits for stock, held by exporter \(pid 1002/);
  await chain.getByRole("link", { name: "stock" }).click();
  await page.locator("#lock").getByText("Deadlock of 2 owners").waitFor();
  await page.getByRole("button", { name: "Break the claim of importer" }).click();
  await page.keyboard.type("stock");
  await page.keyboard.press("Enter");
  await actors.says("failed stock");
  await page.keyboard.press("Escape");
  await page.locator("#lock .deadlock").waitFor({ state: "detached" });
  await page.keyboard.press("Escape");
  await row(page, "orders").getByText("deadlock").waitFor({ state: "detached" });
  await actors.end();
  page.fine();
  await page.context().close();
});
