// The page of one lock, and the page of all waits.

import { addressOf, duration, element, mode, owner, quoted, setText, shown } from "./text.js";
import { count } from "./model.js";
import { markElements } from "./table.js";

/** How many events of a lock are shown, and how many waits. */
const MOST_EVENTS = 200;
const MOST_WAITS = 500;
/** A page is asked for again at most so often, and at least so often, in milliseconds. */
const SOONEST = 1000;
const LATEST = 10000;

/** Asks the server, and returns its answer; throws what it says instead. */
export async function ask(path) {
  const response = await fetch(path, { cache: "no-store" });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `the server answers ${response.status}`);
  return answer;
}

/** Something on the page that is asked for while it is shown. */
class Asked {
  constructor(section) {
    this.section = section;
    this.isShown = false;
    this.last = 0;
    this.timer = null;
    this.isAsking = false;
    /** Which answer is meant: an older one is of another lock. */
    this.turn = 0;
  }

  show() {
    this.isShown = true;
    this.turn += 1;
    this.isAsking = false;
    this.last = 0;
    this.section.hidden = false;
    this.change();
  }

  hide() {
    this.isShown = false;
    this.section.hidden = true;
    clearTimeout(this.timer);
    this.timer = null;
  }

  /** Something has changed: asks soon. */
  change() {
    if (!this.isShown || this.isAsking) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(), Math.max(0, this.last + SOONEST - performance.now()));
  }

  async load() {
    const { turn } = this;
    this.isAsking = true;
    let answer = null;
    let failure = null;
    try {
      answer = await ask(this.path());
    } catch (error) {
      failure = error;
    }
    if (turn !== this.turn || !this.isShown) return;
    this.isAsking = false;
    this.last = performance.now();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(), LATEST);
    this.draw(answer, failure);
  }
}

export class LockPage extends Asked {
  constructor(model, breaking) {
    super(document.getElementById("lock"));
    this.model = model;
    this.breaking = breaking;
    this.name = null;
    this.answer = null;
  }

  open(name) {
    this.name = name;
    this.answer = null;
    this.lines = new Map();
    this.title = element("h1", "lock-name", quoted(name));
    this.title.id = "lock-title";
    this.title.tabIndex = -1;
    const back = element("a", "back", "← All locks");
    back.href = "#/";
    this.marks = element("span", "marks");
    this.summary = element("p", "quiet");
    this.failure = element("p", "failure");
    this.failure.setAttribute("role", "status");
    this.deadlocks = element("div");
    this.body = element("tbody");
    const heads = ["Place", "Owner", "Mode", "For", "Lease left", "Token", "Claim", "Action"];
    const head = element("tr", "", ...heads.map((text) => {
      const cell = element("th", columnOf(text), text);
      cell.scope = "col";
      if (text === "Action") cell.replaceChildren(element("span", "hidden", text));
      return cell;
    }));
    const table = element("table", "queue-table", element("caption", "hidden", "Holders and waiters, oldest first"),
      element("thead", "", head), this.body);
    this.none = element("p", "empty", "Looking…");
    this.waits = element("div");
    this.history = element("ol", "history");
    this.quietHistory = element("p", "quiet", "Nothing has happened since this page was opened.");
    this.section.replaceChildren(back, element("div", "lock-head", this.title, this.marks), this.summary,
      this.failure, this.deadlocks, element("h2", "", "Queue"), element("div", "wide", table), this.none,
      this.waits, element("h2", "", "Since this page was opened"), this.quietHistory, this.history);
    this.table = table;
    this.table.hidden = true;
    this.drawHistory();
    this.show();
    this.title.focus({ preventScroll: true });
  }

  path() {
    return `/api/lock?name=${encodeURIComponent(this.name)}`;
  }

  draw(answer, failure) {
    setText(this.failure, failure ? `The queue cannot be read: ${shown(failure.message)}` : "");
    if (!answer) return;
    this.answer = { ...answer, seen: performance.now() };
    const { claims } = answer;
    this.table.hidden = claims.length === 0;
    this.none.hidden = claims.length > 0;
    setText(this.none, "Nobody holds or waits for it.");
    const known = new Set(claims.map((claim) => claim.claim));
    for (const [claim, line] of this.lines) {
      if (!known.has(claim)) {
        line.row.remove();
        this.lines.delete(claim);
      }
    }
    let before = null;
    for (const claim of claims) {
      const line = this.lines.get(claim.claim) ?? this.line(claim);
      this.lines.set(claim.claim, line);
      line.claim = claim;
      const place = before ? before.row.nextSibling : this.body.firstChild;
      if (place !== line.row) this.body.insertBefore(line.row, place);
      before = line;
    }
    this.drawDeadlocks(answer.deadlocks);
    this.drawWaits(answer.waits);
    this.tick();
  }

  line(claim) {
    const cells = {};
    const row = element("tr");
    for (const column of ["place", "owner", "mode", "since", "lease", "token", "claim", "action"]) {
      cells[column] = row.appendChild(element("td", column));
    }
    cells.owner.append(element("bdi"), element("span", "under"));
    cells.claim.append(element("code", "", shown(claim.claim)));
    const line = { row, cells, claim };
    if (this.breaking.isAllowed) {
      const button = element("button", "small", "Break…");
      button.type = "button";
      button.setAttribute("aria-label", `Break the claim of ${owner(claim)}`);
      button.addEventListener("click", () => this.breaking.open(this.name, line.claim, this.answer));
      cells.action.append(button);
    }
    return line;
  }

  /** The times, as they are now. */
  tick() {
    if (!this.isShown || !this.answer) return;
    const later = (performance.now() - this.answer.seen) / 1000;
    for (const { cells, claim } of this.lines.values()) {
      const age = claim.age_seconds === null ? null : claim.age_seconds + later;
      const left = claim.lease_left_seconds === null ? null : Math.max(0, claim.lease_left_seconds - later);
      const place = claim.held ? "holds" : String(claim.place);
      setText(cells.place, place);
      cells.place.classList.toggle("holds", claim.held);
      setText(cells.owner.firstChild, owner(claim));
      setText(cells.owner.lastChild, [mode(claim), duration(age) && `for ${duration(age)}`,
        duration(left) && `lease ${duration(left)}`,
        claim.fencing_token === null ? "" : `token ${claim.fencing_token}`].filter(Boolean).join(" · "));
      setText(cells.mode, mode(claim));
      setText(cells.since, duration(age));
      setText(cells.lease, duration(left));
      setText(cells.token, claim.fencing_token === null ? "" : String(claim.fencing_token));
    }
    const lock = this.model.locks.get(this.name);
    const { claims } = this.answer;
    const held = claims.filter((claim) => claim.held).length;
    setText(this.summary, claims.length === 0 ? "Free"
      : `${mode(lock?.row ?? claims[0])} · ${count(held, "holder")} · ${count(claims.length - held, "waiter")}`);
    this.marks.replaceChildren(...(lock ? markElements(lock.row, this.model) : []));
  }

  drawDeadlocks(deadlocks) {
    const text = JSON.stringify(deadlocks);
    if (this.deadlocks.dataset.of === text) return;
    this.deadlocks.dataset.of = text;
    if (deadlocks === null) {
      this.deadlocks.replaceChildren(element("p", "quiet", "Deadlocks could not be sought."));
    } else {
      this.deadlocks.replaceChildren(...deadlocks.map((cycle) => chain(cycle)));
    }
  }

  drawWaits(waits) {
    const rows = waits.slice(0, MOST_WAITS).map((wait) => waitLine(wait, false));
    this.waits.replaceChildren(...(rows.length === 0 ? []
      : [element("h2", "", "Who waits for whom"), element("ul", "waits", ...rows)]));
  }

  drawHistory() {
    if (this.name === null) return;
    const events = this.model.eventsOf(this.name).slice(0, MOST_EVENTS);
    this.quietHistory.hidden = events.length > 0;
    this.history.replaceChildren(...events.map((event) => {
      const time = element("time", "", event.at.toLocaleTimeString());
      time.dateTime = event.at.toISOString();
      return element("li", "", time, ` ${event.what}`);
    }));
  }
}

function columnOf(text) {
  return { Place: "place", Owner: "owner", Mode: "mode", For: "since", "Lease left": "lease", Token: "token",
    Claim: "claim", Action: "action" }[text];
}

/** A link to a lock. */
function lockLink(name) {
  const link = element("a", "", quoted(name));
  link.href = addressOf(name);
  return link;
}

function waitLine(wait, isLinked) {
  const name = isLinked ? lockLink(wait.name) : null;
  return element("li", "", quoted(wait.waiter), " waits ", ...(name ? ["for ", name, ", "] : []),
    wait.held ? (name ? "held by " : "for ") : "behind ", quoted(wait.blocker));
}

/** A deadlock, as a chain that ends where it began. */
export function chain(cycle) {
  const steps = cycle.map((wait) => element("li", "", element("strong", "", quoted(wait.waiter)), " waits for ",
    lockLink(wait.name), wait.held ? ", held by " : ", behind ", quoted(wait.blocker)));
  const end = element("li", "end", "↺ which is where it began: none of them goes on by itself");
  const box = element("section", "deadlock", element("h2", "", `Deadlock of ${count(cycle.length, "owner")}`),
    element("ol", "", ...steps, end));
  box.setAttribute("aria-label", "Deadlock");
  return box;
}

export class WaitsPage extends Asked {
  constructor() {
    super(document.getElementById("waits"));
    this.title = element("h1", "", "Who waits for whom");
    this.title.id = "waits-title";
    this.title.tabIndex = -1;
    this.failure = element("p", "failure");
    this.deadlocks = element("div");
    this.list = element("ul", "waits");
    this.none = element("p", "empty", "Looking…");
    this.section.replaceChildren(this.title, this.failure, this.deadlocks, this.none, this.list);
  }

  open() {
    this.show();
    this.title.focus({ preventScroll: true });
  }

  path() {
    return "/api/waits";
  }

  tick() {}

  draw(answer, failure) {
    setText(this.failure, failure ? `The waits cannot be read: ${shown(failure.message)}` : "");
    if (!answer) return;
    const text = JSON.stringify([answer.waits, answer.deadlocks]);
    if (this.list.dataset.of === text) return;
    this.list.dataset.of = text;
    this.deadlocks.replaceChildren(...answer.deadlocks.map((cycle) => chain(cycle)));
    this.list.replaceChildren(...answer.waits.slice(0, MOST_WAITS).map((wait) => waitLine(wait, true)));
    const more = answer.waits.length - MOST_WAITS;
    this.none.hidden = answer.waits.length > 0 && more <= 0;
    setText(this.none, more > 0 ? `The first ${MOST_WAITS} of ${answer.waits.length} waits:`
      : "Nobody waits for anybody.");
  }
}
