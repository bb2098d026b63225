// What people read of times, owners and names. All of it is put into the page as text, never as markup.

/** Characters that are not seen, or change how those around them are seen. */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u2800\u3164\u115f\u1160\uffa0]/gu;

/** A text of somebody else with what is hidden in it made visible. */
export function shown(text) {
  return String(text).replace(HIDDEN, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);
}

/** A time in its two largest units; nothing where it is not known. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.max(0, Math.floor(seconds));
  const units = [["d", Math.floor(whole / 86400)], ["h", Math.floor(whole / 3600) % 24],
    ["m", Math.floor(whole / 60) % 60], ["s", whole % 60]];
  const first = units.findIndex(([, count]) => count > 0);
  if (first === -1) return "0s";
  const [unit, count] = units[first];
  const next = units[first + 1];
  return next ? `${count}${unit} ${String(next[1]).padStart(2, "0")}${next[0]}` : `${count}${unit}`;
}

/** Who made a claim: the label, and where it runs. */
export function owner(claim) {
  const place = [claim.pid === null ? "" : `pid ${claim.pid}`, claim.host === null ? "" : `on ${shown(claim.host)}`]
    .filter(Boolean).join(" ");
  const label = claim.label === null ? "" : shown(claim.label);
  if (label && place) return `${label} (${place})`;
  return label || place || (claim.foreign ? "another program" : "unknown");
}

/** The kind of lock, and of permits how many are taken or wanted. */
export function mode(row) {
  return row.mode === "permits" ? `${row.permits}/${row.capacity}` : row.mode;
}

/** A new element with this class and these children, which are elements or text. */
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Sets a text if it is another one, so that nothing is laid out again for nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A text of somebody else, whose direction stays its own. */
export function quoted(text) {
  return element("bdi", "", shown(text));
}

/** The address of a lock's page. */
export function addressOf(name) {
  return `#/lock/${encodeURIComponent(name)}`;
}
