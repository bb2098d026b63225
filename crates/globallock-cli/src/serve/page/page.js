// The page: follows the server, shows one of its views, and takes the keys.

import { Breaking } from "./breaking.js";
import { LockPage, WaitsPage, ask } from "./lock.js";
import { Model, count, sentence } from "./model.js";
import { Table } from "./table.js";
import { addressOf, duration, setText, shown } from "./text.js";

/** Pauses before the server is tried again, in milliseconds; the last one for good. */
const PAUSES = [500, 1000, 2000, 5000];
/** The server says something at least every 10 seconds. */
const SILENCE = 25000;
/** A page that nobody sees gives its connection back. */
const HIDDEN = 5 * 60 * 1000;
/** How often changes are said aloud. */
const SAY = 3000;

const node = (id) => document.getElementById(id);

const model = new Model();
const table = new Table(model);
const breaking = new Breaking();
const lockPage = new LockPage(model, breaking);
const waitsPage = new WaitsPage();

// The connection

let source = null;
let failures = 0;
let heard = 0;
let again = null;
let isGone = false;
let isPaused = false;

async function connect() {
  clearTimeout(again);
  source?.close();
  try {
    const session = await ask("/api/session");
    breaking.session = session;
    const prefix = session.prefix ? `, names that begin with ${shown(session.prefix)}` : "";
    setText(node("store"), shown(session.store) + prefix);
    setText(node("version"), `globallock ${session.version}${session.allow_break ? "" : ", read-only"}`);
  } catch (error) {
    lost(error);
    return;
  }
  heard = performance.now();
  source = new EventSource("/api/events");
  source.addEventListener("rows", (event) => take(JSON.parse(event.data)));
  source.addEventListener("well", (event) => {
    back();
    model.noteLook(JSON.parse(event.data), performance.now());
  });
  source.onerror = () => lost(null);
}

function lost(error) {
  source?.close();
  source = null;
  clearTimeout(again);
  isGone = true;
  again = setTimeout(connect, PAUSES[Math.min(failures, PAUSES.length - 1)]);
  failures += 1;
  const why = error && !(error instanceof TypeError) ? `: ${shown(error.message)}` : "";
  node("retry").hidden = false;
  banner(`The server does not answer${why}. What is shown is old; it is tried again.`);
  drawState();
}

function back() {
  heard = performance.now();
  failures = 0;
  isGone = false;
}

function take(message) {
  back();
  const events = model.apply(message, performance.now());
  table.change();
  if (lockPage.isShown) {
    lockPage.drawHistory();
    lockPage.change();
  }
  waitsPage.change();
  say(events);
  const deadlocks = node("deadlocks");
  deadlocks.hidden = model.deadlocks.length === 0;
  setText(deadlocks, ` ${count(model.deadlocks.length, "deadlock")}`);
  drawState();
}

function banner(text) {
  node("banner").hidden = text === "";
  setText(node("banner-text"), text);
}

function drawState() {
  const { failure, complete } = model;
  document.body.classList.toggle("old", isGone || failure !== null);
  const age = complete === null ? null : (performance.now() - complete) / 1000;
  if (!isGone) {
    node("retry").hidden = true;
    const known = age === null ? "Nothing is known yet." : `What is shown is ${duration(age)} old.`;
    banner(failure === null ? "" : `The store does not tell all: ${shown(failure)}. ${known}`);
  }
  const state = isGone ? "gone" : failure === null ? "well" : "failing";
  node("state").dataset.state = state;
  setText(node("state-text"), { gone: "Server gone", failing: "Store failing",
    well: age === null ? "Looking" : "Live" }[state]);
}

node("retry").addEventListener("click", connect);

setInterval(() => {
  if (source && performance.now() - heard > SILENCE) lost(null);
  if (model.failure !== null) drawState();
  if (document.hidden) return;
  if (!node("list").hidden) table.draw();
  lockPage.tick();
}, 1000);

let hiding = null;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      isPaused = true;
      clearTimeout(again);
      source?.close();
      source = null;
    }, HIDDEN);
  } else if (isPaused) {
    isPaused = false;
    connect();
  }
});

// What has changed, for those who do not see it

let unsaid = [];
let saying = null;

function say(events) {
  unsaid.push(...events);
  if (unsaid.length === 0 || saying !== null) return;
  saying = setTimeout(() => {
    saying = null;
    const few = unsaid.slice(0, 3).map(sentence).join(". ");
    setText(node("live"), unsaid.length <= 3 ? few : count(unsaid.length, "change"));
    unsaid = [];
  }, SAY);
}

// The views

function route() {
  const hash = location.hash;
  const isLock = hash.startsWith("#/lock/");
  const isWaits = hash === "#/waits";
  lockPage.hide();
  waitsPage.hide();
  node("list").hidden = isLock || isWaits;
  if (isLock) {
    let name = null;
    try {
      name = decodeURIComponent(hash.slice("#/lock/".length));
    } catch {
      location.hash = "#/";
      return;
    }
    document.title = `${shown(name)} – Locks`;
    lockPage.open(name);
  } else if (isWaits) {
    document.title = "Waits – Locks";
    waitsPage.open();
  } else {
    const from = lockPage.name;
    document.title = "Locks";
    if (from !== null && model.locks.has(from)) table.mark(from);
    table.arrange(false);
    if (from !== null) table.focus();
    lockPage.name = null;
  }
  const current = { "to-locks": !isLock && !isWaits, "to-waits": isWaits };
  for (const [id, isCurrent] of Object.entries(current)) {
    if (isCurrent) node(id).setAttribute("aria-current", "page");
    else node(id).removeAttribute("aria-current");
  }
}

window.addEventListener("hashchange", (event) => {
  // The link that skips to the content is no view.
  if (location.hash === "#content") {
    history.replaceState(null, "", new URL(event.oldURL).hash || "#/");
    node("content").focus();
    return;
  }
  route();
});

// The keys

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || breaking.dialog.open) return;
  const isTyping = event.target.matches("input[type=search], input[type=text], select");
  const isList = !node("list").hidden;
  if (event.key === "Escape") {
    if (event.target === node("find")) {
      node("find").value = "";
      table.arrange(true);
      table.focus();
    } else if (!isList) {
      location.hash = "#/";
    } else {
      return;
    }
  } else if (isTyping) {
    if (!(event.key === "Enter" && event.target === node("find"))) return;
    table.focus();
  } else if (event.key === "/") {
    if (!isList) location.hash = "#/";
    node("list").hidden = false;
    node("find").focus();
  } else if (isList && (event.key === "j" || event.key === "ArrowDown")) {
    table.move(1);
  } else if (isList && (event.key === "k" || event.key === "ArrowUp")) {
    table.move(-1);
  } else if (isList && (event.key === "PageDown" || event.key === "PageUp")) {
    table.move(event.key === "PageDown" ? 15 : -15);
  } else if (isList && (event.key === "Home" || event.key === "End")) {
    table.move(event.key === "End" ? table.shown.length : -table.shown.length);
  } else if (isList && event.key === "Enter" && event.target === document.body && table.selected !== null) {
    location.hash = addressOf(table.selected);
  } else {
    return;
  }
  event.preventDefault();
});

route();
connect();
