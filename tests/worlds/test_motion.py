"""Every world's measure of motion sees what its actions do, and the probes of its config drive just that."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from wm_lightning.config import compose
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.modules.fidelity import Ruler
from wm_lightning.worlds.world import Moves, motion_measure

# Share of real motion's variance that actions explain, at least: in the maze and on the ground the measure sees
# sideways shifts alone, and walking shifts pictures too.
LEAST = {"worldmap": 0.99, "rt1": 0.9, "csgo": 0.6, "recon": 0.8}


@pytest.mark.parametrize("name", LEAST)
def test_real_motion_follows_actions_and_probes_move_apart(name: str, tmp_path: Path) -> None:
    # In this process: others take seconds to start.
    words = ["data.world.workers=1"] if name == "rt1" else []
    config = compose([f"data={name}", "size=debug", f"cache_dir={tmp_path}", *words])
    data: ClipDataModule = instantiate(config.data, _convert_="all")
    data.prepare_data()
    assert isinstance(data.world, Moves) and motion_measure(data.world)[0] == data.world.name
    probes = instantiate(config.callbacks.action_fidelity.probes, _convert_="all")
    ruler = Ruler.of(data, probes, clips=200, frames=13)
    assert ruler.model.r2 > LEAST[name]
    neutral, *moves = ruler.model(torch.stack([ruler.neutral, *ruler.probes.values()]))
    assert len(moves) >= 2 and float(neutral.norm()) < 0.5 * float(torch.stack(moves).sub(neutral).norm(dim=1).max())
    # Opposite probes move opposite ways.
    first, second = (move - neutral for move in moves[:2])
    assert float(first @ second) < 0


def test_data_without_a_world_are_measured_by_phase_correlation() -> None:
    assert motion_measure(None)[0] == "phase correlation"
