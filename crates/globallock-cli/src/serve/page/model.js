// What the server has told: all locks as they are, and what has happened since the page was opened.

import { owner, shown } from "./text.js";

/** How many events are kept. */
const MOST_EVENTS = 2000;

export class Model {
  constructor() {
    /** By name: the row, and when it was seen, in milliseconds of this page. */
    this.locks = new Map();
    this.names = 0;
    this.deadlocks = [];
    /** Names that are part of a deadlock. */
    this.inCycle = new Set();
    this.failure = null;
    /** When the store last told all. */
    this.complete = null;
    this.isKnown = false;
    /** The newest last. */
    this.events = [];
  }

  /** Takes a message, and returns the events that it tells of. */
  apply(message, now) {
    const seen = now - (message.look_age_seconds ?? 0) * 1000;
    const { news } = message;
    this.names = news.names;
    const told = [];
    const take = (row) => {
      const old = this.locks.get(row.name);
      told.push(...this.compare(old?.row, row));
      this.locks.set(row.name, { row, seen });
    };
    if (news.rows) {
      const gone = new Set(this.locks.keys());
      for (const row of news.rows) {
        gone.delete(row.name);
        take(row);
      }
      for (const name of gone) told.push(this.forget(name));
    }
    for (const row of news.changed ?? []) take(row);
    for (const [name, left] of Object.entries(news.renewed ?? {})) {
      const known = this.locks.get(name);
      if (!known?.row.holder) continue;
      // The other times of the row go on from when they were seen.
      known.row.holder.lease_left_seconds = left;
      known.renewed = seen;
    }
    for (const name of news.gone ?? []) if (this.locks.has(name)) told.push(this.forget(name));
    if (news.deadlocks) {
      this.deadlocks = news.deadlocks;
      this.inCycle = new Set(news.deadlocks.flat().map((wait) => wait.name));
    }
    this.failure = news.failure;
    this.noteLook(message, now);
    // What was there when the page was opened has not happened since.
    const events = this.isKnown ? told.map((event) => ({ ...event, at: new Date() })) : [];
    this.isKnown = this.isKnown || message.complete_age_seconds !== null;
    this.events.push(...events);
    if (this.events.length > MOST_EVENTS) this.events.splice(0, this.events.length - MOST_EVENTS);
    return events;
  }

  noteLook(message, now) {
    const age = message.complete_age_seconds;
    this.complete = age === null ? null : now - age * 1000;
  }

  forget(name) {
    this.locks.delete(name);
    // Of too many names, one that is new takes the place of another one.
    const isCut = this.names > this.locks.size + 1;
    return { name, what: isCut ? "is not shown any more" : "is free: nobody holds or waits for it any more" };
  }

  /** What has happened between two rows of a lock. */
  compare(old, row) {
    const told = [];
    const tell = (what) => told.push({ name: row.name, what });
    const holder = row.holder;
    if (!old) {
      tell(holder ? `appeared, held by ${owner(holder)}` : "appeared, waited for");
      return told;
    }
    if (holder?.claim !== old.holder?.claim) {
      if (!holder) tell(`was let go of by ${owner(old.holder)}`);
      else if (!old.holder) tell(`was granted to ${owner(holder)}`);
      else tell(`changed hands from ${owner(old.holder)} to ${owner(holder)}`);
    } else if (row.holders !== old.holders) {
      tell(`has ${count(row.holders, "holder")}, after ${old.holders}`);
    }
    if (row.waiters !== old.waiters) tell(`has ${count(row.waiters, "waiter")}, after ${old.waiters}`);
    if (row.stale && !old.stale) tell("has a holder that gives no sign of life");
    if (!row.stale && old.stale && holder?.claim === old.holder?.claim) tell("has a holder that lives again");
    return told;
  }

  /** The times of a lock, as they are now. */
  times({ row, seen, renewed }, now) {
    const later = (now - seen) / 1000;
    const plus = (seconds) => (seconds === null || seconds === undefined ? null : seconds + later);
    const left = row.holder?.lease_left_seconds ?? null;
    return {
      age: plus(row.holder?.age_seconds),
      lease: left === null ? null : Math.max(0, left - (now - (renewed ?? seen)) / 1000),
      wait: plus(row.oldest_wait_seconds),
    };
  }

  /** Events of one lock, the newest first. */
  eventsOf(name) {
    return this.events.filter((event) => event.name === name).reverse();
  }
}

export function count(number, what) {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

/** An event as a sentence. */
export function sentence(event) {
  return `${shown(event.name)} ${event.what}`;
}
