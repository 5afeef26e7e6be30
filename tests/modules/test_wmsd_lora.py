"""WMSD with adapters: one copy of the weights, which nothing changes, and roles that are adapters of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.modules.making import PATH, card, flat, teacher_file
from tests.modules.making_wmsd import SIDE, WORDS, algorithm, learn, reader, tasks, wmsd
from tests.modules.test_counts_and_resume import Save, assert_same, everything
from tests.modules.test_wmsd import rollouts
from wm_lightning.adapted_checkpoints import read_adapted
from wm_lightning.checkpoints import load_into, weights_hash
from wm_lightning.clip import Clip, Condition, Prompt
from wm_lightning.data.task_datamodule import prompted
from wm_lightning.modules.average import Average
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_surrogates import AWM
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.lora import Adapters, LoRA, Role, merged
from wm_lightning.networks.masks import FrameMask

pytest.importorskip("peft")

TARGETS = r"blocks\.\d+\.(attention\.projections\.(qkv|out)|prompt\.(q|kv|out)|mlp\.[02])"
LAYERS = 2 * 7
ADAPTERS = LoRA(rank=4, alpha=8.0, targets=TARGETS)
REWARDED: dict[str, Any] = {"demonstrator": "rewarded", "turns": (1, 2)}


def adapted(**changes: Any) -> WMSDModule:
    return wmsd(**({"lora": ADAPTERS} | changes))


def fill(module: WMSDModule, *roles: str, seed: int = 0) -> None:
    """Gives roles adapters that do something: their second matrices begin at 0."""
    source = torch.Generator().manual_seed(seed)
    for role in roles:
        own = getattr(module, role)
        for parameter in (own.network if role == "average" else own).parameters():
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=source))


def base_of(module: WMSDModule) -> dict[str, Tensor]:
    assert module.base is not None
    weights = module.base.network.state_dict()
    return {name.replace(".base_layer", ""): value for name, value in weights.items() if ".lora_" not in name}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    data = tasks(tmp_path_factory.mktemp("cache"))
    data.prepare_data()
    return next(data.clips("train", 2, 1, 2))


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[Tensor, Tensor, Condition]]:
    """A clip under noise, and words."""
    source = torch.Generator().manual_seed(1)
    words = torch.randint(1, WORDS.buckets, (2, 6), generator=source)
    condition = prompted(Prompt(words, torch.ones(2, 6, dtype=torch.bool)), 5, 0)
    yield torch.randn(2, 5, 3, SIDE, SIDE, generator=source), torch.tensor([0.0, *[0.7] * 4]).expand(2, -1), condition


def said(network: nn.Module, asked: tuple[Tensor, Tensor, Condition]) -> Tensor:
    return Denoiser(network, PATH).x0(*asked, None, FrameMask(None))[0]


def test_one_copy_of_the_weights_and_gradients_of_the_adapter_alone(tmp_path: Path) -> None:
    module = adapted()
    before = weights_hash(base_of(module))
    assert before == module.start
    first = flat([p.detach().clone() for p in module.network.parameters()])
    learn(module, tmp_path / "run")
    assert weights_hash(base_of(module)) == before
    learning = {name for name, p in module.named_parameters() if p.requires_grad}
    assert len(learning) == 2 * LAYERS and all(name.endswith(".executor.weight") for name in learning)
    assert {name for name, p in module.named_parameters() if p.grad is not None} <= learning
    moved = flat([p.detach() for p in module.network.parameters()])
    assert not torch.equal(moved, first)
    assert not torch.equal(moved, flat([p for p in module.average.network.parameters()]))
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in reader().parameters()) + 2 * len(moved)
    assert module.iterations == 4 and not int(module.skipped)


def test_at_first_all_roles_are_the_base(asked: tuple[Tensor, Tensor, Condition]) -> None:
    module = adapted()
    with torch.no_grad():
        plain = said(reader().eval(), asked)
        for role in (module.network, module.demonstrator, module.average.network):
            assert torch.equal(said(role, asked), plain)


def test_the_demonstrator_stays_as_it_was(tmp_path: Path, asked: tuple[Tensor, Tensor, Condition]) -> None:
    module = adapted()
    before = said(module.demonstrator, asked).detach().clone()
    learn(module, tmp_path / "run")
    assert torch.equal(said(module.demonstrator, asked), before)
    assert not torch.equal(said(module.network, asked), before)


def test_the_gap_is_what_was_told_and_what_was_learned(clip: Clip, tmp_path: Path) -> None:
    module = adapted()
    made, asked, told = rollouts(module, clip, tmp_path)
    gap = lambda condition: float((module.taught(made, condition) - made.velocities).square().mean())  # noqa: E731
    assert gap(asked) < 1e-6 < 1e-3 < gap(told)
    fill(module, "network")
    made, asked, _ = rollouts(module, clip, tmp_path)
    assert gap(asked) > 1e-3


def test_every_role_runs_with_its_own_adapter(asked: tuple[Tensor, Tensor, Condition]) -> None:
    module = adapted(algorithm=algorithm(**REWARDED))
    fill(module, "network", "demonstrator", "average")
    for role in (module.network, module.demonstrator, module.average.network):
        whole = reader()
        whole.load_state_dict(merged(base_of(module), dict(role.named_parameters()), ADAPTERS))
        with torch.no_grad():
            torch.testing.assert_close(said(role, asked), said(whole.eval(), asked), atol=1e-5, rtol=1e-5)


def test_what_was_worn_is_worn_again() -> None:
    adapters = Adapters(nn.Sequential(nn.Linear(3, 3)), LoRA(2, 2.0, ["0"]), ["a", "b"], ["a"])
    with torch.no_grad(), adapters.wearing("b"):
        with pytest.raises(KeyError), adapters.wearing("a"):
            raise KeyError
        assert adapters.worn == "b"
    with pytest.raises(KeyError), adapters.wearing("b"):
        raise KeyError
    assert adapters.worn is None
    with adapters.wearing("b"):
        pass
    assert adapters.worn == "b", "its backward pass may run layers again"
    assert [p.requires_grad for p in adapters.named("a").values()] == [True, True]
    assert not any(p.requires_grad for p in adapters.named("b").values())


@pytest.mark.parametrize("name", ["network", "demonstrator"])
def test_gradients_survive_checkpointing_and_passes_of_others(
    name: str, asked: tuple[Tensor, Tensor, Condition]
) -> None:
    """Layers that run again in the backward pass wear what they wore, whoever was asked in between."""
    found: list[Tensor] = []
    for checkpointing in (False, True):
        module = adapted(algorithm=algorithm(**REWARDED))
        fill(module, "network", "demonstrator", "average")
        module.base.network.gradient_checkpointing = checkpointing  # type: ignore[union-attr,assignment]
        role = getattr(module, name)
        loss = said(role, asked).square().mean()
        with torch.no_grad():
            for other in (module.average.network, module.network, module.demonstrator):
                said(other, asked)
        loss.backward()
        found.append(flat([p.grad for p in role.parameters()]))
    assert bool(found[0].any())
    torch.testing.assert_close(found[0], found[1], atol=1e-7, rtol=1e-5)


def test_what_is_remembered_is_what_the_adapted_network_saw(asked: tuple[Tensor, Tensor, Condition]) -> None:
    module, mask = adapted(), FrameMask(1)
    fill(module, "network")
    x_t, t, condition = asked
    with torch.no_grad():
        whole, _ = Denoiser(module.network, PATH).x0(x_t, t, condition, None, mask)
        model = Denoiser(module.network, PATH)
        past = model.remember(x_t[:, :2], t[:, :2], condition.frames(0, 2), None, mask)
        cached, _ = model.x0(x_t[:, 2:], t[:, 2:], condition.frames(2, 5), past, mask)
    torch.testing.assert_close(cached, whole[:, 2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("stop", "changes"),
    [
        (1, {}),
        (3, {"surrogate": AWM(draws=2, weighting="t", p=1.0, aggregation="sum_first", clip=0.2, trust=0.1)}),
        (2, {"algorithm": algorithm(**REWARDED), "ema_every": 2, "ema_power": True}),
    ],
    ids=["awm", "trust", "rewarded"],
)
def test_a_continued_run_is_the_same_run(tmp_path: Path, stop: int, changes: dict[str, Any]) -> None:
    whole, path = adapted(**changes), tmp_path / "saved.ckpt"
    before = everything(whole, learn(whole, tmp_path / "whole", Save(stop, path)))
    resumed = adapted(**changes)
    fill(resumed, "network", "average")
    after = everything(resumed, learn(resumed, tmp_path / "resumed", resume=path))
    assert_same(before, after)
    assert weights_hash(base_of(whole)) == weights_hash(base_of(resumed))


def test_a_checkpoint_holds_adapters_and_is_tied_to_their_base(tmp_path: Path) -> None:
    path = tmp_path / "saved.ckpt"
    learn(adapted(), tmp_path / "run", Save(2, path))
    content = torch.load(path, weights_only=True)
    kinds = {name.split(".lora_")[0].split(".blocks")[0] for name in content["state_dict"]}
    assert kinds == {"iteration", "skipped", "network", "average.network", "average.updates"}
    of_network = [name for name in content["state_dict"] if "network" in name]
    assert all(".lora_A.weight" in name or ".lora_B.weight" in name for name in of_network)
    assert len(of_network) == 2 * 2 * LAYERS
    moments = [state for optimizer in content["optimizer_states"] for state in optimizer["state"].values()]
    assert len(moments) == 2 * LAYERS
    other = adapted(start=teacher_file(shifted(reader())))
    with pytest.raises(ValueError, match="executor began as the base .* module.start"):
        learn(other, tmp_path / "other", resume=path)


def shifted(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        parameter.data += 0.1
    return network


def test_the_exported_network_is_the_adapted_one_under_the_names_of_its_base(
    tmp_path: Path, asked: tuple[Tensor, Tensor, Condition]
) -> None:
    module, path, start = adapted(iterations=2), tmp_path / "saved.ckpt", teacher_file(reader())
    module.card = card().to_dict()
    learn(module, tmp_path / "run")
    fill(module, "average")
    module.trainer.save_checkpoint(path)
    file, network = read_adapted(path, start), reader()
    load_into(network, file, "the export")
    with torch.no_grad():
        expected, found = (said(one, asked) for one in (module.deployed, network.eval()))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert float((found - said(reader().eval(), asked)).abs().max()) > 1e-2
    assert file.card.iterations == 2 and file.weights.keys() == start.weights.keys()
    with pytest.raises(ValueError, match="adapters of the network .* module.start"):
        read_adapted(path, teacher_file(shifted(reader())))


def test_an_adapter_of_something_else_is_not_merged() -> None:
    with pytest.raises(ValueError, match="is of 1 layers that the network lacks, as head"):
        merged({}, {"head.lora_A.weight": torch.ones(2, 3), "head.lora_B.weight": torch.ones(3, 2)}, ADAPTERS)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["nothing"], "targets=.*nothing.* cannot be adapted"),
        (r"prompt\.layers\.0\.linear1", "inside prompt.layers.0, whose kernels read its weights"),
        (["words"], "a Embedding; name linear layers"),
    ],
)
def test_layers_that_an_adapter_would_do_nothing_to_are_refused(targets: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        adapted(lora=LoRA(4, 8.0, targets))


def test_validation_asks_the_average(tmp_path: Path) -> None:
    module, worn = adapted(iterations=2), []
    module.base.network.register_forward_hook(  # type: ignore[union-attr]
        lambda *_: worn.append(module.network.adapters.worn) if module.trainer.validating else None  # type: ignore
    )
    learn(module, tmp_path / "run", limit_val_batches=1, val_check_interval=2)
    assert worn and set(worn) == {"average"}
    assert "val/score" in module.trainer.callback_metrics


def test_an_average_may_step_seldom_and_hasten_at_first() -> None:
    def followed(**changes: Any) -> list[float]:
        role, settings = nn.Linear(1, 1, bias=False), dict(decay=0.9, start=0, every=1, power=False) | changes
        average = Average(role, kept_in=nn.Linear(1, 1, bias=False), **settings)
        role.weight.data.fill_(1.0)
        average.network.weight.data.fill_(0.0)  # type: ignore[operator,union-attr]
        values = []
        for _ in range(4):
            average.update(role)
            values.append(round(float(average.network.weight), 6))  # type: ignore[arg-type]
        return values

    assert followed() == [0.1, 0.19, 0.271, 0.3439]
    assert followed(every=2) == [0.0, 0.1, 0.1, 0.19]
    assert followed(power=True)[:2] == [round(1 - 2 / 11, 6), round(1 - 2 / 11 * 3 / 12, 6)]
    assert followed(start=2, every=4) == [1.0] * 4
    with pytest.raises(ValueError, match="module.ema_every=0"):
        followed(every=0)


def test_roles_are_no_networks_of_their_own() -> None:
    module = adapted()
    assert isinstance(module.network, Role) and module.network.remembers
    assert not list(module.demonstrator.parameters()) and not module.demonstrator.state_dict()
