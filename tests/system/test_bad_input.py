"""What a user gets wrong is one clear message and exit code 2, before anything is done and with nothing left over."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors.torch import save_file

from tests.system.conftest import QUICK, Run, fast, torn
from wm_lightning.config import compose
from wm_lightning.config_errors import ConfigError, refusal
from wm_lightning.sampling.samplers import StepList
from wm_lightning.tasks.build import build_data

DMD, TEACHER = "experiment=dmd_chunkwise", "experiment=teacher"


MISTYPED = [
    (["sead=3"], ["sead", "did you mean seed?"]),
    (["modul.iterations=3"], ["modul.iterations", "did you mean module?"]),
    (["module.iteration=3"], ["module.iteration", "did you mean iterations?"]),
    (["+module.iteration=3"], ["TeacherModule has no parameter iteration; did you mean iterations?"]),
    (["+module.optimizer.lrr=3"], ["module.optimizer.lrr", "did you mean lr?"]),
    (["task=fly"], ["task=fly does not exist", "bench, convert"]),
    (["noising=flow"], ["noising=flow does not exist", "rectified_flow"]),
    (["module.iterations=many"], ["module.iterations: TeacherModule wants int, not 'many'"]),
    (["module.action_dropout.granularity=video"], ["Literal['frame', 'clip', 'both'], not 'video'"]),
    (["+experiment.x=1"], ["experiment is not a key of the configuration"]),
    (["+module.teacher.ckpt_path=x"], ["TeacherModule has no parameter teacher"]),
]


@pytest.mark.parametrize(("words", "said"), fast(2, MISTYPED), ids=lambda part: part[0])
def test_mistyped_keys_and_values(refused: Callable[..., str], words: list[str], said: list[str]) -> None:
    refused(TEACHER, *words, said=tuple(said))


@pytest.mark.parametrize(
    ("text", "said"),
    fast(1, [
        ("module: {iteratons: 3}", "TeacherModule has no parameter iteratons; did you mean iterations?"),
        ("module: {clip_nrom: 3.0}", "did you mean clip_norm?"),
        ("modul: {iterations: 3}", "modul"),
        ("callbacks: {chekpoint: {every: 3}}", "callbacks.chekpoint has no _target_; did you mean checkpoint?"),
        ("data: {world: {lenght: 3}}", "data.world.lenght: WorldMap has no parameter lenght; did you mean length?"),
    ]),
)  # fmt: skip
def test_a_mistyped_key_in_an_experiment_file(
    refused: Callable[..., str], tmp_path: Path, text: str, said: str
) -> None:
    folder = tmp_path / "own/experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"# @package _global_\ndefaults: [teacher]\n{text}\n")
    refused(f"--config-dir={tmp_path / 'own'}", "experiment=mine", said=(said,))


UNFIT = [
    (DMD, ["rollout.chunk=5"], ["12 after 1 of context, which chunks of 5 do not divide", "module.rollout.lengths"]),
    (DMD, ["data.frames=12"], ["leaves 11 after 1 of context, which chunks of 3 do not divide"]),
    (DMD, ["rollout.window=2"], ["window=2 is shorter than sink=0 plus chunk=3", "at least 3"]),
    (TEACHER, ["rollout.window=2"], ["window=2 is shorter than sink=0 plus chunk=3", "at least 3"]),
    (DMD, ["rollout.window=4", "rollout.sink=2"], ["set rollout.window to at least 5"]),
    (TEACHER, ["rollout.chunk=5"], ["needs the mask chunkwise (5)", "framewise, chunkwise (3), bidirectional"]),
    (TEACHER, ["rollout.commit.mode=last"], ["mode 'last'", "clean at t <= 0", "set rollout.commit"]),
    (
        DMD,
        ["module.score.guidance=3.0", "module.teacher.recipe.action_dropout.share=0.0"],
        ["guidance", "dropped", "a guidance scale of 1"],
    ),
    (
        DMD,
        ["module.score.guidance=3.0", "module.teacher.recipe.action_dropout.granularity=frame"],
        ["'all'", "granularity=clip"],
    ),
    (DMD, ["module.teacher.recipe.levels.shared=0.0"], ["one level", "module.levels.shared above 0"]),
    (TEACHER, ["data.first_action=given"], ["data.first_action=given must be stored or none"]),
    (TEACHER, ["rollout=vid2world"], ["rollout.guidance needs actions dropped by frame", "granularity=frame"]),
    (DMD, ["module.rollout.grad_frames=0"], ["grad_frames=0 lets nothing learn"]),
    (DMD, ["module.rollout.lengths=[16]"], ["a rollout of 16 frames needs as many actions, clips have 13"]),
    (TEACHER, ["metrics.horizon=40"], ["metrics.context + metrics.horizon is 41 frames", "has 33"]),
    (TEACHER, ["data.val_frames=40"], ["data.val_frames is 40 frames, the longest val episode"]),
    (TEACHER, ["data.frames=40"], ["data.frames is 40 frames, the longest train episode"]),
    (TEACHER, ["data.height=32"], ["data.height=32", "24 pixels"]),
    (TEACHER, ["network.channels=16"], ["network.channels, height, width=(16, 24, 24)", "(3, 24, 24)"]),
    (TEACHER, ["metrics.horizon=2"], ["metrics.horizon=2 is shorter than a chunk of 3"]),
    (TEACHER, ["network.actions=7"], ["network.actions=7, but the data have 5"]),
    (TEACHER, ["callbacks.checkpoint.every=0"], ["callbacks.checkpoint.every is 0"]),
    (TEACHER, ["data.root=nowhere"], ["data.root=nowhere is not a folder", "null to simulate"]),
    (TEACHER, ["data=rt1", "data.root=nowhere", "data.subset=bridge"], ["data.root=nowhere is not a folder"]),
    (TEACHER, ["data=rt1", "data.subset=bridge"], ["data.subset=bridge without data.root", "data.root=PATH"]),
    (TEACHER, ["trainer.precision=16-mixed"], ["use bf16-mixed or 32-true"]),
    (TEACHER, ["trainer.strategy=fsdp"], ["trainer.strategy=fsdp is FSDP1", "trainer=fsdp shards by FSDP2"]),
    (TEACHER, ["module.optimizer.lr=-1.0"], ["the optimizer of this module cannot be made", "learning rate: -1.0"]),
    (TEACHER, ["module.start=nowhere.ckpt"], ["nowhere.ckpt: there is no such file"]),
    (TEACHER, ["data.cache_dir=/proc/x"], ["the cache /proc/x cannot be made", "data.cache_dir="]),
]  # fmt: skip


@pytest.mark.parametrize(("experiment", "words", "said"), fast(4, UNFIT), ids=lambda part: str(part))
def test_settings_that_do_not_fit_together(
    refused: Callable[..., str], experiment: str, words: list[str], said: list[str]
) -> None:
    refused(experiment, *words, said=tuple(said))


@pytest.mark.slow
def test_wandb_without_a_key(refused: Callable[..., str], tmp_path: Path) -> None:
    away = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    refused(TEACHER, "logger=wandb", said=("logger=wandb finds no key", "WANDB_API_KEY", "WANDB_MODE=offline"), **away)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.slow
def test_a_gpu_that_is_not_there(refused: Callable[..., str]) -> None:
    refused(TEACHER, "trainer=gpu", said=("trainer: No supported gpu backend found!", "Change trainer="))


class Payload:
    def __reduce__(self) -> tuple:
        return (os.mkdir, (os.environ["PAYLOAD"],))


# Name of the file, what makes it out of a whole run's folder, and what is said of it.
FILES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "absent.ckpt": (lambda path, whole: None, "there is no such file"),
    "text.ckpt": (lambda path, whole: path.write_text("hello"), ""),
    "empty.ckpt": (lambda path, whole: path.touch(), ""),
    "torn.ckpt": (lambda path, whole: torn(whole / "checkpoints/last.ckpt", path), ""),
    "torn.safetensors": (lambda path, whole: torn(whole / "teacher.safetensors", path), ""),
    "list.ckpt": (lambda path, whole: torch.save([1, 2], path), "list"),
    "other.ckpt": (lambda path, whole: torch.save({"a": torch.ones(2)}, path), ""),
    "cardless.safetensors": (lambda path, whole: save_file({"a": torch.ones(2)}, path), ""),
    "evil.ckpt": (lambda path, whole: torch.save({"state_dict": Payload(), "card": {}}, path), "code and never run"),
}


USES = {
    "teacher": [DMD, "module.teacher.ckpt_path={}"],
    "resume": [TEACHER, "ckpt_path={}"],
    "rollout": [TEACHER, "task=rollout", "ckpt_path={}"],
    "evaluate": [TEACHER, "task=evaluate", "ckpt_path={}"],
}


@pytest.mark.parametrize(
    ("use", "name"), fast(1, [(use, name) for name in reversed(FILES) for use in ("teacher", "resume", "rollout")])
)
def test_files_that_are_no_checkpoint(
    refused: Callable[..., str], teacher: Path, tmp_path: Path, name: str, use: str
) -> None:
    write, said = FILES[name]
    path, ran = tmp_path / name, tmp_path / "ran"
    os.environ["PAYLOAD"] = str(ran)
    write(path, teacher)
    if use == "resume" and name.endswith(".safetensors"):
        said = "no training that could go on"
    text = refused(*(word.format(path) for word in USES[use]), said=(name, said), PAYLOAD=str(ran))
    assert not ran.exists(), "the file's code was run"
    assert "weights_only" not in text, "advice to run the file's code"


@pytest.mark.parametrize(
    ("use", "words", "said"),
    fast(1, [
        ("teacher", ["network.dim=48"], "network.dim: 32 against 48"),
        ("teacher", ["noising=vp_sigmoid"], "path._target_"),
        ("teacher", ["data=rt1"], "action_spec"),
        ("teacher", ["data.action_shift=0"], "action_shift: 1 against 0"),
        ("resume", ["network.dim=48"], "network.dim: 32 against 48"),
        ("resume", [DMD], "of the training of a teacher, this is one of a student"),
        ("resume", ["module.iterations=9"], "module.iterations=2 then, 9 now"),
        ("resume", ["module.optimizer.lr=0.5", "data.world.seed=3"], "of a training with other settings"),
        ("evaluate", [DMD], "holds a teacher, this config is about a student; add experiment=teacher"),
        ("rollout", [DMD], "holds a teacher, this config is about a student"),
        ("rollout", ["network.dim=48"], "network.dim: 32 against 48"),
        ("rollout", ["rollout.commit.mode=last"], "set rollout.commit"),
        ("evaluate", ["rollout.chunk=5"], "chunkwise (5)"),
        ("evaluate", ["metrics.context=0"], "given frames=0: the teacher was trained with 1 clean frames"),
    ]),
)  # fmt: skip
def test_checkpoints_of_something_else(
    refused: Callable[..., str], run: Run, teacher: Path, use: str, words: list[str], said: str
) -> None:
    if "data=rt1" in words:  # its data are simulated whatever the teacher is
        build_data(compose([TEACHER, *QUICK, "data=rt1", f"cache_dir={run.__self__.cache}"]))  # type: ignore[attr-defined]
    words = [word.format(teacher / "checkpoints/last.ckpt") for word in USES[use]] + words
    refused(*words, said=(said,))


@pytest.mark.slow
def test_no_checkpoint_named(refused: Callable[..., str]) -> None:
    for task in ("evaluate", "rollout"):
        refused(DMD, f"task={task}", said=(f"task={task} needs a checkpoint: ckpt_path=RUN",))


@pytest.mark.slow
def test_a_refused_start_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    done = run(DMD, *QUICK, "rollout.window=2", "name=refused", folder=tmp_path)
    assert done.code == 2 and "window=2" in done.err
    assert not list((tmp_path / "logs").rglob("*.log")), "a folder with nothing but a log is left"


def _raised(make: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as caught:
        make()
    return caught.value


def test_only_what_the_suite_itself_refuses_loses_its_traceback() -> None:
    steps = {"_target_": "wm_lightning.sampling.samplers.StepList", "kind": "uniform"}
    wrapped = _raised(lambda: instantiate({**steps, "steps": 0}))
    assert isinstance(wrapped, InstantiationException)
    assert "self.steps=0" in str(refusal(wrapped))
    assert "self.steps=0" in str(refusal(_raised(lambda: StepList("uniform", 0))))
    # Bugs: a wrong call, a ValueError of numpy's or of Python's own, and any other kind.
    assert refusal(_raised(lambda: instantiate({**steps, "stepps": 1}))) is None
    assert refusal(_raised(lambda: np.zeros(2).reshape(3))) is None
    assert refusal(_raised(lambda: int("a"))) is None
    assert refusal(_raised(lambda: {}["a"])) is None
    assert refusal(ConfigError("never raised")) is None


@pytest.mark.slow
def test_a_developer_sees_the_traceback(run: Run, teacher: Path, tmp_path: Path) -> None:
    words = [TEACHER, "size=debug", "data.root=nowhere", f"run_dir={tmp_path / 'run'}"]
    done = run(*words, folder=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.code == 1 and "Traceback" in done.err and "data.root=nowhere" in done.err
