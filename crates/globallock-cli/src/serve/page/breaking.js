// The dialog that breaks a claim. The user types the lock's name, so that no slip of the hand does it.

import { duration, element, mode, owner, setText, shown } from "./text.js";

const OUTCOMES = {
  broken: "Broken: the claim is out of the queue, and its owner is told.",
  gone: "That claim was not there any more. Nothing was changed.",
};

export class Breaking {
  constructor() {
    this.dialog = document.getElementById("breaking");
    this.facts = document.getElementById("breaking-facts");
    this.typed = document.getElementById("typed");
    this.reason = document.getElementById("reason");
    this.outcome = document.getElementById("outcome");
    this.cancel = document.getElementById("cancel");
    this.button = document.getElementById("break");
    this.session = null;
    this.name = null;
    this.claim = null;
    this.isDone = false;
    this.isBusy = false;
    this.typed.addEventListener("input", () => this.check());
    this.cancel.addEventListener("click", () => this.dialog.close());
    this.dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
  }

  /** What this server allows. */
  get isAllowed() {
    return this.session?.allow_break === true;
  }

  /** Asks about a claim of a lock, whose queue was answered. */
  open(name, claim, answer) {
    this.name = name;
    this.claim = claim.claim;
    this.isDone = false;
    const later = (performance.now() - answer.seen) / 1000;
    const age = claim.age_seconds === null ? "unknown" : duration(claim.age_seconds + later);
    const waiters = answer.claims.filter((other) => !other.held).length;
    const facts = [["Lock", shown(name)], ["Owner", owner(claim)], [claim.held ? "Held for" : "Waited for", age],
      ["Mode", mode(claim)], ["Waiters", String(waiters)], ["Claim", shown(claim.claim)],
      ["Done by", shown(this.session?.user ?? "")]];
    this.facts.replaceChildren(...facts.flatMap(([term, text]) =>
      [element("dt", "", term), element("dd", "", element("bdi", "", text))]));
    setText(document.getElementById("type-this"), shown(name));
    this.typed.value = "";
    this.reason.value = "";
    this.tell("", "");
    this.typed.disabled = false;
    this.reason.disabled = false;
    this.button.hidden = false;
    setText(this.cancel, "Cancel");
    this.check();
    this.dialog.showModal();
    this.typed.focus();
  }

  check() {
    // What is hidden in a name cannot be typed but as it is shown.
    const isName = this.typed.value === shown(this.name) || this.typed.value === this.name;
    this.button.disabled = !isName || this.isDone || this.isBusy;
  }

  tell(text, kind) {
    this.outcome.className = kind;
    setText(this.outcome, text);
  }

  async send() {
    if (this.button.disabled) return;
    this.isBusy = true;
    this.check();
    this.tell("Breaking…", "");
    const order = { name: this.name, confirm: this.name, claim: this.claim, reason: this.reason.value };
    let said = "";
    let isBroken = false;
    try {
      const response = await fetch("/api/break", {
        method: "POST",
        cache: "no-store",
        headers: { "content-type": "application/json", "x-globallock-token": this.session.token },
        body: JSON.stringify(order),
      });
      const answer = await response.json().catch(() => ({}));
      isBroken = answer.outcome === "broken";
      said = OUTCOMES[answer.outcome] ?? `Not broken: ${answer.message ?? answer.error ?? response.status}`;
    } catch {
      said = "The server has not answered. The claim may be broken or not: look again.";
    }
    this.isBusy = false;
    this.isDone = true;
    this.typed.disabled = true;
    this.reason.disabled = true;
    this.button.hidden = true;
    this.tell(shown(said), isBroken ? "good" : "failure");
    setText(this.cancel, "Close");
    this.cancel.focus();
  }
}
