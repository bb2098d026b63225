"""Judges what became of all mutants."""

import collections
import fnmatch
import tomllib

from common import HERE, ROOT, SOURCES, Results, mutants_of


def forgotten(chosen):
    """The sources that no group has, and nobody has left out."""
    listed = {file for group in chosen["group"] for file in group["files"]}
    for path in sorted((ROOT / SOURCES).rglob("*.rs")):
        file = str(path.relative_to(ROOT / SOURCES).with_suffix(""))
        if file not in listed and not any(fnmatch.fnmatch(file, pattern) for pattern in chosen["left_out"]):
            yield file


def judge(chosen, part):
    """Prints the table; 1 if something is wrong, else 0."""
    results = Results()
    explanations = tomllib.loads((HERE / "explained.toml").read_text()).get("survivor", [])
    used = [False] * len(explanations)
    wrong = [f"in no group of groups.toml, nor left out there: {file}" for file in forgotten(chosen)]
    print(f"{'':24} {'viable':>6} {'killed':>6} {'survived':>8} {'explained':>9}     % {'seconds each':>13}")
    for group in chosen["group"]:
        total = collections.Counter()
        for file in group["files"]:
            counts, seconds = collections.Counter(), 0
            mutants = mutants_of(group, [file])
            for mutant in mutants:
                why, outcome = None, results.outcome(mutant)
                for number, explanation in enumerate(explanations):
                    if explains(explanation, mutant):
                        # What is noticed needs no explanation any more.
                        used[number] |= outcome in ("survived", None)
                        why = explanation["why"]
                seconds += results.all.get(mutant["key"], {}).get("seconds", 0)
                counts[outcome] += 1
                if outcome == "survived":
                    if why:
                        counts["explained"] += 1
                    else:
                        wrong.append(
                            f"survived, and is not explained: {mutant['name']}\n    {mutant['line']}"
                        )
                elif outcome is None and not part:
                    wrong.append(f"not tried: {mutant['name']}")
            total.update(counts)
            print_row(file, counts, seconds)
        percent = print_row(f"= {group['name']}", total, 0)
        if percent < group["goal"]:
            wrong.append(
                f"{group['name']}: {percent:.1f} % of the viable are killed, {group['goal']} % should be"
            )
    for explanation, is_used in zip(explanations, used):
        if not is_used:
            wrong.append(f"explained, but none survives: {explanation['file']}: {explanation['mutant']}")
        if not explanation["why"].startswith(("equivalent: ", "promptness: ")):
            what = f"{explanation['file']}: {explanation['mutant']}"
            wrong.append(f"neither equivalent nor a matter of promptness: {what}")
    print("\n".join(["", *wrong]) if wrong else "\nEvery survivor is explained.")
    return 1 if wrong else 0


def explains(explanation, mutant):
    """By file, change and, where several in a function are called the same, by the line that is changed."""
    return (
        explanation["file"] == mutant["file"]
        and explanation["mutant"] == mutant["what"]
        and explanation.get("line", mutant["line"]) == mutant["line"]
    )


def print_row(name, counts, seconds):
    killed = counts["killed"] + counts["timeout"]
    viable = killed + counts["survived"]
    # What cannot be told from the original is no mutant that could be killed, but counts as one here all the
    # same.
    percent = 100 * killed / viable if viable else 100.0
    tried = viable + counts["unviable"]
    each = f"{seconds / tried:.1f}" if tried and seconds else ""
    late = f"  ({counts['timeout']} by the time limit)" if counts["timeout"] else ""
    left = f"  ({counts[None]} not tried)" if counts[None] else ""
    print(
        f"{name:24} {viable:6} {killed:6} {counts['survived']:8} {counts['explained']:9} {percent:5.1f}"
        f" {each:>13}"
        f"{late}{left}"
    )
    return percent
