// What the page makes of what it is told, without a browser.

import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

// Beside the page there is nothing that says that its files are modules.
const copies = mkdtempSync(path.join(tmpdir(), "model-"));
after(() => rmSync(copies, { recursive: true, force: true }));
writeFileSync(path.join(copies, "package.json"), '{"type": "module"}');
const source = fileURLToPath(new URL("../../src/serve/page/", import.meta.url));
for (const file of ["model.js", "text.js"]) copyFileSync(path.join(source, file), path.join(copies, file));
const load = (file) => import(pathToFileURL(path.join(copies, file)));
const { Model } = await load("model.js");
const { duration, owner, shown } = await load("text.js");

const holder = (label, more = {}) => ({ claim: label, held: true, label, host: "db1", pid: 7, foreign: false,
  age_seconds: 10, lease_left_seconds: 9, ...more });
const row = (name, label, more = {}) => ({ name, mode: "mutex", holders: label ? 1 : 0, waiters: 0, stale: null,
  holder: label ? holder(label) : null, oldest_wait_seconds: null, ...more });
const message = (news, age = 0) => ({ look_age_seconds: age, complete_age_seconds: age,
  news: { number: 1, names: 1, failure: null, ...news } });

/** A page that knows these rows. */
function knowing(...rows) {
  const model = new Model();
  assert.deepEqual(model.apply(message({ rows, deadlocks: [], names: rows.length }), 0), []);
  return model;
}

const told = (model, news) => model.apply(message(news), 0).map(({ name, what }) => `${name} ${what}`);

test("what was there when the page was opened has not happened since, and the rest has", () => {
  const model = knowing(row("a", "one"), row("b", "two"));
  assert.deepEqual(told(model, { changed: [row("c", "three")], names: 3 }), ["c appeared, held by three (pid 7 on db1)"]);
  assert.deepEqual(told(model, { changed: [row("a", "two")] }),
    ["a changed hands from one (pid 7 on db1) to two (pid 7 on db1)"]);
  assert.deepEqual(told(model, { changed: [row("a", "two", { waiters: 1, stale: true })] }),
    ["a has 1 waiter, after 0", "a has a holder that gives no sign of life"]);
  assert.deepEqual(told(model, { changed: [row("a", null, { waiters: 1 })] }), ["a was let go of by two (pid 7 on db1)"]);
  assert.deepEqual(told(model, { changed: [row("a", "three", {})] }),
    ["a was granted to three (pid 7 on db1)", "a has 0 waiters, after 1"]);
  assert.deepEqual(told(model, { gone: ["a", "never seen"], names: 2 }), ["a is free: nobody holds or waits for it any more"]);
  assert.deepEqual(model.eventsOf("a").map(({ what }) => what).slice(0, 2),
    ["is free: nobody holds or waits for it any more", "has 0 waiters, after 1"]);
});

test("after a gap, what is told anew is compared with what was known", () => {
  const model = knowing(row("a", "one"), row("b", "two"));
  assert.deepEqual(told(model, { rows: [row("b", "two"), row("c", "three")], names: 2 }),
    ["c appeared, held by three (pid 7 on db1)", "a is free: nobody holds or waits for it any more"]);
  assert.deepEqual([...model.locks.keys()], ["b", "c"]);
});

test("before the store has told all, nothing has happened", () => {
  const model = new Model();
  const nothing = { look_age_seconds: 1, complete_age_seconds: null, news: { number: 1, names: 0, failure: "away", rows: [] } };
  assert.deepEqual(model.apply(nothing, 0), []);
  assert.equal(model.isKnown, false);
  assert.deepEqual(model.apply(message({ rows: [row("a", "one")] }), 0), []);
});

test("only so many events are kept, the newest", () => {
  const model = knowing();
  for (let number = 0; number < 5000; number += 1) told(model, { changed: [row(`n${number}`, "one")], names: number });
  assert.equal(model.events.length, 2000);
  assert.equal(model.events.at(-1).name, "n4999");
});

test("times go on from when they were seen, and a renewal moves the lease alone", () => {
  const model = new Model();
  model.apply(message({ rows: [row("a", "one", { oldest_wait_seconds: 3 })] }, 2), 10000);
  const times = (now) => model.times(model.locks.get("a"), now);
  assert.deepEqual(times(10000), { age: 12, lease: 7, wait: 5 });
  assert.deepEqual(times(30000), { age: 32, lease: 0, wait: 25 });
  model.apply(message({ renewed: { a: 9, "not known": 9 } }, 1), 14000);
  assert.deepEqual(times(14000), { age: 16, lease: 8, wait: 9 });
});

test("times and texts are for people", () => {
  const times = [[null, ""], [0.9, "0s"], [59, "59s"], [61, "1m 01s"], [3600, "1h 00m"], [90000, "1d 01h"], [-5, "0s"]];
  for (const [seconds, text] of times) assert.equal(duration(seconds), text);
  assert.equal(shown("a\u202eb\n\u200b\u{1b}[2J"), "a\\u{202e}b\\u{a}\\u{200b}\\u{1b}[2J");
  assert.equal(shown("日本語 é 🔒"), "日本語 é 🔒");
  assert.equal(owner(holder("x", { label: null, host: null })), "pid 7");
  assert.equal(owner(holder("x", { label: null, host: null, pid: null, foreign: true })), "another program");
});
