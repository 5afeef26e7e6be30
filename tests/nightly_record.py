"""Writes what the nightly tier found, by which revision and where, for the repository to keep."""

import json
import time
from pathlib import Path

import pytest

from wm_lightning.environment import environment, revision

OPTION = "--record"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, metavar="FILE", default=None, help="write outcome and seconds of every test to FILE")


class Recorder:
    """Collects the reports of all workers in the process that shows them."""

    def __init__(self, path: Path) -> None:
        self.path, self.started = path, time.time()
        self.tests: dict[str, dict[str, str | float]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            entry: dict[str, str | float] = {"outcome": report.outcome, "seconds": round(report.duration, 1)}
            self.tests[report.nodeid] = entry

    def pytest_sessionfinish(self) -> None:
        found = environment()
        content = {
            "revision": revision(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "seconds": round(time.time() - self.started, 1),
            "machine": {name: found[name] for name in ("processor", "cores", "python")},
            "tests": dict(sorted(self.tests.items())),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(content, indent=1) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption(OPTION)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(path)), "recorder")
