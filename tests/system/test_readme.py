"""The commands of README and docs: in the fast tier each composes and builds, in the slow one each runs, small."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.system.conftest import QUICK, Run
from tests.system.server import ROOT
from wm_lightning.config import compose, grid_points
from wm_lightning.config_check import check
from wm_lightning.config_overrides import prepare_arguments
from wm_lightning.tasks.preflight import check_training

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a page leaves for its reader to fill in.
FOLDER, RUN = "PATH", "DATE"


def commands(page: Path) -> list[str]:
    """The run.py commands of a page's bash blocks in their order, as their words; set-up and tests are none."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.match(r"(?:\./wm )?python run\.py(.*)", line.strip()) for line in lines)
    return [shlex.join(shlex.split(match.group(1), comments=True)) for match in found if match]


COMMANDS = [(page.name, command) for page in PAGES for command in commands(page)]


def test_the_pages_have_commands() -> None:
    words = [command for _, command in COMMANDS]
    for wanted in ("experiment=dmd_chunkwise", "data=rt1", "task=evaluate", "task=rollout", "ckpt_path=last"):
        assert any(wanted in command for command in words), f"no page shows {wanted}"


def overrides(command: str, clips: Path) -> list[str]:
    """The overrides of a command, PATH filled in; a checkpoint, which no file stands for, left out.

    Of several values, which `-m` runs one after another, the first.
    """
    words = [word.replace(FOLDER, str(clips)) for word in shlex.split(command)]
    whole = [word for word in words if RUN not in word]
    kept = prepare_arguments(whole) if whole == words else whole
    several = "-m" in words
    return [word.split(",")[0] if several else word for word in kept if not word.startswith("-")]


# By the first page that has it: what those behind the README say is composed in the fast tier and built by night.
FIRST = {command: page for page, command in reversed(COMMANDS)}


@pytest.mark.parametrize("command", FIRST)
def test_every_command_composes(command: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = overrides(command, clips)
    for point in first_point(words):
        check(compose([*words, *point]))


def first_point(words: list[str]) -> list[list[str]]:
    """The overrides of the first run of a command, which is a grid's first point, or none."""
    grid = next((word.split("=")[1] for word in words if word.startswith("ablation=")), None)
    return grid_points(grid)[:1] if grid else [[]]


@pytest.mark.parametrize("command", [
    command if page == "README.md" else pytest.param(command, marks=pytest.mark.nightly)
    for command, page in FIRST.items()
])  # fmt: skip
def test_every_command_builds(
    command: str, clips: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")  # a reader has a key
    words = overrides(command, clips)
    for point in first_point(words):
        # At the smallest size the data are simulated in a moment; what is built is the same.
        config = compose([*words, "size=debug", *point, f"cache_dir={cache}", f"run_dir={tmp_path / 'run'}"])
        check(config)
        if config.task["_target_"].endswith(".train"):
            check_training(config)


BY_DAY = pytest.param("README.md", marks=pytest.mark.slow)
BY_NIGHT = [pytest.param(page.name, marks=pytest.mark.nightly) for page in PAGES if page.name != "README.md"]


@pytest.mark.parametrize("page", [BY_DAY, *BY_NIGHT])
def test_every_command_runs(page: str, run: Run, clips: Path, tmp_path: Path) -> None:
    """A page from top to bottom in one folder, as a reader would; the README's first run is there for the others."""
    real = os.environ.get("WM_REAL_DATA")
    data = Path(real) / "oxe_mp4" if real and Path(real).is_dir() else clips
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    first = next(command for name, command in COMMANDS if name == "README.md")
    before: set[tuple[str, ...]] = set()
    for command in dict.fromkeys((first, *(command for name, command in COMMANDS if name == page))):
        words = [word.replace(FOLDER, str(data)) for word in shlex.split(command)]
        words = [filled_in(word, tmp_path) if RUN in word else word for word in words]
        words = list(dict.fromkeys((*words, *smaller(words))))
        if tuple(words) in before:
            continue
        before.add(tuple(words))
        done = run(*words, folder=tmp_path)
        assert done.code == 0, f"{page}: python run.py {command}\n{done.err[-3000:]}"
        assert "Traceback" not in done.err


def filled_in(word: str, folder: Path) -> str:
    """KEY=logs/x/DATE/file with the first run that has the file: the page's main one."""
    key, path = word.split("=", 1)
    return f"{key}={min(folder.glob(path.replace(RUN, '*')), key=lambda found: found.stat().st_mtime)}"


def smaller(words: list[str]) -> list[str]:
    """What makes a command one of seconds, and leaves it what it is."""
    given = {word.split("=")[0].lstrip("+~") for word in words}
    if "task=play" in words:
        return ["task.seconds=2", "task.port=0"]  # else it goes on until it is interrupted
    if "--help" in words or "task" in given and not {"experiment", "ckpt_path"} & given:
        return []
    if any(word.startswith("experiment=wmsd_") and word != "experiment=wmsd_base" for word in words):
        return []  # an executor's table has other settings
    more = [word for word in (*QUICK, "module.iterations=3") if word.split("=")[0].lstrip("+") not in given]
    if "ckpt_path" in given and "experiment" not in given:
        return []  # it takes the settings of the run that wrote the checkpoint
    if "ablation" in given:
        more.append("seed=0")
    return more
