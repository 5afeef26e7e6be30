"""The examples of docs/extending.md: each is short, fits the interface it is of, and runs as the page says."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

import wm_lightning.data
import wm_lightning.networks
import wm_lightning.rewards
from tests.networks.tiny import other_action
from tests.system.conftest import QUICK, environment
from tests.system.server import ROOT
from wm_lightning.clip import ActionState, Condition, Texts
from wm_lightning.config import CONFIG_DIR, compose
from wm_lightning.config_check import check
from wm_lightning.data.formats.episode import Reader
from wm_lightning.networks.denoiser import Denoiser, Denoises
from wm_lightning.networks.masks import FrameMask
from wm_lightning.noising import RectifiedFlow
from wm_lightning.rewards.reward import Reward
from wm_lightning.sampling.rollout import Commit, Plan, SeededNoise, rollout
from wm_lightning.sampling.samplers import DDIMSampler, StepList
from wm_lightning.tasks.build import build_data, plain_node

PAGE = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"^`([\w/]+\.(?:py|yaml))`:\n\n```(?:python|yaml)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^python run\.py (.*)$", PAGE, re.MULTILINE)
PACKAGES = (wm_lightning.data, wm_lightning.networks, wm_lightning.rewards)
FRAMES = 15


def write_files(folder: Path) -> None:
    """The page's files at the places it gives them."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of configs with the page's, whose code this process finds as if it stood in the package."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(CONFIG_DIR, folder / "conf")
    write_files(folder)
    before, known = [list(package.__path__) for package in PACKAGES], set(sys.modules)
    for package in PACKAGES:
        package.__path__.append(str(folder / package.__name__.replace(".", "/")))
    importlib.invalidate_caches()
    yield folder / "conf"
    for package, path in zip(PACKAGES, before, strict=True):
        package.__path__[:] = path
    for name in (name.removesuffix(".py").replace("/", ".") for name in FILES if name.endswith(".py")):
        if name in set(sys.modules) - known:
            package, _, short = name.rpartition(".")
            delattr(sys.modules[package], short)
            del sys.modules[name]


def write_episodes(root: Path) -> np.ndarray:
    """A few episodes a split whose frames show their number; returns the actions of the first one of `train`."""
    source, first = np.random.default_rng(0), np.empty(0)
    for split, count in (("train", 4), ("val", 3), ("test", 4)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            video = source.integers(0, 200, (FRAMES, 16, 16, 3), np.uint8)
            video[:, 0, 0, 0] = np.arange(FRAMES)
            actions = source.uniform(-2, 2, (FRAMES, 2))
            np.savez(root / split / f"{number}.npz", video=video, actions=actions)
            first = actions if (split, number) == ("train", 0) else first
    return first


def checked(conf: Path, *words: str) -> DictConfig:
    config = compose([*words, "size=debug"], config_dir=conf)
    check(config)
    return config


def test_the_page_has_three_short_examples() -> None:
    assert [name.rsplit("/", 1)[0] for name in FILES] == [
        "wm_lightning/data", "conf/data", "wm_lightning/networks", "conf/network", "wm_lightning/rewards", "conf/reward"
    ]  # fmt: skip
    assert len(COMMANDS) == 3
    for name, text in FILES.items():
        assert len([line for line in text.splitlines() if line]) < 40, f"{name} is no short example"
        assert max(map(len, text.splitlines())) <= 120, name


def test_a_data_set_of_ones_own(extended: Path, tmp_path: Path) -> None:
    stored = write_episodes(tmp_path / "episodes")
    config = checked(extended, "experiment=teacher", "data=arrays", f"data.root={tmp_path / 'episodes'}")
    data = build_data(config)
    reader = data.reader("train")
    assert isinstance(reader, Reader) and len(reader) == 4 and reader.length(0) == FRAMES and not data.simulated
    episode = reader.read(0, 0, 6)
    assert episode.state.tolist() == [ActionState.NONE] + 5 * [ActionState.GIVEN]
    np.testing.assert_allclose(episode.actions[1:], stored[:5].clip(-1, 1), atol=1e-6)
    inside = reader.read(0, 4, 6)
    assert inside.video[:, 0, 0, 0].tolist() == [4, 5]
    np.testing.assert_array_equal(inside.actions, episode.actions[4:])
    (clip,) = data.clips("test", count=4, frames=13, batch_size=4)
    assert clip.video.shape == (4, 13, 3, 16, 16) and config.network.actions == 2
    with pytest.raises(ValueError, match="data.root=PATH"):
        build_data(checked(extended, "experiment=teacher", "data=arrays"))


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 2])
def test_a_network_of_ones_own(extended: Path, chunk: int) -> None:
    config = checked(extended, "experiment=teacher", "network=mean_net", "data.height=8", "data.width=8")
    config.network.actions = 3
    network = instantiate(plain_node(config, "network"))()
    model = Denoiser(network, RectifiedFlow(prediction="x0", loss_sigma_floor=0.05, label_scale=1000.0))
    assert isinstance(model, Denoises)
    source = torch.Generator().manual_seed(0)
    state = torch.full((2, 5), int(ActionState.GIVEN))
    driven = Condition(torch.randn(2, 5, 3, generator=source), state)
    context = torch.randn(2, 1, 3, 8, 8, generator=source)
    plan = Plan(chunk, FrameMask(chunk), None, 0, Commit("clean", 0.0))

    def made(condition: Condition) -> torch.Tensor:
        sampler = DDIMSampler(StepList("uniform", 2), 0.0)
        return rollout(model, sampler, context, condition, plan, SeededNoise(0, "test", (0, 1)))

    usual, last, early = made(driven), made(other_action(driven, 4)), made(other_action(driven, 1))
    seen = 5 - chunk
    torch.testing.assert_close(last[:, :seen], usual[:, :seen], atol=0, rtol=0)
    assert (last - usual)[:, 4].abs().max() > 1e-4 and (early - usual)[:, 4].abs().max() > 1e-6


def test_a_reward_of_ones_own(extended: Path) -> None:
    config = checked(extended, "experiment=wmsd_rl_only", "reward=stillness")
    bus = instantiate(config.module.judges)(None)
    (reward,) = (weighted.reward for weighted in bus.rewards.values())
    assert isinstance(reward, Reward)
    videos = torch.zeros(2, 4, 3, 8, 8, dtype=torch.uint8)
    videos[1, ::2] = 255
    texts = Texts(("a", "b"), ("wait", "wait"), ("", ""))
    scores = bus(videos, texts)
    assert scores.of("stillness").tolist() == pytest.approx([0.02, 0.02 - 1]) and bool(scores.valid.all())
    assert not reward(videos[:, :1], texts).valid.any()
    bus.close()


def test_a_file_elsewhere_is_refused(extended: Path) -> None:
    config = replace_target(compose(["reward=stillness", "size=debug"], config_dir=extended))
    with pytest.raises(ValueError, match="is not allowed; a _target_ begins with one of"):
        check(config)


def replace_target(config: DictConfig) -> DictConfig:
    config.reward._target_ = "mine.stillness.still_judges"
    return config


@pytest.mark.nightly
@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run(command: str, cache: Path, tmp_path: Path) -> None:
    """In a copy of the project to which the page's files were added, as its reader would add them."""
    for name in ("conf", "sweeps", "wm_lightning"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", tmp_path)
    write_files(tmp_path)
    write_episodes(tmp_path / "episodes")
    words = shlex.split(command.replace("EPISODES", str(tmp_path / "episodes")))
    more = [] if "wmsd" in command else [*QUICK, "module.iterations=2"]
    done = subprocess.run(
        [sys.executable, "run.py", *dict.fromkeys([*words, *more]), f"run_dir={tmp_path / 'run'}"],
        cwd=tmp_path, env=environment(cache), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"python run.py {command}\n{done.stderr[-3000:]}"
    assert list((tmp_path / "run").glob("*.safetensors"))
