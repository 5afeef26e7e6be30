"""The one-frame world model: its history is the last frame, guidance is its formula, dropping hides what it says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.networks.tiny import clones, other_action, randn
from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, load_into
from wm_lightning.clip import ActionState, Condition
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.world_dit import WorldDiT

SHAPE, ACTIONS, FRAMEWISE = (3, 8, 12), 4, FrameMask(1)
KINDS = [
    {"conditioning": "film", "norm": "rms"},
    {"conditioning": "additive", "norm": "layer"},
    {"conditioning": "film", "norm": "layer", "start_pooled": True},
]


def tiny(*, guidance: float = 1.0, seed: int = 0, **changes: Any) -> WorldDiT:
    settings: dict[str, Any] = dict(
        channels=SHAPE[0], height=SHAPE[1], width=SHAPE[2], patch=4, dim=16, depth=2, heads=2, mlp_ratio=2.0,
        qk_norm=True, norm="rms", conditioning="film", rope_base=100.0, frequencies=8, start="cnn", start_pooled=False,
        start_model=None, start_weights=None, actions=ACTIONS, actions_seen=True, guidance=guidance,
    )  # fmt: skip
    network = WorldDiT(**(settings | changes))
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=source))
    return network.eval()


def inputs(batch: int = 2, frames: int = 4) -> tuple[Tensor, Tensor, Condition]:
    state = torch.full((batch, frames), int(ActionState.GIVEN))
    state[:, 0] = ActionState.NONE
    label = 10 * torch.rand(batch, frames, generator=torch.Generator().manual_seed(3))
    return randn(batch, frames, *SHAPE, seed=1), label, Condition(randn(batch, frames, ACTIONS, seed=2), state)


@torch.no_grad()
def predicted(network: WorldDiT, x: Tensor, label: Tensor, condition: Condition) -> Tensor:
    prediction, _ = network(x, label, condition, None, mask=FRAMEWISE)
    assert prediction is not None
    return prediction


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_frame_by_frame_equals_all_at_once(changes: dict[str, Any]) -> None:
    network, (x, label, condition) = tiny(**changes), inputs()
    whole = predicted(network, x, label, condition)
    past, parts = None, []
    with torch.no_grad():
        for frame in range(x.shape[1]):
            now = slice(frame, frame + 1)
            before = None if past is None else clones(past)
            part, state = network(x[:, now], label[:, now], condition.frames(frame, frame + 1), past, mask=FRAMEWISE)
            if past is not None and before is not None:
                assert all(torch.equal(past.memory[name], before.memory[name]) for name in past.memory)
            past, _ = state, parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)
    _, remembered = network(x, label, condition, None, mask=FRAMEWISE, memory_only=True)
    assert past is not None and all(torch.equal(past.memory[n], remembered.memory[n]) for n in past.memory)


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_a_frame_sees_the_one_before_its_action_and_nothing_else(changes: dict[str, Any]) -> None:
    network, (x, label, condition) = tiny(**changes), inputs()
    base = predicted(network, x, label, condition)
    assert torch.equal(base[:, 0], torch.zeros_like(base[:, 0])), "a first frame is given, never made"

    def moved(found: Tensor) -> list[bool]:
        return [not torch.equal(found[:, f], base[:, f]) for f in range(1, x.shape[1])]

    other = x.clone()
    other[:, 1] += 1
    assert moved(predicted(network, other, label, condition)) == [True, True, False]
    assert moved(predicted(network, x, label, other_action(condition, 2))) == [False, True, False]


def test_without_start_and_action_nothing_is_seen() -> None:
    network, (x, label, condition) = tiny(start="none", actions_seen=False), inputs(frames=2)
    base = predicted(network, x, label, condition)
    other = x.clone()
    other[:, 0] += 1
    assert torch.equal(predicted(network, other, label, other_action(condition, 1)), base)
    assert base[:, 1].abs().mean() > 0.01


def test_a_dropped_action_hides_the_start_image_too() -> None:
    network, (x, label, condition) = tiny(), inputs(frames=2)
    other = x.clone()
    other[:, 0] += 1
    pair = [predicted(network, values, label, condition.null()) for values in (x, other)]
    assert torch.equal(*pair)


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_guidance_extrapolates_in_evaluation_alone(changes: dict[str, Any]) -> None:
    plain, guided = tiny(**changes), tiny(guidance=2.5, **changes)
    x, label, condition = inputs()
    conditional = predicted(plain, x, label, condition)
    unconditional = predicted(plain, x, label, condition.null())
    wanted = unconditional + 2.5 * (conditional - unconditional)
    torch.testing.assert_close(predicted(guided, x, label, condition), wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - conditional).abs().max() > 0.1
    assert torch.equal(predicted(guided.train(), x, label, condition), conditional)


def test_a_slot_that_was_reset_starts_anew() -> None:
    network, (x, label, condition) = tiny(), inputs(frames=2)
    with torch.no_grad():
        _, past = network(x[:, :1], label[:, :1], condition.frames(0, 1), None, mask=FRAMEWISE)
        past = past.reset(torch.tensor([True, False]))
        made, _ = network(x[:, 1:], label[:, 1:], condition.frames(1, 2), past, mask=FRAMEWISE)
    assert made is not None and not made[0].any() and made[1].any()


def test_what_cannot_be_is_refused() -> None:
    x, label, condition = inputs()
    with pytest.raises(ValueError, match=r"rollout\.chunk=1, not 3"):
        tiny()(x, label, condition, None, mask=FrameMask(3))
    with pytest.raises(ValueError, match="something to guide by"):
        tiny(start="none", actions_seen=False, guidance=2.0)
    with pytest.raises(ValueError, match=r"network\.start_model"):
        tiny(start="timm")
    with pytest.raises(ValueError, match=r"start_weights=nowhere\.safetensors is no local"):
        tiny(start="timm", start_model="test_resnet", start_weights="nowhere.safetensors")


def test_unconditional_weights_fit_but_for_what_is_new() -> None:
    first, second = tiny(start="none", actions_seen=False), tiny(seed=5)
    card = Card("teacher", {}, {}, {}, 1, SHAPE, {}, "x")
    file, before = NetworkFile(first.state_dict(), card, ""), {k: v.clone() for k, v in second.state_dict().items()}
    with pytest.raises(ValueError, match="missing start"):
        load_into(second, file, "here", new=["action"])
    load_into(second, file, "here", new=["start", "action"])
    for name, value in second.state_dict().items():
        assert torch.equal(value, file.weights.get(name, before[name])), name
    extra = NetworkFile({**file.weights, "more": torch.zeros(1)}, card, "")
    with pytest.raises(ValueError, match="unknown more"):
        load_into(second, extra, "here", new=["start", "action"])


def test_a_timm_encoder_is_frozen_and_takes_local_weights(tmp_path: Path) -> None:
    network = tiny(start="timm", start_model="test_resnet")
    assert network.start is not None
    model = network.start.features.model  # type: ignore[union-attr]
    save_file({name: value + 0.01 for name, value in model.state_dict().items() if value.dtype.is_floating_point}
              | {name: value for name, value in model.state_dict().items() if not value.dtype.is_floating_point},
              tmp_path / "w.safetensors")  # fmt: skip
    x, label, condition = inputs(frames=2)
    base = predicted(network, x, label, condition)
    other = x.clone()
    other[:, 0] += 1
    assert not torch.equal(predicted(network, other, label, condition), base), "the encoder sees nothing"
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    network.train()(x, label, condition, None, mask=FRAMEWISE)[0].sum().backward()
    assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    named = tiny(start="timm", start_model="test_resnet", start_weights=str(tmp_path / "w.safetensors"))
    assert named.start is not None and not any(p.requires_grad for p in named.start.features.parameters())


def test_the_null_of_the_start_is_learned() -> None:
    network, (x, label, condition) = tiny().train(), inputs(frames=2)
    prediction, _ = network(x, label, replace(condition.null()), None, mask=FRAMEWISE)
    assert prediction is not None and network.start is not None
    prediction.square().sum().backward()
    assert network.start.null.grad is not None and network.start.null.grad.abs().sum() > 0
