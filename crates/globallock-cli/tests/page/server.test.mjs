// A server or a store that goes away and comes back, and a server that asks for a password.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";

import { freePort, open, row, stage, startRedis, until } from "./support.mjs";

test("a server that is gone is told, and when it is back the page shows what is", async () => {
  const scene = await stage();
  const listen = ["--listen", `127.0.0.1:${await freePort()}`];
  const first = scene.serve(...listen);
  const address = await first.says("http://");
  const kept = scene.run("kept", "kept");
  const gone = scene.run("gone", "gone");
  await kept.says("ready");
  await gone.says("ready");
  const page = await open(address);
  await row(page, "gone").waitFor();
  await page.getByText("Live", { exact: true }).waitFor();
  assert.equal(await first.kill("SIGTERM"), 0);
  await page.getByText("The server does not answer").waitFor();
  await page.getByText("Server gone").waitFor();
  await row(page, "kept").waitFor();
  await gone.end();
  const later = scene.run("later", "later");
  await later.says("ready");
  // The next one has another token and other numbers.
  const second = scene.serve("--allow-break", ...listen);
  await second.says("http://");
  await row(page, "later").waitFor();
  await row(page, "gone").waitFor({ state: "detached" });
  await page.getByText("Live", { exact: true }).waitFor();
  await page.getByText("The server does not answer").waitFor({ state: "hidden" });
  await row(page, "kept").locator("a").click();
  await page.getByRole("button", { name: "Break the claim of kept" }).click();
  await page.keyboard.type("kept");
  await page.keyboard.press("Enter");
  await page.getByText("Broken:").waitFor();
  page.fine();
  await page.context().close();
});

test("a store that is gone is told, with how old the rows are, and comes back", async () => {
  const scene = await stage();
  const { address } = await scene.served("--timeout", "1s");
  const actors = scene.actors();
  actors.write("1 keeper a");
  await actors.says("held a");
  const page = await open(address);
  await row(page, "a").waitFor();
  await scene.redis.kill();
  await page.getByText("Store failing").waitFor();
  const banner = await page.locator("#banner-text").textContent();
  assert.match(banner, /The store does not tell all: .*unavailable.*What is shown is \d+s old\./);
  await row(page, "a").waitFor();
  await startRedis(scene.port);
  await page.getByText("Live", { exact: true }).waitFor();
  await page.locator("#banner").waitFor({ state: "hidden" });
  await until(page, () => document.querySelectorAll("tr[data-name]").length <= 1);
  page.fine();
  await page.context().close();
});

test("with a password, the page and its events are for those who have it", async () => {
  const scene = await stage();
  const users = path.join(tmpdir(), `users-${process.pid}`);
  writeFileSync(users, "bob:correct horse battery\n", { mode: 0o600 });
  const { address } = await scene.served("--auth-file", users, "--allow-break");
  const held = scene.run("a", "held");
  await held.says("ready");
  const httpCredentials = { username: "bob", password: "correct horse battery" };
  const page = await open(address, { httpCredentials });
  await row(page, "a").locator("a").click();
  await page.getByRole("button", { name: "Break the claim of held" }).click();
  await page.keyboard.type("a");
  await page.keyboard.press("Enter");
  await held.says("it was broken by bob (pid ");
  page.fine();
  await page.context().close();
  const stranger = await open("", {});
  const answer = await stranger.context().request.get(address);
  assert.equal(answer.status(), 401);
  await stranger.context().close();
});
