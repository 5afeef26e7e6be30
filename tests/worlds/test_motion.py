"""Every world's measure of motion sees what its actions do, and the probes of its config drive just that."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from wm_lightning.clip import Clip, Pixels
from wm_lightning.config import compose
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.modules.fidelity import Generate, Probes, Ruler, measure_fidelity
from wm_lightning.worlds.world import Moves, motion_measure

# Share of real motion's variance that actions explain, at least: in the maze and on the ground the measure sees
# sideways shifts alone, and walking shifts pictures too.
LEAST = {"worldmap": 0.99, "rt1": 0.9, "csgo": 0.6, "recon": 0.8}


@pytest.fixture(scope="module", params=LEAST)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, ClipDataModule, Probes]:
    """Every world's name, data and probes, simulated once; in this process, for others take seconds to start."""
    words = ["data.world.workers=1"] if request.param == "rt1" else []
    place = tmp_path_factory.mktemp(request.param)
    config = compose([f"data={request.param}", "size=debug", f"cache_dir={place}", *words])
    data: ClipDataModule = instantiate(config.data, _convert_="all")
    data.prepare_data()
    return request.param, data, instantiate(config.callbacks.action_fidelity.probes, _convert_="all")


def test_real_motion_follows_actions_and_probes_move_apart(made: tuple[str, ClipDataModule, Probes]) -> None:
    name, data, probes = made
    assert isinstance(data.world, Moves) and motion_measure(data.world)[0] == data.world.name
    ruler = Ruler.of(data, probes, clips=200, frames=13)
    assert ruler.model.r2 > LEAST[name]
    neutral, *moves = ruler.model(torch.stack([ruler.neutral, *ruler.probes.values()]))
    assert len(moves) >= 2 and float(neutral.norm()) < 0.5 * float(torch.stack(moves).sub(neutral).norm(dim=1).max())
    # Opposite probes move opposite ways.
    first, second = (move - neutral for move in moves[:2])
    assert float(first @ second) < 0


def test_data_without_a_world_are_measured_by_phase_correlation() -> None:
    assert motion_measure(None)[0] == "phase correlation"


CHANCE = {"worldmap": 0.0, "rt1": 0.042, "csgo": 0.25, "recon": 0.12}  # of one frame, as in the data


def truth_of(data: ClipDataModule, name: str, context: int, chance: float | None = None) -> Generate:
    """The simulator as a generator: from the last given frame on; chance as in the data, or as given."""
    size = CHANCE[name] if chance is None else chance

    def driven(clip: Clip) -> Pixels:
        actions = clip.condition.actions[:, context : clip.video.shape[1]].numpy()
        state = {key: values[:, context - 1].numpy() for key, values in clip.truth.items()}
        shape = (*actions.shape[:2], *data.world.chance)
        video, _ = data.world.branch(state, actions, size * np.random.default_rng(1).normal(size=shape))
        flat = video.reshape(-1, *video.shape[2:])
        frames = (
            data.frame_cache.resize(flat) if isinstance(data, SourceDataModule) else np.moveaxis(flat, -1, 1).copy()
        )
        after = torch.from_numpy(frames).unflatten(0, video.shape[:2])[:, 1:]
        return torch.cat([clip.video[:, :context], after], dim=1)

    return driven


def test_the_simulator_itself_moves_as_is_expected_of_it(made: tuple[str, ClipDataModule, Probes]) -> None:
    name, data, probes = made
    ruler, clip = Ruler.of(data, probes, clips=64, frames=7), next(data.clips("val", 16, 7, 16))
    settings = dict(context=1, ruler=ruler, sweep_clips=16, sweep_frames=3, reader=None)
    found = measure_fidelity(truth_of(data, name, 1), clip, **settings)
    assert found.report["sweep"]["expected_from"] == "simulator"
    assert found.scalars["sweep_gain"] == pytest.approx(1.0, abs=0.1)
    assert found.scalars["sweep_sign"] > 0.97
    still = measure_fidelity(lambda clip: clip.video[:, :1].expand_as(clip.video), clip, **settings)
    assert still.scalars["sweep_gain"] == 0.0 and still.scalars["sweep_sign"] == 0.5
    assert ruler.future is not None
    other = replace(ruler, future=lambda *asked: 255 - ruler.future(*asked))
    assert other.expect(clip, 1, 3).source == "regression", "clips that this simulator did not make"
