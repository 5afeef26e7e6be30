"""One thread, full precision, and the folders of reference numbers and real data."""

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from wm_lightning.config import CONFIG_DIR  # also puts the package's import hook before lightning's first import

TESTS = Path(__file__).parent
pytest_plugins = ["tests.nightly_record", "tests.tiers"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that no process ends the session alone with one."""
    items.sort(key=lambda item: "test_main_job" not in item.nodeid)
    # Of two processes the second begins in the middle.
    for place in [place for place, item in enumerate(items) if item.name == "test_every_command_runs[README.md]"]:
        items.insert(len(items) // 2, items.pop(place))


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def exact_arithmetic() -> Iterator[None]:
    """fp32 products in fp32 on one thread, whatever a test before this one switched on."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    yield


@pytest.fixture
def interrupts_heeded() -> Iterator[None]:
    """Ctrl-C as in a terminal: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def goldens() -> Path:
    """The folder of reference numbers: WM_GOLDENS, else the small ones that come with the project."""
    return Path(os.environ.get("WM_GOLDENS", TESTS / "goldens"))


@pytest.fixture
def real_data() -> Path:
    """The folder of real data. Skips the test, and says so, where WM_REAL_DATA names none."""
    folder = os.environ.get("WM_REAL_DATA")
    if folder is None or not Path(folder).is_dir():
        pytest.skip(f"no real data: WM_REAL_DATA={folder} names no folder")
    return Path(folder)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with run.py, the real root and machine groups, and one-value stand-ins for the rest.

    Its task returns the config it was given, as plain values.
    """
    kept = ("trainer", "logger", "launcher", "callbacks")
    folder, conf = tmp_path / "project", tmp_path / "project/conf"
    for group in kept:
        shutil.copytree(CONFIG_DIR / group, conf / group)
    shutil.copy(CONFIG_DIR / "config.yaml", conf / "config.yaml")
    shutil.copy(CONFIG_DIR.parent / "run.py", folder / "run.py")
    for entry in yaml.safe_load((conf / "config.yaml").read_text())["defaults"]:
        group, option = next(iter(entry.items())) if isinstance(entry, dict) else (None, None)
        if group and option and group not in kept and " " not in group:
            _write(conf / group / f"{option}.yaml", "width: 1\nvalidate_every: 1\n")
    _write(conf / "task/train.yaml", "_target_: wm_lightning.config_record.plain\n_partial_: true\n")
    _write(conf / "size/small.yaml", "# @package _global_\n")
    _write(conf / "size/debug.yaml", "# @package _global_\nseed: 11\n")
    _write(conf / "size/network/debug_video_dit.yaml", "width: 3\n")
    claim = "defaults:\n  - override /trainer: ddp\nname: claim\nseed: 22\nnetwork: {width: 2}\n"
    _write(conf / "experiment/claim.yaml", f"# @package _global_\n{claim}")
    _write(conf / "experiment/mistyped.yaml", "# @package _global_\nmodul: {width: 2}\n")
    grid = "hydra:\n  mode: MULTIRUN\n  sweeper: {params: {network.width: '7,8'}}\n"
    _write(folder / "sweeps/__init__.py", "")
    _write(folder / "sweeps/ablation/widths.yaml", f"# @package _global_\n{grid}")
    return folder
