"""Doom, played by programs and written as Counter-Strike's recordings: pixels that nobody here drew.

ViZDoom (Kempka et al. 2016, arXiv 1605.02097) runs Freedoom's levels, which it brings along, without a window; it is
an extra: `pip install -e '.[doom]'`. A frame is two of Doom's tics, so recordings have 17.5 frames a second.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.csgo import KEYS, MOUSE, MOUSE_X, MOUSE_Y, SPEC
from wm_lightning.data.formats.csgo_writer import write_csgo
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.source import save_arrays
from wm_lightning.randomness import generator
from wm_lightning.worlds.doom_player import POLICIES, TURN, Player
from wm_lightning.worlds.writing import write_batches

# Raise it whenever the same settings would give other pixels or actions: it names the cached data.
VERSION = 2
TEST_SPLIT = "test_split.txt"
TICS, SETTLE = 2, 8  # a frame is two tics; for the first frames of a level Doom does not listen
BATCH = 64  # episodes of one game, at most: it takes a third of a second to start
# Doom's buttons in the order of the keys; what Doom lacks: r opens doors. Running is Doom's key, walking that of
# Counter-Strike, so shift is turned round.
BUTTONS = (
    *("MOVE_FORWARD", "MOVE_LEFT", "MOVE_BACKWARD", "MOVE_RIGHT", "JUMP", "CROUCH", "SPEED"),
    *("SELECT_WEAPON1", "SELECT_WEAPON2", "SELECT_WEAPON3", "USE", "ATTACK", "ALTATTACK"),
)
MOUSE_BUTTONS = ("TURN_LEFT_RIGHT_DELTA", "LOOK_UP_DOWN_DELTA")
STATE = ("POSITION_X", "POSITION_Y", "POSITION_Z", "ANGLE", "PITCH", "HEALTH", "SELECTED_WEAPON", "KILLCOUNT")


SPLITS = ("train", "test")
Act = Callable[[Any, int], Float32[np.ndarray, "51"]]


@dataclass(frozen=True)
class Recording:
    """What was seen and done, and the hidden state (columns `STATE`), frame by frame; `attempt` had to be made."""

    video: UInt8[np.ndarray, "f h w 3"]
    actions: Float32[np.ndarray, "f 51"]
    state: Float64[np.ndarray, "f s"]
    attempt: int = 0


class DoomWorld:
    """The levels, their players and their writer. There is no judge: the rules are Doom's own.

    `episodes` counts what train and test hold, `length` is that of an episode in frames, `height` and `width` those of
    pictures on disk. `levels` are Freedoom's (map01 .. map32), `warm_up` the most frames played before an episode
    begins, `policies` the share of each policy. The player cannot die. `workers` processes write.
    """

    name = "doom"
    spec = SPEC

    def __init__(
        self, *, seed: int, length: int, episodes: Mapping[str, int], height: int, width: int,
        levels: Mapping[str, Sequence[str]], warm_up: int, policies: Mapping[str, float], workers: int,
    ) -> None:  # fmt: skip
        if set(episodes) != {"train", "test"} or min(episodes.values()) < 1 or length < 2 or warm_up < 0:
            raise ValueError(
                f"data.world.episodes={dict(episodes)} must count train and test, {length=} be 2 or more, {warm_up=} "
                f"not negative"
            )
        if set(levels) != set(episodes) or not all(levels.values()) or set(levels["train"]) & set(levels["test"]):
            raise ValueError(f"data.world.levels={dict(levels)} must name levels for train and others for test")
        if not (24 <= height <= 180 and 24 <= width <= 320):
            raise ValueError(f"data.world.{height=} and {width=} must lie within 24x24 and 180x320")
        if set(policies) != set(POLICIES) or min(policies.values()) < 0 or abs(sum(policies.values()) - 1) > 1e-6:
            raise ValueError(f"data.world.policies={dict(policies)} must give {POLICIES} shares that sum to 1")
        if workers < 1:
            raise ValueError(f"data.world.{workers=} must be at least 1")
        self.seed, self.length, self.warm_up, self.height, self.width = seed, length, warm_up, height, width
        self.workers = workers
        self.episodes = {split: int(episodes[split]) for split in ("train", "test")}
        self.levels = {split: tuple(map(str, levels[split])) for split in self.episodes}
        self.policies = {name: float(policies[name]) for name in POLICIES}

    @property
    def settings(self) -> dict[str, Any]:
        """All that the data depend on, as plain JSON values."""
        names = ("seed", "length", "episodes", "height", "width", "warm_up", "policies")
        levels = {split: list(levels) for split, levels in self.levels.items()}
        return {**{name: getattr(self, name) for name in names}, "levels": levels, "version": VERSION}

    @property
    def size(self) -> int:
        """An upper estimate of the data on disk, in bytes."""
        return sum(self.episodes.values()) * self.length * (3 * self.height * self.width + 4096)

    def record(self, split: str, episodes: range) -> list[Recording]:
        """The named episodes; each depends on the seed and its own number alone. Raises ValueError without ViZDoom."""
        with started(self.height, self.width) as game:
            return [self._played(game, split, episode) for episode in episodes]

    def write(self, folder: Path, report: Callable[[int], None]) -> None:
        """Writes `<folder>/doom/hdf5_dm_july2021_N.hdf5`, hidden state beside each, and the list of test files.

        `report(n)` is called after every n episodes. The bytes do not depend on `workers`.
        """
        require_vizdoom()
        place = folder / self.name
        place.mkdir(parents=True)
        job = partial(self._write_batch, place)
        write_batches(job, self._batches(), self.workers, report)
        first = self.episodes["train"]
        held_out = [f"{_name(first + episode)}.hdf5" for episode in range(self.episodes["test"])]
        with atomic_file(place / TEST_SPLIT) as unfinished:
            unfinished.write_text("\n".join(held_out) + "\n")

    def _batches(self) -> Iterator["_Batch"]:
        first = 0
        for split, count in self.episodes.items():
            size = min(BATCH, -(-count // self.workers))
            for start in range(0, count, size):
                yield _Batch(split, range(start, min(start + size, count)), first)
            first += count

    def _write_batch(self, place: Path, batch: "_Batch") -> int:
        with started(self.height, self.width) as game:
            for episode in batch.episodes:
                recording = self._played(game, batch.split, episode)
                _write(place, _name(batch.first + episode), recording, (SPLITS.index(batch.split), episode))
        return len(batch.episodes)

    def _played(self, game: Any, split: str, episode: int) -> Recording:
        """An episode; where a level ends before it is full, another attempt is made."""
        for attempt in range(20):
            player, before = self.begin(game, split, episode, attempt)
            found = self.film(game, lambda seen, _, by=player: by.act(seen), before, self.length)
            if found is not None:
                return replace(found, attempt=attempt)
        raise ValueError(f"no level of {self.levels[split]} lasts {self.length} frames; lower data.world.length")

    def begin(self, game: Any, split: str, episode: int, attempt: int) -> tuple[Player, int]:
        """Starts a level; its player, and how many frames it plays before the episode begins."""
        source = generator(self.seed, f"doom {split}", episode, attempt)
        game.set_seed(int(source.integers(2**31)))
        # Both, although a map starts an episode: without the second the level's chance depends on what was before.
        game.set_doom_map(str(source.choice(self.levels[split])))
        game.new_episode()
        for cheat in ("god", "give weapons", "give ammo"):
            game.send_game_command(cheat)
        player = Player(str(source.choice(POLICIES, p=[*self.policies.values()])), source)
        return player, SETTLE + int(source.integers(self.warm_up + 1))

    def film(self, game: Any, act: Act, before: int, length: int) -> Recording | None:
        """Plays `before` frames, then records `length`; `act(seen, frame)` says how. None where the level ends."""
        video, actions, states = [], [], []
        size = (self.width, self.height)
        for frame in range(before + length):
            if game.is_episode_finished():
                return None
            seen = game.get_state()
            action = act(seen, frame)
            if frame >= before:
                part = self._box(seen.screen_buffer)
                small = Image.fromarray(seen.screen_buffer).resize(size, Image.Resampling.BILINEAR, box=part)
                video.append(np.asarray(small))
                actions.append(action)
                states.append(seen.game_variables)
            game.make_action(buttons(action), TICS)
        return Recording(np.stack(video), np.stack(actions), np.stack(states))

    def _box(self, picture: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int, int, int]:
        """The middle of the picture that has the shape of those on disk: left, top, right, bottom."""
        kept = Resize("crop", self.height, self.width).taken(*picture.shape[:2])
        return kept.left, kept.top, kept.left + kept.width, kept.top + kept.height


@dataclass(frozen=True)
class _Batch:
    split: str
    episodes: range
    first: int  # how many episodes the splits before hold


def buttons(action: Float32[np.ndarray, "51"]) -> list[float]:
    """What Doom is told: `BUTTONS`, then degrees to the right and up per tic; a mouse counts downwards."""
    held = action[: len(BUTTONS)].copy()
    held[KEYS.index("shift")] = 1 - held[KEYS.index("shift")]
    turn = MOUSE_X[int(action[MOUSE["x"]].argmax())] * TURN / TICS
    return [*held.tolist(), turn, -MOUSE_Y[int(action[MOUSE["y"]].argmax())] * TURN / TICS]


def require_vizdoom() -> None:
    """Raises ValueError where ViZDoom is not installed."""
    if find_spec("vizdoom") is None:
        raise ValueError("data=doom needs ViZDoom, an extra: pip install -e '.[doom]', or WM_EXTRAS=dev,doom ./wm ...")


@contextmanager
def started(height: int, width: int) -> Iterator[Any]:
    """A game without a window, whose pictures are at least as large as asked for."""
    require_vizdoom()
    doom = import_module("vizdoom")  # here, because the rest of the suite does without
    game = doom.DoomGame()
    game.set_doom_game_path(str(Path(str(doom.__file__)).parent / "freedoom2.wad"))
    small = height <= 144 and width <= 256
    game.set_screen_resolution(getattr(doom.ScreenResolution, "RES_256X144" if small else "RES_320X180"))
    game.set_screen_format(doom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_labels_buffer_enabled(True)
    game.set_render_hud(True)
    game.set_mode(doom.Mode.PLAYER)
    game.set_available_buttons([getattr(doom.Button, name) for name in (*BUTTONS, *MOUSE_BUTTONS)])
    game.set_available_game_variables([getattr(doom.GameVariable, name) for name in STATE])
    game.set_episode_timeout(0)
    # Doom keeps its settings, and a folder for saved games, where one is.
    folder = Path("_vizdoom")
    there = folder.exists()
    with TemporaryDirectory() as place:
        game.set_doom_config_path(str(Path(place) / "doom.ini"))
        try:
            game.init()
            yield game
        finally:
            game.close()
            if not there and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _name(number: int) -> str:
    return f"hdf5_dm_july2021_{number + 1}"


def hidden(recording: Recording, origin: tuple[int, int]) -> dict[str, np.ndarray]:
    """State by name and frame. `origin` (split, number) and the attempt and frame tell how to come there again."""
    frames = np.arange(len(recording.state))
    way = np.column_stack([np.tile([*origin, recording.attempt], (len(frames), 1)), frames])
    return {key.lower(): recording.state[:, column] for column, key in enumerate(STATE)} | {"origin": way}


def _write(place: Path, name: str, recording: Recording, origin: tuple[int, int]) -> None:
    write_csgo(place / f"{name}.hdf5", recording.video, recording.actions)
    save_arrays(place / f"{name}.state.npz", hidden(recording, origin))
