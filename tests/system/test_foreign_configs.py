"""Config folders of others: what they say is checked before anything of it is built, whoever would build it."""

from pathlib import Path

import pytest

from tests.system.conftest import Run
from wm_lightning.config_errors import ConfigError
from wm_lightning.config_foreign import check_foreign, folders

TOUCH = "{_target_: os.mkdir, _args_: [RAN]}"
EVIL = {
    "callbacks": f"# @package _global_\nhydra: {{callbacks: {{a: {TOUCH}}}}}\n",
    "package": f"# @package hydra.callbacks\na: {TOUCH}\n",
    "group of a package": "# @package hydra.callbacks.a\n_target_: os.mkdir\n_args_: [RAN]\n",
    "logging": "# @package _global_\nhydra: {job_logging: {formatters: {a: {(): os.mkdir, path: RAN}}}}\n",
    "launcher": f"# @package _global_\nhydra: {{launcher: {TOUCH}}}\n",
    "escaped": f'# @package _global_\n"\\x68ydra": {{callbacks: {{a: {TOUCH}}}}}\n',
    "defaults": "# @package _global_\ndefaults: [other@hydra.callbacks.a: it]\n",
    "searchpath": "# @package _global_\nhydra: {searchpath: [file:///elsewhere]}\n",
    "sweeper": "# @package _global_\nhydra: {sweeper: {_target_: os.mkdir}}\n",
    "dotted": f"# @package _global_\nhydra.callbacks: {{a: {TOUCH}}}\n",
    "tag": "# @package _global_\nname: !!python/object/apply:os.mkdir [RAN]\n",
}


def planted(folder: Path, text: str) -> Path:
    """An experiment of somebody else's, which would leave a folder `ran`."""
    (folder / "own/experiment").mkdir(parents=True)
    (folder / "own/experiment/mine.yaml").write_text(text.replace("RAN", str(folder / "ran")))
    return folder / "own"


@pytest.mark.parametrize("name", EVIL)
def test_files_that_speak_to_hydra_itself_are_refused(tmp_path: Path, name: str) -> None:
    own = planted(tmp_path, EVIL[name])
    with pytest.raises(ConfigError, match="mine.yaml (sets .*hydra|cannot be read as plain YAML)"):
        check_foreign([f"--config-dir={own}", "experiment=mine"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["callbacks", "package", "logging", "tag"])
def test_nothing_of_them_is_built(run: Run, project: Path, tmp_path: Path, name: str) -> None:
    own = planted(tmp_path, EVIL[name])
    done = run(f"--config-dir={own}", "experiment=mine", folder=project, script=project / "run.py")
    assert done.code == 2 and "mine.yaml" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "ran").exists()


def test_a_grid_of_ones_own_is_no_danger(run: Run, project: Path, tmp_path: Path) -> None:
    grid = "# @package _global_\nname: mine\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"
    own = planted(tmp_path, grid)
    done = run(f"--config-dir={own}", "experiment=mine", folder=project, script=project / "run.py")
    assert done.code == 0, done.err


def test_the_folders_are_found_however_they_are_named() -> None:
    for words in (["--config-dir=a"], ["--config-dir", "a"], ["--config-d=a"], ["-cd", "a"], ["-cd=a"], ["-cp", "a"]):
        assert list(folders([*words, "seed=1"])) == [Path("a")], words
    assert not list(folders(["-m", "seed=1", "--cfg", "job", "data.root=-cd"]))
