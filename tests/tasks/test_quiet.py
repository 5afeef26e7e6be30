"""The log without noise: each line once, no adverts, and every real warning still there."""

import io
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from wm_lightning.tasks.build import shown_command
from wm_lightning.tasks.quiet import quiet

RANK_ZERO = "lightning.pytorch.utilities.rank_zero"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging and warnings are global: what `quiet` changes is put back."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric", RANK_ZERO)
    kept = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}
    filters = logging.getLogger(RANK_ZERO).filters[:]
    with warnings.catch_warnings():
        yield
    for name, (handlers, propagate) in kept.items():
        logging.getLogger(name).handlers[:], logging.getLogger(name).propagate = handlers, propagate
    logging.getLogger(RANK_ZERO).filters[:] = filters


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("GPU available: False, used: False", False),
        ("💡 Tip: For seamless cloud logging and experiment tracking, try installing [litlogger]", False),
        ("GPU available but not used. You can set it by doing `Trainer(accelerator='gpu')`.", True),
        ("Restoring states from the checkpoint path at last.ckpt", True),
    ],
)
def test_dull_lines_go_and_others_stay(line: str, kept: bool, caplog: pytest.LogCaptureFixture) -> None:
    quiet()
    with caplog.at_level(logging.INFO):
        logging.getLogger(RANK_ZERO).info(line)
    assert (line in caplog.messages) is kept


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("The `srun` command is available on your system but is not used.", False),
        ("The number of training batches (6) is smaller than the logging interval", False),
        ("`isinstance(treespec, LeafSpec)` is deprecated, use something else", False),
        ("The number of training batches is zero", True),
        ("Experiment logs directory csv exists and is not empty.", True),
    ],
)
def test_false_alarms_go_and_real_warnings_stay(message: str, kept: bool) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quiet()
        warnings.warn(message, UserWarning, stacklevel=1)
    assert bool(seen) is kept


@pytest.mark.slow
def test_lightning_logs_every_line_once() -> None:
    code = (
        "import logging, wm_lightning; logging.basicConfig(format='%(name)s %(message)s', level='INFO')\n"
        "import lightning\n"
        "from wm_lightning.tasks.quiet import quiet\n"
        f"logging.getLogger({RANK_ZERO!r}).info('as it comes')\n"
        "quiet(); quiet()\n"
        f"logging.getLogger({RANK_ZERO!r}).info('in quiet')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stderr.count("as it comes"), done.stderr.count("in quiet")) == (2, 1)


def test_no_line_holds_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "nobody-may-see-this")
    written = io.StringIO()
    handler, sender = logging.StreamHandler(written), logging.getLogger("of.another.package")
    logging.getLogger().addHandler(handler)
    try:
        for _ in range(2):
            quiet()
        assert len(handler.filters) == 1
        sender.warning("asked with Bearer %s in %d s", "nobody-may-see-this", 3)
        sender.warning("100% of nothing %s")
    finally:
        logging.getLogger().removeHandler(handler)
    assert written.getvalue() == "asked with Bearer <environment: SOME_SERVICE_TOKEN> in 3 s\n100% of nothing %s\n"


def test_a_card_shows_the_command_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "nobody-may-see-this")
    monkeypatch.setattr(sys, "argv", ["run.py", "seed=1", "+module.key=nobody-may-see-this", "run_dir=here"])
    assert shown_command() == "python run.py seed=1 +module.key=<environment: SOME_SERVICE_TOKEN>"
