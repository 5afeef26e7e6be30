"""Gap, sweep, recovery and motion: what they say of generators that obey, ignore or invert their actions."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wm_lightning.callbacks.action_fidelity import warn_if_ignored
from wm_lightning.clip import ActionSpec, ActionState, Clip, Condition
from wm_lightning.metrics.action_fidelity import ActionGap, ActionSweep, Recovery
from wm_lightning.metrics.inverse_dynamics import ASSETS, Reader, Trained, load_reader, save_reader
from wm_lightning.metrics.motion import MotionModel, phase_shift
from wm_lightning.metrics.pinned import Pinned, file_hash
from wm_lightning.modules.fidelity import Fidelity, Generate, Probes, Ruler, measure_fidelity
from wm_lightning.modules.inverse_dynamics import InverseDynamicsModule, update_recovery
from wm_lightning.networks.inverse_dynamics import InverseDynamics
from wm_lightning.randomness import generator

SPEC = ActionSpec(("right", "down"), (-8.0, -8.0), (8.0, 8.0))
SIDE = 32


def moved(first: Tensor, actions: Tensor) -> Tensor:
    """Frames that wrap around: every action (pixels right, down) shifts the picture by itself."""
    frames = [first]
    for f in range(1, actions.shape[1]):
        rows = [
            frame.roll((int(a[1]), int(a[0])), (-2, -1)) for frame, a in zip(frames[-1], actions[:, f], strict=True)
        ]
        frames.append(torch.stack(rows))
    return torch.stack(frames, dim=1)


def clips(count: int, seed: int, frames: int = 5) -> Clip:
    source = generator(seed, "shifting pictures")
    first = torch.from_numpy(source.integers(0, 256, (count, 3, SIDE, SIDE)).astype("uint8"))
    actions = torch.from_numpy(source.integers(-3, 4, (count, frames, 2))).float()
    state = torch.full((count, frames), int(ActionState.GIVEN))
    return Clip(moved(first, actions), Condition(actions, state), torch.arange(count))


def driven(sign: float) -> Generate:
    """A generator that takes `sign` times its actions."""
    return lambda clip: moved(clip.video[:, 0], sign * clip.condition.actions)


def fidelity(
    generate: Generate, *, rests: bool = True, reader: Reader | None = None, explained: bool = True
) -> Fidelity:
    real = clips(24, seed=1)
    motion = phase_shift(real.video)[:, 1:].flatten(0, 1)
    model = MotionModel.fit(real.condition.actions[:, 1:].flatten(0, 1), motion, ridge=1e-6)
    assert model.r2 > 0.98, "real motion is what actions make it"
    if not explained:
        model = replace(model, r2=0.0)
    moves = {"right": {"right": 2.0}, "up": {"down": -3.0}}
    neutral, probes = Probes({} if rests else None, moves).vectors(SPEC)
    ruler = Ruler("phase", phase_shift, model, neutral, probes)
    return measure_fidelity(
        generate, clips(8, seed=2), context=1, ruler=ruler, sweep_clips=4, sweep_frames=3, reader=reader
    )


def test_a_generator_that_obeys_has_a_gap_and_moves_as_real_clips_do() -> None:
    found = fidelity(driven(1.0))
    assert not found.ignored and found.scalars["action_gap"] > 0.01
    assert found.scalars["sweep_gain"] == pytest.approx(1.0, abs=0.05) and found.scalars["sweep_sign"] == 1.0
    assert found.scalars["null_motion"] == 0.0
    up = found.report["sweep"]["probes"]["up"]
    assert up["motion"] == pytest.approx([0.0, -3.0 / SIDE], abs=1e-6)
    assert up["motion"] == pytest.approx(up["expected"], abs=0.01)
    assert len(found.report["gap"]["horizon"]) == 4 and len(found.report["sweep"]["gain"]) == 3


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_without_an_action_of_doing_nothing_motion_is_compared_with_none(sign: float) -> None:
    found = fidelity(driven(sign), rests=False)
    assert found.scalars["sweep_gain"] == pytest.approx(sign, abs=0.05)
    assert found.scalars["sweep_sign"] == (1.0 if sign > 0 else 0.0)
    assert "null_motion" not in found.scalars and "null_motion" not in found.report["sweep"]
    assert list(found.report["sweep"]["probes"]) == ["right", "up"]


@pytest.mark.parametrize(("sign", "gain"), [(0.0, 0.0), (-1.0, -1.0)])
def test_ignored_and_inverted_actions_are_told(sign: float, gain: float) -> None:
    found = fidelity(driven(sign))
    assert found.scalars["sweep_gain"] == pytest.approx(gain, abs=0.05)
    assert found.scalars["sweep_sign"] == (0.5 if sign == 0 else 0.0), "standing still is chance, not the wrong way"
    if sign == 0:
        assert found.ignored and found.scalars["action_gap"] == 0


def test_drift_under_the_neutral_action_is_motion() -> None:
    drift = torch.tensor([1.0, 0.0])
    found = fidelity(lambda clip: moved(clip.video[:, 0], clip.condition.actions + drift))
    assert found.scalars["null_motion"] == pytest.approx(1 / SIDE)
    assert found.report["sweep"]["null_motion"] == pytest.approx([1 / SIDE] * 3)


def test_where_actions_explain_nothing_a_sweep_says_nothing() -> None:
    found = fidelity(driven(1.0), explained=False)
    assert math.isnan(found.scalars["sweep_gain"]) and math.isnan(found.scalars["sweep_sign"])
    sweep = found.report["sweep"]
    assert sweep["gain"] == [None] * 3 and {one["sign"] for one in sweep["probes"].values()} == {None}
    still = torch.zeros(2, 1, 2)
    none = ActionSweep(probes=1, horizon=1)
    none.update(0, still + 0.1, still, torch.tensor([1e-9, 0.0]))
    assert math.isnan(none.gain()) and math.isnan(none.sign())


def test_a_generator_that_obeys_gives_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    warn_if_ignored(fidelity(driven(1.0)), "now")
    assert not caplog.records
    warn_if_ignored(fidelity(driven(0.0)), "now")
    assert "ACTIONS ARE IGNORED now" in caplog.text


def test_the_gap_is_that_of_all_clips_whatever_the_batches() -> None:
    source = torch.Generator().manual_seed(0)
    true, shuffled = torch.rand(7, 3, generator=source), torch.rand(7, 3, generator=source) + 1
    true[2, 1] = torch.nan
    whole, parts = ActionGap(horizon=3), ActionGap(horizon=3)
    whole.update(true, shuffled)
    for rows in (slice(0, 1), slice(1, 6), slice(6, 7)):
        parts.update(true[rows], shuffled[rows])
    gap = shuffled - true
    torch.testing.assert_close(whole.compute(), gap.nanmean(0))
    torch.testing.assert_close(parts.compute(), whole.compute())
    of_clip = gap.nanmean(1)
    assert parts.mean_and_error() == pytest.approx(
        (float(of_clip.mean()), float(of_clip.std() / math.sqrt(7))), rel=1e-5
    )


def test_a_gap_within_chance_counts_as_none() -> None:
    assert Fidelity({"action_gap": 1.9, "action_gap_error": 1.0}, {}).ignored
    assert not Fidelity({"action_gap": 2.1, "action_gap_error": 1.0}, {}).ignored
    assert Fidelity({"action_gap": 1.0, "action_gap_error": math.nan}, {}).ignored is None


def test_the_sweep_weighs_clips_alike_and_keeps_horizons_apart() -> None:
    expected, still = torch.tensor([1.0, 0.0]), torch.zeros(3, 2, 2)
    motion = torch.zeros(3, 2, 2)
    motion[:, 0, 0], motion[:, 1, 0] = 1.0, torch.tensor([2.0, -2.0, 0.0])
    sweep = ActionSweep(probes=1, horizon=2)
    sweep.update(0, motion[:1], still[:1], expected)
    sweep.update(0, motion[1:], still[1:], expected)
    torch.testing.assert_close(sweep.compute(), torch.tensor([1.0, 0.0]))
    assert sweep.gain() == 0.5 and sweep.sign() == pytest.approx(4.5 / 6)


def test_the_sign_leaves_out_what_is_out_of_sight() -> None:
    still = torch.zeros(2, 1, 2)
    sweep = ActionSweep(probes=2, horizon=1)
    sweep.update(0, still + torch.tensor([1.0, 0.0]), still, torch.tensor([2.0, 0.0]))
    sweep.update(1, still - torch.tensor([1.0, 0.0]), still, torch.tensor([0.01, 0.0]))
    assert sweep.sign() == 1.0 and sweep.by_probe()[1]["sign"] == 0.0


def test_probes_name_columns_and_stay_in_bounds() -> None:
    with pytest.raises(ValueError, match="names the column left; the data have right, down"):
        Probes({}, {"x": {"left": 1.0}}).vectors(SPEC)
    with pytest.raises(ValueError, match=r"right=9\.0, outside -8\.0\.\.8\.0"):
        Probes({}, {"x": {"right": 9.0}}).vectors(SPEC)


def test_phase_shift_recovers_whole_pixels_and_no_motion() -> None:
    clip = clips(6, seed=5)
    found = phase_shift(clip.video) * SIDE
    wanted = clip.condition.actions.clone()
    wanted[:, 0] = 0
    assert float((found - wanted).abs().amax(-1).eq(0).float().mean()) > 0.95
    assert not phase_shift(clip.video[:, :1].expand(-1, 3, -1, -1, -1)).any()


def test_recovery_is_r2_by_horizon() -> None:
    actions = torch.randn(50, 4, 2, generator=torch.Generator().manual_seed(0))
    given = torch.ones(50, 4, dtype=torch.bool)
    given[0] = False
    predicted = actions.clone()
    predicted[:, 1], predicted[0] = 0.0, 100.0  # the mean; and a clip that does not count
    recovery = Recovery(horizon=4, columns=2)
    for rows in (slice(0, 10), slice(10, 50)):
        recovery.update(predicted[rows], actions[rows], given[rows])
    torch.testing.assert_close(recovery.compute(), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    lost = actions[1:, 1].square().sum(0) / actions[1:].square().sum((0, 1))
    torch.testing.assert_close(recovery.by_column(), 1 - lost)


def learned() -> InverseDynamics:
    """A network trained for a moment on pictures that shift."""
    torch.manual_seed(0)
    network = InverseDynamics(actions=2, width=8)
    network.scale.fill_(2.0)
    module = InverseDynamicsModule(
        network=network, optimizer=lambda parameters: torch.optim.Adam(parameters, 5e-3), names=SPEC.names, horizon=4
    )
    module.log = lambda *args, **kwargs: None
    optimizer, batch = module.configure_optimizers(), clips(24, seed=3)
    for step in range(60):
        optimizer.zero_grad()
        module.training_step(batch, step).backward()
        optimizer.step()
    return network.eval()


def trained(**changes: object) -> Trained:
    settings = dict(
        data="shifts", frame_shape=(3, SIDE, SIDE), action_spec=SPEC.to_dict(), action_shift=1, width=8, iterations=60,
        ceiling={"right": 0.9, "down": 0.1},
    )  # fmt: skip
    return Trained(**(settings | changes))


@pytest.fixture(scope="module")
def network() -> InverseDynamics:
    return learned()


def recovered(network: InverseDynamics, change: Callable[[Clip], Tensor]) -> float:
    clip, recovery = clips(24, seed=3), Recovery(horizon=4, columns=2)
    update_recovery(recovery, network, clip, change(clip), 1, torch.eye(2))
    return recovery.mean()


def test_actions_are_read_off_what_obeys_them_only(network: InverseDynamics) -> None:
    own = recovered(network, lambda clip: clip.video)
    ignoring = recovered(network, lambda clip: moved(clip.video[:, 0], 0 * clip.condition.actions))
    other = recovered(network, lambda clip: clip.video.roll(1, 0))
    assert own > 0.8 and ignoring < 0.2 and other < 0


def test_recovery_is_that_of_what_was_generated(network: InverseDynamics) -> None:
    reader = Reader(network, trained(), "0" * 64)
    obeying, frozen = (fidelity(driven(sign), reader=reader).report["recovery"] for sign in (1.0, 0.0))
    assert obeying["r2"] == pytest.approx(obeying["ceiling"]["r2"])
    assert frozen["ceiling"] == obeying["ceiling"] and abs(frozen["r2"] - frozen["ceiling"]["r2"]) > 0.1


def test_columns_that_are_bins_of_a_quantity_are_read_as_that_too() -> None:
    names = ("jump", "turn_-30", "turn_0", "turn_60", "1", "other_1", "other_2")
    source = torch.Generator().manual_seed(0)
    turn = torch.multinomial(torch.tensor([0.2, 0.5, 0.3]), 4000, replacement=True, generator=source)
    actions = torch.zeros(1, 4000, 7)
    actions[0, torch.arange(4000), 1 + turn] = 1
    network = InverseDynamics(actions=7, width=4)
    scale, mean = torch.std_mean(actions[0], dim=0)
    network.mean.copy_(mean), network.scale.copy_(scale)
    found, matrix = network.readings(names)
    assert found == [*names, "turn"], "two columns are no scale, and a lone number is a name"
    standardised = network.standardised(actions) @ matrix
    torch.testing.assert_close(standardised[..., :7], network.standardised(actions))
    value = torch.tensor([-30.0, 0.0, 60.0])[turn]
    torch.testing.assert_close(standardised[0, :, 7], (value - value.mean()) / value.std(), atol=1e-3, rtol=1e-3)
    spec = ActionSpec(names, (0.0,) * 7, (1.0,) * 7, "discrete").to_dict()
    reader = Reader(network, trained(action_spec=spec, ceiling={"turn": 0.8, "turn_60": 0.4, "jump": 0.6}), "0" * 64)
    assert reader.readable == ["jump", "turn"] and torch.equal(reader.matrix, matrix[:, [0, 7]])


def test_numbered_columns_that_are_no_one_hot_are_no_quantity() -> None:
    source = torch.Generator().manual_seed(0)
    joints = 0.3 * torch.randn(4000, 3, generator=source) + torch.tensor([0.5, 0.3, 0.2])  # whose means make 1, too
    keys = (torch.rand(4000, 3, generator=source) < 0.5).float()  # of which several are held at once
    network = InverseDynamics(actions=6, width=4)
    scale, mean = torch.std_mean(torch.cat([joints, keys], 1), dim=0)
    network.mean.copy_(mean), network.scale.copy_(scale)
    names = ("joint_1", "joint_2", "joint_3", "key_1", "key_2", "key_3")
    assert network.readings(names)[0] == list(names)


def test_a_reader_is_the_file_that_was_pinned(network: InverseDynamics, tmp_path: Path) -> None:
    path = tmp_path / "reader.safetensors"
    found = save_reader(path, network, trained())
    reader = load_reader(Pinned(str(path), found))
    video = clips(2, seed=4).video
    torch.testing.assert_close(reader.network(video), network(video))
    assert reader.trained == trained() and reader.sha256 == found and reader.readable == ["right"]
    assert torch.equal(reader.matrix, torch.tensor([[1.0], [0.0]]))
    path.write_bytes(path.read_bytes()[:-1] + b"\0\1"[-1:])
    with pytest.raises(ValueError, match=f"expected {found}"):
        load_reader(Pinned(str(path), found))
    with pytest.raises(ValueError, match="never downloaded"):
        load_reader(Pinned(str(tmp_path / "absent"), found))


@pytest.mark.parametrize("world", ["pusher", "worldmap", "maze", "rover", "mapimage"])
def test_a_network_comes_with_the_suite_for_every_simulated_world(world: str) -> None:
    path = ASSETS / f"inverse_dynamics_simulated-{world}.safetensors"
    reader = load_reader(Pinned(str(path), file_hash(path)))
    assert reader.trained.data == f"simulated-{world}" and path.stat().st_size < 600_000
    quantities = {"maze": ["mouse_x", "mouse_y"]}.get(world, [])
    assert reader.network.readings(reader.trained.action_spec["names"])[0][reader.matrix.shape[0] :] == quantities
    assert reader.readable and reader.matrix.shape == (len(reader.trained.action_spec["names"]), len(reader.readable))
