// The dialog that breaks a claim. The user types the lock's name, so that no slip of the hand does it.

import { ask } from "./lock.js";
import { duration, element, mode, owner, setText, shown } from "./text.js";

const OUTCOMES = {
  broken: "Broken: the claim is out of the queue, and its owner is told.",
  gone: "That claim was not there any more. Nothing was changed.",
};
const GRANTED = "It has been granted the lock since, and holds it now. Nothing was changed. Type the name again "
  + "to break the holder.";

/** What an answer says that tells of no deed: what nobody knows is not said to be so or not. */
function told(answer, status) {
  const isSure = answer.outcome ? answer.outcome !== "unknown" : status < 500;
  return `${isSure ? "Not broken" : "Not known"}: ${answer.message ?? answer.error ?? status}`;
}

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
    this.show(claim, answer);
    setText(document.getElementById("type-this"), shown(name));
    this.reason.value = "";
    this.tell("", "");
    setText(this.cancel, "Cancel");
    this.begin();
    this.dialog.showModal();
    this.typed.focus();
  }

  /** Shows the claim as it was answered; that is what the user agrees to. */
  show(claim, answer) {
    this.held = claim.held;
    const later = (performance.now() - answer.seen) / 1000;
    const age = claim.age_seconds === null ? "unknown" : duration(claim.age_seconds + later);
    const waiters = answer.claims.filter((other) => !other.held).length;
    const facts = [["Lock", shown(this.name)], ["Owner", owner(claim)],
      [claim.held ? "Held for" : "Waited for", age], ["Mode", mode(claim)], ["Waiters", String(waiters)],
      ["Claim", shown(claim.claim)], ["Done by", shown(this.session?.user ?? "")]];
    this.facts.replaceChildren(...facts.flatMap(([term, text]) =>
      [element("dt", "", term), element("dd", "", element("bdi", "", text))]));
  }

  /** Nothing is typed and nothing is done yet. */
  begin() {
    this.isDone = false;
    this.typed.value = "";
    this.typed.disabled = false;
    this.reason.disabled = false;
    this.button.hidden = false;
    this.check();
  }

  /** Asks once more about what has waited, and holds by now. Returns whether it still does. */
  async askAgain() {
    const asked = this.claim;
    const answer = await ask(`/api/lock?name=${encodeURIComponent(this.name)}`).catch(() => null);
    // Meanwhile the dialog may have been closed, and opened for another claim.
    if (this.claim !== asked || !this.dialog.open) return true;
    const claim = answer?.claims.find((other) => other.claim === asked);
    if (!claim?.held) return false;
    this.show(claim, { ...answer, seen: performance.now() });
    this.begin();
    this.tell(GRANTED, "failure");
    this.typed.focus();
    return true;
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
    const { name, claim, held } = this;
    const order = { name, confirm: name, claim, held, reason: this.reason.value };
    let said = "";
    let isBroken = false;
    let isGranted = false;
    try {
      const response = await fetch("/api/break", {
        method: "POST",
        cache: "no-store",
        headers: { "content-type": "application/json", "x-globallock-token": this.session.token },
        body: JSON.stringify(order),
      });
      const answer = await response.json().catch(() => ({}));
      isBroken = answer.outcome === "broken";
      isGranted = answer.outcome === "granted";
      said = OUTCOMES[answer.outcome] ?? told(answer, response.status);
    } catch {
      said = "The server has not answered. The claim may be broken or not: look again.";
    }
    const isAsked = isGranted && await this.askAgain();
    this.isBusy = false;
    this.check();
    if (isAsked) return;
    this.isDone = true;
    this.typed.disabled = true;
    this.reason.disabled = true;
    this.button.hidden = true;
    this.tell(shown(said), isBroken ? "good" : "failure");
    setText(this.cancel, "Close");
    this.cancel.focus();
  }
}
