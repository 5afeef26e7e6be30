"""Writes what the nightly tier found, by which revision and where, for the repository to keep.

The tier takes hours and may be run in pieces (`-k`): every test carries its own revision, date and machine, and a piece
leaves the entries of the tests it did not run as they are.
"""

import json
import time
from pathlib import Path

import pytest

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.environment import environment, revision

OPTION = "--record"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, metavar="FILE", default=None, help="write outcome and seconds of every test to FILE")


class Recorder:
    """Collects the reports of all workers in the process that shows them."""

    def __init__(self, path: Path) -> None:
        self.path, self.revision = path, revision()
        self.tests: dict[str, dict[str, str | float]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            entry: dict[str, str | float] = {"outcome": report.outcome, "seconds": round(report.duration, 1)}
            self.tests[report.nodeid] = entry

    def pytest_sessionfinish(self) -> None:
        found = environment()
        where = {"revision": self.revision, "date": time.strftime("%Y-%m-%d", time.gmtime())}
        where["machine"] = f"{found['processor']}, {found['cores']} cores, Python {found['python']}"
        before = json.loads(self.path.read_text())["tests"] if self.path.exists() else {}
        tests = before | {name: {**entry, **where} for name, entry in self.tests.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path) as partial:
            partial.write_text(json.dumps({"tests": dict(sorted(tests.items()))}, indent=1) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption(OPTION)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(path)), "recorder")
