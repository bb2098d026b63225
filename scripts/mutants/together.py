"""One source that holds many mutants, of which a variable of the environment chooses one: built once, tried
one by one.

Where cargo-mutants would write one change, `gather` writes both and asks `crate::mutant::on(N)`. Its spans
say where; the grammar of tree-sitter says how far an expression, an arm or a guard goes. What cannot be asked
at run time (a field of a struct, whatever does not build) is left to be tried alone.
"""

from dataclasses import dataclass, field

import tree_sitter
import tree_sitter_rust

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))

VARIABLE = "GLOBALLOCK_MUTANT"
# What `gather`'s sources ask. Nothing is chosen where the variable is not set.
ASKED = (
    """
#[allow(missing_docs)]
pub mod mutant {
    pub fn on(number: u32) -> bool {
        static CHOSEN: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
        *CHOSEN.get_or_init(|| {
            std::env::var("%s").ok().and_then(|chosen| chosen.parse().ok()).unwrap_or(0)
        }) == number
    }
}
"""
    % VARIABLE
)


@dataclass
class Site:
    """A range of the source that is written again, with what its mutants put there."""

    start: int
    end: int
    kind: str
    # For operators: their range. Number and replacement of each mutant.
    operator: tuple = (0, 0)
    mutants: list = field(default_factory=list)
    inner: list = field(default_factory=list)


class Gathered:
    """The text, and which mutants a place in it belongs to."""

    def __init__(self, text):
        self.text = text
        # (start, end, numbers), outer before inner.
        self.ranges = []

    def blamed(self, place):
        """The mutants of the innermost range around a byte of the text."""
        around = [(end - start, numbers) for start, end, numbers in self.ranges if start <= place <= end]
        return min(around)[1] if around else []


def gather(source, mutants):
    """`source` (bytes) with `mutants`, pairs of number and cargo-mutants' entry; and the numbers that are
    left out."""
    tree = PARSER.parse(source)
    places = Places(source)
    sites, alone = {}, []
    for number, mutant in mutants:
        start, end = places.span(mutant["span"])
        found = find(tree.root_node, source, start, end, mutant)
        if found is None:
            alone.append(number)
            continue
        site = sites.setdefault((found.start, found.end, found.kind), found)
        site.mutants.append((number, mutant["genre"], mutant["replacement"]))
    gathered = Gathered("")
    # An insertion comes before what begins at the same place, and what encloses before what it encloses.
    order = sorted(sites.values(), key=lambda site: (site.start, site.kind not in INSERTED, -site.end))
    root = Site(0, len(source), "root")
    stack = [root]
    for site in order:
        while stack[-1].end <= site.start and stack[-1] is not root and not stack[-1].start == site.start:
            stack.pop()
        while site.end > stack[-1].end:
            stack.pop()
        stack[-1].inner.append(site)
        if site.kind not in INSERTED:
            stack.append(site)
    out = Writer(source, gathered)
    out.within(root, 0, len(source))
    gathered.text = out.text()
    return gathered, alone


INSERTED = ("body", "arm")


def find(root, source, start, end, mutant):
    genre = mutant["genre"]
    if genre == "FnValue":
        # All values that a function with such a result returns have one type.
        if "impl " in (mutant["function"] or {}).get("return_type", ""):
            return None
        return Site(start, start, "body")
    if genre == "BinaryOperator":
        node = root.descendant_for_byte_range(start, end)
        while node is not None and node.type not in ("binary_expression", "compound_assignment_expr"):
            node = node.parent
        if node is None or node.child_by_field_name("operator").start_byte != start:
            return None
        kind = "binary" if node.type == "binary_expression" else "assigned"
        return Site(node.start_byte, node.end_byte, kind, (start, end))
    if genre == "UnaryOperator":
        node = root.descendant_for_byte_range(start, end)
        while node is not None and node.type != "unary_expression":
            node = node.parent
        if node is None or node.start_byte != start:
            return None
        return Site(node.start_byte, node.end_byte, "unary", (start, end))
    node = root.descendant_for_byte_range(start, end)
    while node is not None and node.type != "match_arm":
        node = node.parent
    if node is None:
        return None
    pattern = node.child_by_field_name("pattern")
    guard = pattern.child_by_field_name("condition")
    if guard is not None:
        if guard.type in ("let_condition", "let_chain"):
            return None
        return Site(guard.start_byte, guard.end_byte, "guard")
    # Where the only wildcard has a guard, a match without an arm does not build, and the arm is not blamed.
    if genre == "MatchArm" and any(is_wildcard(arm, source) for arm in node.parent.children):
        return Site(pattern.end_byte, pattern.end_byte, "arm")
    return None


def is_wildcard(arm, source):
    pattern = arm.child_by_field_name("pattern")
    return pattern is not None and source[pattern.start_byte : pattern.end_byte] == b"_"


class Places:
    """Lines and columns, which count characters from 1, as bytes."""

    def __init__(self, source):
        self.lines = source.split(b"\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)

    def span(self, span):
        return self.place(span["start"]), self.place(span["end"])

    def place(self, place):
        line = self.lines[place["line"] - 1].decode()
        return self.starts[place["line"] - 1] + len(line[: place["column"] - 1].encode())


class Writer:
    def __init__(self, source, gathered):
        self.source, self.gathered = source, gathered
        self.parts, self.length = [], 0

    def text(self):
        return b"".join(self.parts)

    def put(self, part):
        part = part if isinstance(part, bytes) else part.encode()
        self.parts.append(part)
        self.length += len(part)

    def within(self, site, start, end):
        """The source between two places, with what is inside the site written again."""
        for inner in site.inner:
            if inner.start < start or inner.end > end:
                continue
            self.put(self.source[start : inner.start])
            began = self.length
            getattr(self, inner.kind)(inner)
            self.gathered.ranges.append((began, self.length, [number for number, _, _ in inner.mutants]))
            start = inner.end
        self.put(self.source[start:end])

    def alone(self, number, *parts):
        """What one mutant adds, so that it is blamed alone."""
        began = self.length
        for part in parts:
            self.put(part)
        self.gathered.ranges.append((began, self.length, [number]))

    def body(self, site):
        for number, _, replacement in site.mutants:
            self.alone(number, f"if crate::mutant::on({number}) {{ return {replacement}; }} ")

    def arm(self, site):
        for number, _, _ in site.mutants:
            self.alone(number, f" if !crate::mutant::on({number})")

    def chosen(self, site, opened, closed):
        """One of several expressions: a mutant's, in which nothing else is changed, or the original."""
        before, after = site.operator
        left, right = self.source[site.start : before], self.source[after : site.end]
        for number, _, new in site.mutants:
            self.alone(
                number, f"if crate::mutant::on({number}) {{{opened}", left, new, right, f"{closed}}} else "
            )
        self.put(f"{{{opened}")
        self.within(site, site.start, site.end)
        self.put(f"{closed}}}")

    def binary(self, site):
        self.put("(")
        self.chosen(site, "(", ")")
        self.put(")")

    unary = binary

    def assigned(self, site):
        self.put("{ ")
        self.chosen(site, " ", " ")
        self.put(" }")

    def guard(self, site):
        def asked(*wanted):
            return [
                f"crate::mutant::on({number})" for number, *change in site.mutants if tuple(change) in wanted
            ]

        self.put("(" + "".join(f"{on} || " for on in asked(("MatchArmGuard", "true"))) + "(")
        self.within(site, site.start, site.end)
        self.put("))" + "".join(f" && !{on}" for on in asked(("MatchArmGuard", "false"), ("MatchArm", ""))))
