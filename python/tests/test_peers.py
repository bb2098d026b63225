"""The lock tests of other packages have here the outcomes that docs/peers.md lists, in both directions."""

import os
import re
import sys

import pytest
from conftest import ROOT
from peers.suites import SUITES, outcomes

PAGE = ROOT / "docs" / "peers.md"
#: What the table says of a test, and what pytest must report then.
REPORTED = {
    "passes": "passed",
    "differs": "failed",
    "internal": "failed",
    "skipped": "skipped",
    # Run, and not judged.
    "races": None,
}

FRAMEWORKS = os.environ.get("GLOBALLOCK_FRAMEWORKS") == "1"
ALL = os.environ.get("GLOBALLOCK_PEERS") == "all"


def table(title):
    """What docs/peers.md says of each test of a suite, and why."""
    section = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    [mine] = [text for text in section if text.partition("\n")[0].startswith(f"{title} (")]
    rows = re.findall(r"^\| (\w+) \| (`.*?`) \| (\w+) \| (.*?) ?\|$", mine, flags=re.MULTILINE)
    found = {}
    for group, tests, result, why in rows:
        for test in re.findall(r"`(\w+)`", tests):
            assert f"{group}.{test}" not in found, f"{title}: {group}.{test} is listed twice"
            found[f"{group}.{test}"] = (result, why)
    return found


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.title)
def test_the_table_gives_each_result_that_is_no_pass_its_reason(suite):
    listed = table(suite.title)
    assert listed
    for test, (result, why) in listed.items():
        assert result in REPORTED, f"{suite.title}: {test}"
        assert (result == "passes") == (not why), f"{suite.title}: {test} needs a reason unless it passes"


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.title)
def test_each_test_of_a_peer_has_the_outcome_of_the_table(suite, request, tmp_path):
    if not (ALL or FRAMEWORKS and suite.always):
        pytest.skip("run by `make peers`" if FRAMEWORKS else "run on the newest CPython only")
    ports = {kind: request.getfixturevalue(f"{kind}_server").port for kind in suite.servers}
    found = {test.partition(".")[2]: result for test, result in outcomes(suite, ports, tmp_path).items()}
    listed = table(suite.title)
    assert sorted(found) == sorted(listed), "the tests of the suite are those of the table"
    wrong = {
        test: f"{result}, but the table says that it {listed[test][0]}"
        for test, result in found.items()
        if REPORTED[listed[test][0]] not in (None, result)
    }
    if wrong:
        print((tmp_path / "output").read_text(), file=sys.stderr)
    assert not wrong
