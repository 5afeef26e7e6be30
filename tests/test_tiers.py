"""Which tier a test without a mark runs in."""

import json

from tests.tiers import LONG, MEASURED, QUICK, tiers


def test_one_case_of_what_takes_long_runs_by_day_and_the_others_by_night() -> None:
    seconds = {"a[1]": QUICK / 2, "a[2]": QUICK + 1, "a[3]": QUICK + 1, "b": LONG + 1, "c": QUICK, "d[1]": LONG + 1}
    order = ["a[1]", "a[2]", "a[3]", "b", "c", "new", "d[1]", "d[2]"]
    assert tiers(order, seconds) == {"a[2]": "slow", "a[3]": "nightly", "b": "nightly", "d[1]": "nightly"}


def test_a_measured_test_is_one_that_there_is() -> None:
    """A renamed test loses its tier: most of what was measured is still there."""
    names = {name.split("::")[0] for name in json.loads(MEASURED.read_text())}
    gone = [name for name in names if not (MEASURED.parents[1] / name).is_file()]
    assert not gone, f"{gone} are no more; measure anew: ./wm pytest --seconds=tests/seconds.json"
