// The table of all locks. Only the rows that can be seen are in the page, however many there are.

import { addressOf, duration, element, mode, owner, setText, shown } from "./text.js";
import { count } from "./model.js";

/** Rows above and below those that can be seen. */
const MARGIN = 6;

const HIGHEST = Number.POSITIVE_INFINITY;

/** What a lock is sorted by; the least comes first. */
const KEYS = {
  name: () => 0,
  age: (times) => -(times.age ?? -1),
  lease: (times) => times.lease ?? HIGHEST,
  queue: (_, row) => -row.waiters,
  wait: (times) => -(times.wait ?? -1),
};

export class Table {
  constructor(model) {
    this.model = model;
    this.scroller = document.getElementById("scroller");
    this.table = document.getElementById("locks");
    this.body = this.table.tBodies[0];
    this.empty = document.getElementById("empty");
    this.find = document.getElementById("find");
    this.select = document.getElementById("sort");
    this.filters = document.getElementById("filters");
    this.above = this.spacer();
    this.below = this.spacer();
    this.body.append(this.above.row, this.below.row);
    this.lines = [];
    this.shown = [];
    this.selected = null;
    this.isQueued = false;
    this.listen();
  }

  spacer() {
    const cell = element("td");
    const row = element("tr", "spacer", cell);
    row.setAttribute("aria-hidden", "true");
    return { row, cell };
  }

  listen() {
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(this.scroller);
    this.filters.addEventListener("input", () => this.arrange(true));
    this.filters.addEventListener("submit", (event) => event.preventDefault());
    for (const header of this.table.querySelectorAll("th[data-sort]")) {
      header.addEventListener("click", () => {
        this.select.value = header.dataset.sort;
        this.arrange(true);
      });
    }
    this.body.addEventListener("click", (event) => {
      const line = event.target.closest("tr[data-name]");
      // A text that was selected to be copied is no click.
      if (!line || event.target.closest("a") || String(getSelection())) return;
      location.hash = addressOf(line.dataset.name);
    });
    this.body.addEventListener("focusin", (event) => {
      const line = event.target.closest("tr[data-name]");
      if (line) this.mark(line.dataset.name);
    });
  }

  /** Arranges the rows anew, once before the next picture however often it is asked for. */
  change() {
    if (this.isQueued) return;
    this.isQueued = true;
    requestAnimationFrame(() => {
      this.isQueued = false;
      this.arrange(false);
    });
  }

  /** Chooses and sorts the locks that are shown. */
  arrange(isFromTop) {
    const now = performance.now();
    const text = this.find.value.trim().toLowerCase();
    const only = new Set([...new FormData(this.filters).keys()]);
    const key = KEYS[this.select.value];
    const chosen = [];
    for (const [name, lock] of this.model.locks) {
      if (this.shows(lock.row, only, text)) {
        chosen.push({ name, lock, key: key(this.model.times(lock, now), lock.row) });
      }
    }
    chosen.sort((a, b) => a.key - b.key || (a.name < b.name ? -1 : 1));
    this.shown = chosen;
    if (!chosen.some(({ name }) => name === this.selected)) this.selected = chosen[0]?.name ?? null;
    if (isFromTop) this.scroller.scrollTop = 0;
    for (const header of this.table.querySelectorAll("th[data-sort]")) {
      const order = header.dataset.sort === "name" || header.dataset.sort === "lease" ? "ascending" : "descending";
      header.setAttribute("aria-sort", header.dataset.sort === this.select.value ? order : "none");
    }
    this.tell();
    this.draw();
  }

  shows(row, only, text) {
    const { holder } = row;
    if (only.has("held") && row.holders === 0) return false;
    if (only.has("waiting") && row.waiters === 0) return false;
    if (only.has("stale") && row.stale !== true) return false;
    if (only.has("foreign") && !holder?.foreign) return false;
    if (only.has("deadlock") && !this.model.inCycle.has(row.name)) return false;
    if (!text) return true;
    return [row.name, holder?.host, holder?.label].some((part) => part?.toLowerCase().includes(text));
  }

  /** Says how many there are. */
  tell() {
    const { size } = this.model.locks;
    const { names } = this.model;
    const many = names > size ? ` The first ${size} by name of ${names} are here.` : "";
    setText(document.getElementById("shown"),
      (this.shown.length === size ? count(size, "lock") : `${this.shown.length} of ${count(size, "lock")}`) + many);
    const isEmpty = this.shown.length === 0;
    this.empty.hidden = !isEmpty;
    this.table.setAttribute("aria-rowcount", String(this.shown.length + 1));
    if (isEmpty) {
      setText(this.empty, !this.model.isKnown ? "Looking at the store…"
        : size === 0 ? "Nobody holds or waits for a lock." : "No lock is like that.");
    }
  }

  rowHeight() {
    return Number.parseFloat(getComputedStyle(this.table).getPropertyValue("--row")) || 36;
  }

  /** Puts the rows that can be seen into the page. */
  draw() {
    const height = this.rowHeight();
    const visible = Math.ceil(this.scroller.clientHeight / height) + 2 * MARGIN;
    const most = Math.max(0, this.shown.length - visible);
    const first = Math.min(most, Math.max(0, Math.floor(this.scroller.scrollTop / height) - MARGIN));
    const last = Math.min(this.shown.length, first + visible);
    while (this.lines.length < last - first) this.lines.push(this.line());
    while (this.lines.length > last - first) this.lines.pop().row.remove();
    this.above.cell.style.height = `${first * height}px`;
    this.below.cell.style.height = `${(this.shown.length - last) * height}px`;
    const focused = document.activeElement?.closest?.("tr[data-name]")?.dataset.name;
    const now = performance.now();
    this.lines.forEach((line, index) => {
      this.fill(line, this.shown[first + index], first + index, now);
      if (line.row.nextSibling !== (this.lines[index + 1]?.row ?? this.below.row)) {
        this.body.insertBefore(line.row, this.below.row);
      }
    });
    // The lock that has the focus may stand in another row now, or in none.
    if (focused !== undefined && document.activeElement?.closest?.("tr[data-name]")?.dataset.name !== focused) {
      const line = this.lines.find(({ row }) => row.dataset.name === focused);
      if (line) line.link.focus({ preventScroll: true });
    }
  }

  line() {
    const cell = (className, ...children) => {
      const made = element("td", className, ...children);
      made.setAttribute("role", "cell");
      return made;
    };
    const link = element("a");
    const name = element("bdi");
    link.append(name);
    const marks = element("span", "marks");
    const under = element("span", "under");
    const line = {
      link, name, marks, under,
      mode: cell("mode"),
      holder: cell("holder", element("bdi")),
      age: cell("number age"),
      lease: cell("number lease"),
      queue: cell("number queue"),
      wait: cell("number wait"),
    };
    const top = element("span", "top", link, marks);
    line.row = element("tr", "", cell("name", top, under), line.mode, line.holder, line.age, line.lease,
      line.queue, line.wait);
    line.row.setAttribute("role", "row");
    return line;
  }

  fill(line, { name, lock }, index, now) {
    const { row } = lock;
    const times = this.model.times(lock, now);
    if (line.row.dataset.name !== name) {
      line.row.dataset.name = name;
      line.link.href = addressOf(name);
      setText(line.name, shown(name));
      line.name.title = shown(name);
    }
    const holder = row.holder ? owner(row.holder) : "";
    line.row.setAttribute("aria-rowindex", String(index + 2));
    line.link.tabIndex = name === this.selected ? 0 : -1;
    line.row.classList.toggle("selected", name === this.selected);
    const marks = marksOf(row, this.model);
    if (line.marks.dataset.of !== marks.join()) {
      line.marks.dataset.of = marks.join();
      line.marks.replaceChildren(...marks.map((mark) => element("span", `mark ${MARKS[mark]}`, mark)));
    }
    setText(line.mode, mode(row));
    const others = row.holders > 1 ? ` and ${row.holders - 1} more` : "";
    setText(line.holder.firstChild, holder + others);
    line.holder.firstChild.title = holder + others;
    setText(line.age, duration(times.age));
    setText(line.lease, duration(times.lease));
    setText(line.queue, row.waiters ? String(row.waiters) : "");
    setText(line.wait, duration(times.wait));
    setText(line.under, holder ? `${duration(times.age)} ${holder}${others}`.trim() : "not held");
  }

  /** Marks the lock that the keys act on. */
  mark(name) {
    if (this.selected === name) return;
    this.selected = name;
    for (const { row, link } of this.lines) {
      row.classList.toggle("selected", row.dataset.name === name);
      link.tabIndex = row.dataset.name === name ? 0 : -1;
    }
  }

  /** Moves the mark by so many rows. */
  move(step) {
    if (this.shown.length === 0) return;
    const index = this.shown.findIndex(({ name }) => name === this.selected);
    // The first key of all shows where the mark is.
    const isMarked = this.body.contains(document.activeElement);
    const next = isMarked ? Math.min(this.shown.length - 1, Math.max(0, index + step)) : Math.max(0, index);
    this.mark(this.shown[next].name);
    this.reveal(next);
    this.focus();
  }

  reveal(index) {
    const height = this.rowHeight();
    const head = this.table.tHead.offsetHeight;
    const top = index * height;
    const room = this.scroller.clientHeight - head - height;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top > this.scroller.scrollTop + room) this.scroller.scrollTop = top - room;
    this.draw();
  }

  focus() {
    this.lines.find(({ row }) => row.dataset.name === this.selected)?.link.focus({ preventScroll: true });
  }
}

/** The marks of a lock, and how much each matters. */
const MARKS = { deadlock: "bad", stale: "bad", foreign: "quiet" };

export function marksOf(row, model) {
  return [model.inCycle.has(row.name) && "deadlock", row.stale === true && "stale", row.holder?.foreign && "foreign"]
    .filter(Boolean);
}

export function markElements(row, model) {
  return marksOf(row, model).map((mark) => element("span", `mark ${MARKS[mark]}`, mark));
}
