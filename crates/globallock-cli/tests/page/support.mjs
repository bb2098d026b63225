// What the tests of the page share: a store, a server, owners of locks, and a browser.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import readline from "node:readline";
import { after } from "node:test";

const { PAGE_TOOLS: tools, PAGE_PROGRAMS: programs, PAGE_BROWSER: browserPath } = process.env;
const require = createRequire(`${tools}/`);
const { chromium } = require("playwright-core");

export const AXE = require.resolve("axe-core/axe.min.js");

/** How long a test waits for what must happen, in milliseconds. */
export const LIMIT = 30000;

/** What is ended when all tests of a file have run, the newest first. */
const cleanups = [];
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
});

/** A program whose output is read line by line. It is killed at the end. */
export class Program {
  constructor(command, args, environment = {}) {
    this.lines = [];
    this.wanted = [];
    this.child = spawn(command, args, { env: { ...process.env, ...environment }, stdio: ["pipe", "pipe", "pipe"] });
    this.ended = new Promise((resolve) => this.child.on("exit", (code, signal) => resolve(code ?? signal)));
    for (const stream of [this.child.stdout, this.child.stderr]) {
      readline.createInterface({ input: stream }).on("line", (line) => {
        this.lines.push(line);
        this.wanted.forEach((check) => check());
      });
    }
    this.ended.then(() => this.wanted.forEach((check) => check()));
    cleanups.push(() => this.kill());
  }

  /** Waits for a line that contains this text. */
  says(text) {
    return new Promise((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error(`${text} is not said: ${this.lines.join("\n")}`)), LIMIT);
      const check = () => {
        const line = this.lines.find((said) => said.includes(text));
        if (line === undefined) return;
        clearTimeout(limit);
        resolve(line);
      };
      this.wanted.push(check);
      check();
    });
  }

  write(line) {
    this.child.stdin.write(`${line}\n`);
  }

  async end() {
    this.child.stdin.end();
    return this.ended;
  }

  async kill(signal = "SIGKILL") {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal);
    return this.ended;
  }
}

/** A port that was free a moment ago. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer().on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Starts a Redis of the tests' own on this port. */
export async function startRedis(port) {
  const directory = mkdtempSync(path.join(tmpdir(), "page-"));
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
  const redis = new Program("redis-server", ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--dir",
    directory]);
  await redis.says("Ready to accept connections");
  return redis;
}

/** A store, and what plays there. */
export async function stage() {
  const port = await freePort();
  const redis = await startRedis(port);
  const url = `redis://127.0.0.1:${port}`;
  const globallock = path.join(programs, "globallock");
  const self = {
    port, redis, url,
    serve(...args) {
      return new Program(globallock, ["serve", "--url", url, "--interval", "200ms", ...args]);
    },
    /** Starts a server, and returns it with its address. */
    async served(...args) {
      const server = self.serve("--listen", "127.0.0.1:0", ...args);
      return { server, address: await server.says("http://") };
    },
    /** Runs a command that ends with its input, while it holds the lock. */
    run(name, label, ...more) {
      const script = "echo ready; while read _; do :; done";
      return new Program(globallock, ["run", "--url", url, "--label", label, ...more, name, "--", "bash", "-c", script]);
    },
    actors() {
      return new Program(path.join(programs, "examples", "actors"), [url]);
    },
  };
  return self;
}

let browser = null;

/** A page of a browser of its own that fails the test when the page says that something is wrong. */
export async function open(address, options = {}) {
  browser ??= chromium.launch({ executablePath: browserPath, args: ["--no-sandbox"] }).then((launched) => {
    cleanups.push(() => launched.close());
    return launched;
  });
  const context = await (await browser).newContext({ viewport: { width: 1280, height: 720 }, ...options });
  context.setDefaultTimeout(LIMIT);
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("console", (message) => {
    // A server that is gone is told by the browser, too.
    const isGone = /ERR_(CONNECTION|INCOMPLETE|EMPTY)|status of (401|409|503)/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !isGone) wrong.push(message.text());
  });
  const { origin } = address ? new URL(address) : { origin: "" };
  page.on("request", (request) => {
    if (!request.url().startsWith(origin)) wrong.push(`it asks ${request.url()}`);
  });
  page.fine = () => assert.deepEqual(wrong, []);
  if (address) await page.goto(address);
  return page;
}

/** The row of a lock in the list. */
export function row(page, name) {
  const escaped = name.replace(/[^\w/-]/gu, (found) => `\\${found.codePointAt(0).toString(16)} `);
  return page.locator(`tr[data-name="${escaped}"]`);
}

/** Waits until a function of the page says so. */
export function until(page, check, argument) {
  return page.waitForFunction(check, argument, { timeout: LIMIT, polling: 50 });
}
