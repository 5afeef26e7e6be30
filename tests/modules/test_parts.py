"""Optimizers, schedule, moving average, frozen networks and the replay."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from tests.modules.making import clip, flat, network
from tests.networks.tiny import ATTENTIONS, Attention, tiny
from wm_lightning.modules.average import Average
from wm_lightning.modules.frozen import Frozen
from wm_lightning.modules.muon import Muon
from wm_lightning.modules.optimizers import Schedule, optimizers
from wm_lightning.modules.replay import Replay, Window
from wm_lightning.modules.teacher import ActionDropout, MaskMixture
from wm_lightning.randomness import generator

RATES: dict[str, Any] = dict(lr=0.001, betas=(0.9, 0.99), weight_decay=0.0, eps=1e-8, momentum=0.9)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("muon_lr", [None, 0.02])
def test_every_parameter_has_exactly_one_optimizer(attention: Attention, muon_lr: float | None) -> None:
    net = tiny(attention)
    made = optimizers(net, **RATES, muon_lr=muon_lr)
    assert len(made) == (1 if muon_lr is None else 2)
    held = [id(p) for optimizer in made for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in net.parameters())
    assert len(set(held)) == len(held)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_muon_takes_the_matrices_of_the_blocks(attention: Attention) -> None:
    net = tiny(attention)
    muon, other = optimizers(net, **RATES, muon_lr=0.02)
    assert isinstance(muon, Muon) and isinstance(other, AdamW)
    held = {id(p) for p in muon.param_groups[0]["params"]}
    for name, parameter in net.named_parameters():
        assert (id(parameter) in held) == (name.startswith("blocks.") and parameter.ndim == 2), name


def test_fresh_parts_learn_at_a_rate_of_their_own() -> None:
    net = tiny("joint")
    made = optimizers(net, **RATES, muon_lr=0.02, fresh=["blocks"], fresh_scale=8.0)
    rates = {id(p): group["lr"] for optimizer in made for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        fresh = name.startswith("blocks.")
        base = 0.02 if fresh and parameter.ndim == 2 else 0.001
        assert rates[id(parameter)] == pytest.approx(base * (8.0 if fresh else 1.0)), name


def test_schedule_warms_up_holds_and_decays() -> None:
    schedule = Schedule(warmup=4, decay_from=0.5, final=0.1)
    found = [schedule.scale(update, 20) for update in range(20)]
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8]) and found[4:11] == [1.0] * 7
    assert found[15] == pytest.approx(0.1 + 0.9 * 0.5) and schedule.scale(20, 20) == pytest.approx(0.1)
    assert all(a > b for a, b in zip(found[10:], found[11:], strict=False))
    flat_schedule = Schedule(warmup=0, decay_from=1.0, final=0.0)
    assert [flat_schedule.scale(update, 20) for update in range(20)] == [1.0] * 20


def test_rates_are_scaled_from_the_base_also_after_a_restart() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups)
    schedule = Schedule(warmup=0, decay_from=0.0, final=0.0)
    for update in range(3):
        schedule.apply([optimizer], update, 10)
    continued = torch.optim.SGD([{"params": [weight], "lr": 1.0} for weight in weights])
    continued.load_state_dict(optimizer.state_dict())
    factor = schedule.apply([continued], 5, 10)
    assert factor == pytest.approx(0.5)
    assert [group["lr"] for group in continued.param_groups] == pytest.approx([0.05, 0.1])


def test_average_follows_its_formula_without_a_graph() -> None:
    net = network(seed=1)
    average = Average(net, decay=0.75, start=0)
    expected = flat([p.detach().clone() for p in net.parameters()])
    for step in range(3):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * (step + 1))
        average.update(net)
        expected = 0.75 * expected + 0.25 * flat([p.detach() for p in net.parameters()])
    torch.testing.assert_close(flat(list(average.network.parameters())), expected)
    assert int(average.updates) == 3
    for own, source in zip(average.network.parameters(), net.parameters(), strict=True):
        assert own.is_leaf and not own.requires_grad and own.grad_fn is None
        assert source.requires_grad and own.data_ptr() != source.data_ptr()


def test_average_is_the_network_until_it_starts() -> None:
    net = network(seed=1)
    average = Average(net, decay=0.9, start=2)
    for update in range(3):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.5)
        average.update(net)
        pairs = zip(average.network.parameters(), net.parameters(), strict=True)
        assert all(torch.equal(own, source) for own, source in pairs) == (update < 2)


class Holder(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.student, self.teacher = network(seed=seed), Frozen(network(seed=seed + 1))


def test_a_frozen_network_is_in_no_checkpoint_and_loading_stays_strict() -> None:
    one, other = Holder(1), Holder(5)
    state = one.state_dict()
    assert state and all(name.startswith("student.") for name in state)
    kept = flat([p.clone() for p in other.teacher.parameters()])
    other.load_state_dict(state)
    assert torch.equal(flat(list(other.teacher.parameters())), kept)
    assert torch.equal(flat(list(other.student.parameters())), flat(list(one.student.parameters())))
    missing = {name: value for name, value in state.items() if name != "student.embed.weight"}
    with pytest.raises(RuntimeError, match="student.embed.weight"):
        other.load_state_dict(missing)
    with pytest.raises(RuntimeError, match="teacher.other"):
        other.load_state_dict({**state, "teacher.other": torch.zeros(1)})


def test_a_frozen_network_stays_in_eval_mode_without_gradient() -> None:
    holder = Holder(1).train()
    assert holder.student.training and not any(module.training for module in holder.teacher.modules())
    assert not any(parameter.requires_grad for parameter in holder.teacher.parameters())


def window(number: int) -> Window:
    made = clip(batch=4, seed=number)
    return Window(torch.full((4, 7, 1, 1, 1), float(number)), made.condition, made.index)


def numbers(replay: Replay) -> list[int]:
    return [int(w.x[0, 0, 0, 0, 0]) for w in replay.windows]


def test_replay_overwrites_the_oldest() -> None:
    replay = Replay(3)
    for number in range(5):
        replay.push(window(number))
    assert sorted(numbers(replay)) == [2, 3, 4]
    replay.push(window(5))
    assert sorted(numbers(replay)) == [3, 4, 5]
    empty = Replay(0)
    empty.push(window(1))
    assert not empty.windows


def test_a_replay_that_ranks_cannot_share_equally_is_refused() -> None:
    replay = Replay(1)
    replay.push(window(0))
    saved = replay.state_dict(lambda rows: rows)
    replay.load_state_dict(saved, rank=1, world_size=2)
    assert len(replay.windows[0].index) == 2
    with pytest.raises(ValueError, match="windows of 4 clips, which 8 ranks"):
        replay.load_state_dict(saved, rank=0, world_size=8)


def test_replay_picks_every_window_and_by_the_generator_alone() -> None:
    replay = Replay(3)
    for number in range(3):
        replay.push(window(number))
    picked = [int(replay.pick(generator(1, "replay", i)).x[0, 0, 0, 0, 0]) for i in range(60)]
    assert set(picked) == {0, 1, 2}
    assert picked == [int(replay.pick(generator(1, "replay", i)).x[0, 0, 0, 0, 0]) for i in range(60)]


def test_a_restored_replay_goes_on_in_the_same_slot() -> None:
    replay, restored = Replay(3), Replay(3)
    for number in range(4):
        replay.push(window(number))
    restored.load_state_dict(replay.state_dict(lambda rows: rows), rank=0, world_size=1)
    for both in (replay, restored):
        both.push(window(9))
    assert numbers(replay) == numbers(restored)
    for one, other in zip(replay.windows, restored.windows, strict=True):
        assert torch.equal(one.x, other.x) and torch.equal(one.index, other.index)
        assert torch.equal(one.condition.actions, other.condition.actions)
        assert torch.equal(one.condition.state, other.condition.state)


def test_a_rank_restores_its_own_rows() -> None:
    replay = Replay(2)
    replay.push(window(1))
    halves = [Replay(2), Replay(2)]
    for rank, half in enumerate(halves):
        half.load_state_dict(replay.state_dict(lambda rows: rows), rank=rank, world_size=2)
    assert [half.windows[0].index.tolist() for half in halves] == [[10, 11], [12, 13]]
    assert torch.equal(halves[1].windows[0].condition.actions, replay.windows[0].condition.actions[2:])


def test_a_window_moves_with_all_it_holds() -> None:
    moved = window(1).to("meta")
    assert {t.device.type for t in (moved.x, moved.index, moved.condition.actions, moved.condition.state)} == {"meta"}


def test_masks_come_in_their_shares() -> None:
    mixture = MaskMixture((1, 3, None), (0.2, 0.5, 0.3))
    drawn = [mixture.sample(generator(1, "mask", i)).chunk for i in range(2000)]
    assert [drawn.count(chunk) / 2000 for chunk in (1, 3, None)] == pytest.approx([0.2, 0.5, 0.3], abs=0.03)
    with pytest.raises(ValueError, match="adding up to 1"):
        MaskMixture((1, 3), (0.5, 0.6))


@pytest.mark.parametrize(
    ("granularity", "frames", "clips"), [("frame", 0.4, 0.0), ("clip", 0.0, 0.4), ("both", 0.2, 0.2)]
)
def test_actions_are_dropped_by_frame_or_by_clip(granularity: Any, frames: float, clips: float) -> None:
    condition = clip(batch=3000).condition
    source = torch.Generator().manual_seed(1)
    draws = {"frame": torch.rand(3000, 7, generator=source), "clip": torch.rand(3000, 1, generator=source)}
    dropped = ActionDropout(0.4, granularity).apply(condition, lambda name: draws[name]).state == 2
    whole = dropped.all(1)
    assert float(whole.float().mean()) == pytest.approx(clips, abs=0.03)
    assert float(dropped[~whole].float().mean()) == pytest.approx(frames, abs=0.03)
