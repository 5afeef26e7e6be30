"""Every algorithm on diffusers' own transformers: who moves, finite losses, clean given frames, mute tracks."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback
from torch import Tensor, nn

from tests.modules.making import flat
from tests.modules.making_wmsd import films, learn, tasks
from tests.modules.test_wmsd_diffusers import NETWORKS, made
from tests.networks.tiny_diffusers import WIDTH, Features
from wm_lightning.checkpoints import weights_hash
from wm_lightning.config import CONFIG_DIR, compose
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_algorithm import Algorithm

pytest.importorskip("peft")
pytest.importorskip("diffusers.models.transformers.transformer_ltx2")

ALGORITHMS = sorted(path.stem for path in (CONFIG_DIR / "algorithm").glob("*.yaml"))
ROLES = ("network", "demonstrator", "critic")
EXECUTOR = {"network", "average"}
# Whom each iteration moves, where it is not the executor with its average in a single one.
MOVED = {
    "alternating": [{"demonstrator"}, EXECUTOR, {"demonstrator"}],
    "demonstrator_rl": [EXECUTOR | {"demonstrator"}],
    "dmd": [EXECUTOR | {"critic"}],
}
# What an iteration says beside losses and rates.
SAID = {
    "alternating": {"demonstrator_task", "demonstrator_ratio", "demonstrator_gap"},
    "demonstrator_rl": {"demonstrator_task", "demonstrator_ratio", "demonstrator_gap", "gap"},
    "dmd": {"critic_gap", "score_gap"},
    "off_policy": {"gap"},
    "on_policy": {"ratio", "gap"},
    "on_policy_anchor": {"gap"},
    "rl_only": {"task", "ratio"},
    "sft": {"gap"},
    "wmsd": {"task", "ratio", "gap"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, which share what is made of the data."""
    return tmp_path_factory.mktemp("runs")


@cache
def algorithm(name: str) -> Algorithm:
    """That of the config; turns are of one iteration."""
    found = instantiate(compose(["experiment=wmsd_full", f"algorithm={name}"]).module.algorithm, _convert_="all")
    return replace(found, turns=(1, 1)) if found.turns else found


class Witness(Callback):
    """Whom iterations move, what they say, and whether every pass was shown a given frame, clean and at time 0."""

    def __init__(self) -> None:
        self.before: dict[str, Tensor] = {}
        self.moved: list[set[str]] = []
        self.said: list[dict[str, float]] = []
        self.given = torch.empty(0)
        self.passes = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before, self.given = weights(pl_module), batch.x0[:, 0]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        after = weights(pl_module)
        self.moved.append({name for name in after if not torch.equal(after[name], self.before[name])})
        self.said.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def sees(self, network: nn.Module, shown: tuple[Tensor, ...], _: Any) -> None:
        x_t, label = shown[:2]
        same = (x_t[:, :1] == self.given.to(x_t)).flatten(2).all(2).any(1)
        assert bool(same.all()), "a given frame was altered"
        assert not label[:, 0].any() and bool(label[:, 1:].all()), "a given frame has time 0, and no other has"
        self.passes += 1


def weights(module: WMSDModule) -> dict[str, Tensor]:
    """Of all roles that have any."""
    roles = {name: getattr(module, name) for name in ROLES if getattr(module, name) is not None}
    roles["average"] = module.average.network  # whose own are all that an average of adapters has
    own = {name: [p.detach() for p in role.parameters()] for name, role in roles.items()}
    return {name: flat(parameters).clone() for name, parameters in own.items() if parameters}


def base_of(module: WMSDModule) -> nn.Module:
    return module.base.network  # type: ignore[union-attr,return-value]


def trained(name: str, chosen: Algorithm, folder: Path, iterations: int, **changes: Any) -> tuple[WMSDModule, Witness]:
    """A module after some iterations, whose every pass was looked at."""
    network = partial(NETWORKS[name], **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the adapters
        module, witness = made(name, network=network, algorithm=chosen, iterations=iterations), Witness()
    before = unadapted(module)
    base_of(module).register_forward_pre_hook(witness.sees, with_kwargs=True)
    data = partial(films if chosen.of_films else tasks, prompter=Features(WIDTH))
    learn(module, folder, witness, data=data)
    assert unadapted(module) == before and not int(module.skipped) and witness.passes
    return module, witness


def unadapted(module: WMSDModule) -> str:
    state = base_of(module).state_dict()
    return weights_hash({key: value for key, value in state.items() if ".lora_" not in key})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("which", ALGORITHMS)
def test_every_algorithm_moves_whom_it_shall(runs: Path, which: str, name: str) -> None:
    moved = MOVED.get(which, [EXECUTOR])
    module, witness = trained(name, algorithm(which), runs / f"{which}-{name}", len(moved))
    assert witness.moved == moved and module.iterations == len(moved)
    assert all(torch.isfinite(torch.tensor([*said.values()])).all() for said in witness.said)
    first = {key.removeprefix("train/") for key in witness.said[0] if "flat" not in key}
    assert {key for key in first if key.split("_")[-1] in ("task", "ratio", "gap")} == SAID[which]
    heard = [key for key, p in module.named_parameters() if p.grad is not None and ".audio_" in key]
    assert not [key for key in heard if ".audio_attn" in key or ".audio_ff" in key]


@pytest.mark.parametrize("which", ALGORITHMS)
def test_an_isolated_track_of_sound_has_no_say(runs: Path, which: str) -> None:
    """In no loss, reward or update, whatever was drawn for it."""
    (first, one), (second, other) = (
        trained("ltx2", algorithm(which), runs / f"{which}-{seed}", 1, audio="isolated", audio_seed=seed)
        for seed in (0, 1)
    )
    assert one.said == other.said and one.said[0]
    found, expected = weights(second), weights(first)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
