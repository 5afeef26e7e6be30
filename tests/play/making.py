"""Games of tiny worlds, through the task's own config."""

from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate

from tests.tiny_run import NETWORK, QUIET, WORLD
from tests.tiny_world import FEW, checkpoint
from wm_lightning.config_check import check
from wm_lightning.play.game import Game

STARTS = 4


@dataclass
class Served:
    """A server at work and the game it serves."""

    game: Game
    port: int
    run: Path

    @property
    def address(self) -> str:
        """Of the WebSocket."""
        return f"ws://127.0.0.1:{self.port}/play"


def tiny_game(folder: Path, *words: str) -> Game:
    """The world map's, with two networks of random weights and the true simulator side by side."""
    torch.set_num_threads(1)
    other = checkpoint(folder.parent / "other", seed=1)
    own = [*NETWORK, *WORLD, *QUIET, *FEW, "experiment=teacher", "name=other"]
    config = checkpoint(folder, "task=play", f"task.starts={STARTS}", *words)
    check(config)
    config.task.beside, config.task.beside_words = other.ckpt_path, own
    return instantiate(config.task, _convert_="all").game(config)
