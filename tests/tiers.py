"""The tier of a test that carries no mark of one, by the seconds it took when it was last measured.

Quick ones are the fast tier. Of a function whose cases are not, the first runs in the slow tier, and the others by
night; one that takes very long always does. What has no entry is quick: `./wm pytest --seconds=tests/seconds.json`
measures all anew.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from wm_lightning.data.formats.atomic import atomic_file

MEASURED = Path(__file__).with_name("seconds.json")
QUICK, LONG = 1.0, 5.0  # seconds
NAMED = ("slow", "nightly")


def tiers(tests: Iterable[str], seconds: Mapping[str, float]) -> dict[str, str]:
    """The tier of those of the unmarked tests (node ids, in order) that are not quick."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    for test in tests:
        if seconds.get(test, 0.0) > QUICK:
            function = test.split("[")[0]
            found[test] = "nightly" if function in seen or seconds[test] > LONG else "slow"
            seen.add(function)
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", metavar="FILE", default=None, help="measure every test without a tier into FILE")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--seconds"):
        return
    free = {item.nodeid: item for item in items if not any(item.get_closest_marker(name) for name in NAMED)}
    for test, tier in tiers(free, json.loads(MEASURED.read_text())).items():
        free[test].add_marker(tier)


class Stopwatch:
    """Adds up what every test took, what it set up included, in the process that shows the reports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        long = {test: round(took, 1) for test, took in sorted(self.seconds.items()) if took > QUICK / 2}
        with atomic_file(self.path) as partial:
            partial.write_text(json.dumps(long, indent=0) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--seconds")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Stopwatch(Path(path)), "stopwatch")
