"""task=play: a checkpoint that is played, in the browser or in the terminal."""

import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.play.controls import controls_of
from wm_lightning.play.game import Game
from wm_lightning.play.panels import ModelPanel, Panel, simulator_of
from wm_lightning.play.recording import Recorder
from wm_lightning.tasks.build import build_data
from wm_lightning.tasks.environments import composed, start_clips, world_model

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PING, PATIENCE = 5.0, 10.0  # seconds between questions whether a player is there, and until their silence means no


@dataclass(frozen=True, kw_only=True)
class Play:
    """The task: the checkpoint at `ckpt_path`, `beside` it a second one and the true simulator where there is one.

    `port` is of the loopback interface, 0 takes any free one. `fps` frames a second are shown at most. `steps` per
    chunk, None as trained; `starts` test clips to choose from. A recording ends by itself after `record_frames`, play
    after `seconds` (None: with Ctrl-C). `controls` are keys by group: see `controls_of`.
    """

    screen: Literal["browser", "terminal"]
    port: int
    fps: int
    steps: int | None
    starts: int
    seed: int
    beside: str | None
    beside_words: Sequence[str]
    simulator: bool
    record_frames: int
    seconds: float | int | None
    controls: Mapping[str, Any]

    def __post_init__(self) -> None:
        least = {"fps": 1, "starts": 1, "record_frames": 1, "port": 0}
        for key, smallest in least.items():
            if getattr(self, key) < smallest:
                raise ValueError(f"task.{key}={getattr(self, key)} is too small; at least {smallest} is expected")

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Plays; recordings go to `recordings/` in the run folder. Returns how many frames were made.

        Raises ValueError for a checkpoint that cannot be played, for two that do not fit, and for a port in use.
        """
        game = self.game(config)
        if self.screen == "terminal":
            from wm_lightning.play.terminal import play_here  # noqa: PLC0415  there are no terminals on Windows

            return {"frames": float(play_here(game, fps=self.fps, seconds=self.seconds))}
        serve(game, title=f"{config.name}: {game.panels[0].name}", play=self)
        return {"frames": float(game.made_in_all)}

    def game(self, config: DictConfig) -> Game:
        """The panels and what steers them."""
        data = build_data(config)
        world = world_model(config, data, self.steps)
        worlds = [world]
        if self.beside is not None:
            other = composed(self.beside, [f"cache_dir={config.cache_dir}", *self.beside_words])
            worlds.append(world_model(other, beside(build_data(other), data, self.beside), None))
            if worlds[1].name == world.name:
                worlds[1] = replace(worlds[1], name=f"{world.name}, second")
        starts = start_clips(data, self.starts, max(world.context for world in worlds))
        panels: list[Panel] = [ModelPanel(world) for world in worlds]
        simulator = simulator_of(data, starts) if self.simulator else None
        panels += [] if simulator is None else [simulator]
        recorder = Recorder(
            Path(config.run_dir) / "recordings", [panel.name for panel in panels], data.spec,
            rest=data.rest, data=f"{world.name} of {data.name}", fps=self.fps, most=self.record_frames,
        )  # fmt: skip
        controls = controls_of(data.spec, rest=data.rest, **self.controls)
        return Game(panels, controls, starts, recorder, seed=self.seed)


def beside(other: ClipDataModule, data: ClipDataModule, path: str) -> ClipDataModule:
    """The second checkpoint's data. Raises ValueError unless it has the same actions and pictures as the first's."""
    if other.spec != data.spec or other.pixels != data.pixels:
        raise ValueError(
            f"task.beside={path} takes the actions {list(other.spec.names)} and makes frames of {other.pixels}, the "
            f"first checkpoint {list(data.spec.names)} and {data.pixels}: only checkpoints of the same data can be "
            f"played by the same keys"
        )
    return other


def serve(game: Game, *, title: str, play: Play) -> None:
    """Serves the page until it is interrupted, or for so many seconds."""
    try:
        import uvicorn  # noqa: PLC0415  comes with an extra

        from wm_lightning.play.server import LARGEST, Table, build_app  # noqa: PLC0415  the same
    except ModuleNotFoundError as error:
        raise ValueError(
            f"task=play needs the package {error.name}: pip install -e '.[play]', or use task.screen=terminal"
        ) from error
    listening = listen(play.port)
    settings = {"ws_max_size": LARGEST, "ws_ping_interval": PING, "ws_ping_timeout": PATIENCE, "log_level": "warning"}
    app = build_app(Table(game, fps=play.fps, title=title))
    server = uvicorn.Server(uvicorn.Config(app, host=LOOPBACK, **settings))  # type: ignore[arg-type]
    timer = None if play.seconds is None else threading.Timer(play.seconds, setattr, (server, "should_exit", True))
    if timer is not None:
        timer.start()
    log.info("Play at http://%s:%d in a browser on this machine; Ctrl-C ends", *listening.getsockname()[:2])
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        log.info("Play has ended")
    finally:
        if timer is not None:
            timer.cancel()
        listening.close()


def listen(port: int) -> socket.socket:
    """A socket of the loopback interface. Raises ValueError where the port is taken or no port."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        raise ValueError(f"task.port={port} cannot be used ({error}); choose another, or 0 for any free one") from error
    return listening
