"""Every action told apart: what the test says of generators that obey, ignore or mirror their actions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from tests.metrics.test_action_fidelity import SIDE, SPEC, clips, moved
from tests.worlds.test_motion import truth_of
from wm_lightning.clip import ActionSpec, Clip, Pixels
from wm_lightning.config import compose
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.formats import csgo, recon
from wm_lightning.data.formats.robot_actions import columns, spec_of
from wm_lightning.metrics.motion import MotionModel, phase_shift
from wm_lightning.modules.action_control import Control, RandomKeys, Steering, Variants, measure_control
from wm_lightning.modules.fidelity import Ruler
from wm_lightning.results.action_control import UNSEEN, verdict

VARIANTS = Variants(
    rest="nothing", needs=None, neutral={}, moves={"right": {"right": 2}, "left": {"right": -2}, "up": {"down": -3}},
    schedules={"later": {0: {"down": 1}, 2: {"down": 1}, 9: {"down": 1}}}, random_keys={}, repeats=2,
)  # fmt: skip


def control(sign: float, *, starts: int = 6, variants: Variants = VARIANTS) -> Control:
    """What is found of a generator that takes `sign` times its actions."""
    real = clips(24, seed=1)
    motion = phase_shift(real.video)[:, 1:].flatten(0, 1)
    model = MotionModel.fit(real.condition.actions[:, 1:].flatten(0, 1), motion, ridge=1e-6)
    neutral, drives = variants.drives(SPEC, 4, 0)
    ruler = Ruler("phase", phase_shift, model, neutral, {})
    return measure_control(
        lambda clip, draw: moved(clip.video[:, 0], sign * clip.condition.actions), clips(starts, seed=2), drives, ruler,
        context=1, rest=variants.rest, episodes=[str(start) for start in range(starts)], draws=20, seed=0,
    )  # fmt: skip


def by_name(found: Control) -> dict[str, Steering]:
    return {one.name: one for one in found.steering}


def words(found: Control) -> dict[str, str]:
    return {one.name: one.verdict(0.5) for one in found.steering}


def test_what_obeys_steers() -> None:
    found = by_name(control(1.0))
    assert list(found) == ["right", "left", "up", "later 1", "later 2"]
    assert found["right"].motion == pytest.approx((2 / SIDE, 0.0), abs=1e-6)
    assert found["left"].motion == pytest.approx((-2 / SIDE, 0.0), abs=1e-6)
    assert found["later 1"].motion == pytest.approx((0.0, 2 / 4 / SIDE), abs=1e-6), "two of four frames"
    for one in found.values():
        assert (one.sign, one.low, one.high) == (1.0, 1.0, 1.0) and one.gain == pytest.approx(1.0, abs=0.06)
    assert found["right"].changed is not None and found["right"].changed > 1
    assert found["later 2"].changed is None, "under other noise another video tells nothing"
    assert verdict(words(control(1.0))).startswith("Actions steer in 5 of the 5 variants")


def test_what_ignores_its_actions_is_told() -> None:
    found = control(0.0)
    for one in found.steering:
        assert (one.gain, one.sign, one.low, one.high) == (0.0, 0.5, 0.5, 0.5) and one.changed in (0.0, None)
    assert set(words(found).values()) == {"does not steer"}
    said = verdict(words(found))
    assert said.startswith("ACTIONS DO NOT STEER") and "0 of the 5" in said and "Does not steer: right, left" in said


def test_what_mirrors_its_actions_has_mirrored_signs() -> None:
    obeying, mirrored = by_name(control(1.0)), by_name(control(-1.0))
    for name, one in mirrored.items():
        other = obeying[name].motion
        assert other is not None and one.motion == pytest.approx((-other[0], -other[1]), abs=1e-6)
        assert one.sign == 0.0 and one.gain is not None and one.gain < -0.9
    assert set(words(control(-1.0)).values()) == {"goes the wrong way"}
    assert verdict(words(control(-1.0))).startswith("ACTIONS DO NOT STEER")


def test_weak_steering_and_a_single_start_are_said() -> None:
    weak = Steering("x", True, (2.0, 0.0), (0.5, 0.0), 0.25, 0.9, 0.8, 1.0, 3.0)
    assert weak.verdict(0.5) == "steers weakly" and weak.verdict(0.2) == "steers"
    assert replace(weak, low=0.4).verdict(0.5) == "does not steer"
    assert set(words(control(1.0, starts=1)).values()) == {"steers, in one start"}


def test_what_the_measure_does_not_see_has_no_number() -> None:
    moves = {**VARIANTS.moves, "nothing much": {"right": 0.01}}
    found = by_name(control(1.0, variants=replace(VARIANTS, moves=moves)))["nothing much"]
    assert not found.seen and (found.motion, found.gain, found.sign) == (None, None, None)
    assert found.verdict(0.5) == "changes nothing", "this generator moves whole pixels only"
    assert replace(found, changed=0.1).verdict(0.5) == UNSEEN


SPECS = {
    "rt1": spec_of("oxe10", compose(["data=rt1"]).data.bounds.bridge), "csgo": csgo.SPEC, "doom": csgo.SPEC,
    "recon": recon.SPEC, "worldmap": ActionSpec(("stay", "left", "right", "up", "down"), (0.0,) * 5, (1.0,) * 5),
    "map_image": ActionSpec(("up", "down", "left", "right"), (0.0,) * 4, (1.0,) * 4),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_every_data_sets_variants_name_columns_that_it_has(name: str) -> None:
    protocol = instantiate(compose(["protocol=action_control", f"data={name}"]).protocol, _convert_="all")
    variants = protocol.chosen(SPECS[name])
    _, drives = variants.drives(SPECS[name], 12, 0)
    assert len({one.name for one in drives}) == len(drives) >= 4
    assert all(one.drive.shape[-1] == SPECS[name].dim for one in drives)
    # What a validation tries is among what is tried here, under the same names of columns.
    few = instantiate(compose([f"data={name}"]).callbacks.action_fidelity.probes, _convert_="all")
    used = {column for columns in few.moves.values() for column in columns}
    assert used <= {column for columns in variants.moves.values() for column in columns}


def test_real_rt1_is_driven_by_the_official_vectors() -> None:
    spec = spec_of("vid2world13", compose(["data=rt1"]).data.bounds.rt_1)
    protocol = instantiate(compose(["protocol=action_control", "data=rt1"]).protocol, _convert_="all")
    neutral, drives = protocol.chosen(spec).drives(spec, 15, 0)
    wanted = torch.zeros(13)
    wanted[8] = 1
    assert neutral is not None and torch.equal(neutral, wanted) and protocol.context == 1 and protocol.horizon == 15
    for place, axis in zip((10, 11, 12), "xyz", strict=True):
        for sign, value in (("+", 0.1), ("-", -0.1)):
            [drive] = [one.drive for one in drives if one.name == f"{sign}{axis}"]
            torch.testing.assert_close(drive, wanted.index_fill(0, torch.tensor(place), value))
    assert columns("vid2world13")[8] == "terminate_episode_1"


def test_keys_at_random_and_the_change_of_weapon_are_vid2worlds() -> None:
    drawn = RandomKeys(0.5, csgo.KEYS).drawn(2000, 0)
    assert len(drawn) / 2000 == pytest.approx(0.5, abs=0.04) and {next(iter(key)) for key in drawn.values()} == set(
        csgo.KEYS
    )
    protocol = instantiate(compose(["protocol=action_control", "data=csgo"]).protocol, _convert_="all")
    neutral, drives = protocol.chosen(csgo.SPEC).drives(csgo.SPEC, 12, 0)
    changes = [one for one in drives if one.name.startswith("change weapon")]
    assert [one.draw for one in changes] == [0, 1, 2] and neutral is not None
    pressed = changes[0].drive - neutral
    assert pressed.nonzero().tolist() == [[0, csgo.KEYS.index("1")], [5, csgo.KEYS.index("3")]]
    assert protocol.chosen(csgo.SPEC).beyond(4) == ["change weapon: 4 frames do not reach its frames [5]"]


def test_a_column_that_the_data_do_not_have_is_named() -> None:
    wrong = replace(VARIANTS, moves={"x": {"nowhere": 1.0}})
    with pytest.raises(ValueError, match="names the column nowhere; the data have right, down"):
        wrong.drives(SPEC, 4, 0)
    timed = replace(VARIANTS, schedules={"x": {0: {"nowhere": 1.0}}})
    with pytest.raises(ValueError, match="names the column nowhere"):
        timed.drives(SPEC, 4, 0)
    with pytest.raises(ValueError, match=r"add some to protocol\.variants\.usual\.moves"):
        replace(VARIANTS, moves={}, schedules={}).drives(SPEC, 4, 0)


@pytest.mark.parametrize("name", ["rt1", "csgo", "recon"])
def test_the_truth_itself_steers(name: str, tmp_path: Path) -> None:
    more = ["data.world.workers=1"] if name == "rt1" else []
    config = compose(["protocol=action_control", f"data={name}", "size=debug", f"cache_dir={tmp_path}", *more])
    data: ClipDataModule = instantiate(config.data, _convert_="all")
    data.prepare_data()
    protocol = instantiate(config.protocol, _convert_="all")
    variants, clip = protocol.chosen(data.spec), next(data.clips("val", 8, 5, 8))
    neutral, drives = variants.drives(data.spec, 4, 0)
    ruler = Ruler.of(data, instantiate(config.callbacks.action_fidelity.probes), clips=16, frames=5)
    exact = truth_of(data, name, 1, chance=0.0)

    def truth(clip: Clip, draw: int) -> Pixels:
        return exact(clip)

    found = measure_control(
        truth, clip, drives, replace(ruler, neutral=neutral), context=1, rest=variants.rest,
        episodes=[str(start) for start in range(8)], draws=10, seed=0,
    )  # fmt: skip
    seen = [one for one in found.steering if one.seen]
    assert found.source == "simulator" and len(seen) >= 2
    # The last given frame was stored, by MPEG or JPEG, and is not just the simulator's.
    assert all(one.sign == 1.0 and one.gain == pytest.approx(1.0, abs=0.03) for one in seen)
    assert all(one.motion == pytest.approx(one.expected, abs=0.002) for one in seen)
    for one in found.shown:
        assert one.truth is not None and np.array_equal(one.truth.numpy(), one.video.numpy())
