"""Small sets of every on-disk form, opened as a training opens them, and what is served of one."""

import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

import contextlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.data.making import robot_actions
from wm_lightning.config import compose
from wm_lightning.data.datamodule import SPLITS, ClipDataModule
from wm_lightning.data.formats.action_npz import write_action_npz
from wm_lightning.data.formats.csgo import COLUMNS, MOUSE
from wm_lightning.data.formats.csgo_writer import write_csgo
from wm_lightning.data.formats.episode import Episode
from wm_lightning.data.formats.game_writers import write_diamond
from wm_lightning.data.formats.lerobot_writer import LeRobotWriter
from wm_lightning.data.formats.mp4_npz import EpisodeFiles, write_episode
from wm_lightning.data.formats.recon import write_recon_file, write_recon_folder
from wm_lightning.data.formats.rlds import write_rlds
from wm_lightning.data.formats.source import StoredEpisode
from wm_lightning.data.formats.store_reader import StoreReader
from wm_lightning.data.formats.video_files import BadFile, Encoding, encode
from wm_lightning.data.formats.world_tasks import TaskRow, read_tasks, write_tasks
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.worlds.grid_tasks import GridTasks, to_json
from wm_lightning.worlds.world_map import WorldMap

TRAIN, TEST, FRAMES, SHORT = 6, 2, 9, 3
ENCODING = Encoding(fps=3, crf=18, preset="veryfast")


def picture(seed: int, frames: int = FRAMES) -> np.ndarray:
    """Texture that drifts: enough detail that coded pictures fill the file, and warm, so that swapped colours show."""
    source = np.random.default_rng(seed)
    field = np.kron(source.uniform(30, 225, (16, 24 + frames)), np.ones((3, 2)))
    film = np.stack([field[:, 2 * f : 2 * f + 48] for f in range(frames)])
    film = film[..., None] * np.array([1.0, 0.75, 0.5]) + source.uniform(-12, 12, (frames, 48, 48, 3))
    return film.clip(0, 255).astype(np.uint8)


def length(number: int) -> int:
    """One episode of every set is too short for a window."""
    return SHORT if number == 4 else FRAMES


def robots(order: str) -> list[StoredEpisode]:
    lengths = [length(number) for number in range(TRAIN + TEST)]
    return [StoredEpisode(picture(n, f), robot_actions(f, order, n)) for n, f in enumerate(lengths)]


def split_of(number: int) -> str:
    return "train" if number < TRAIN else "test"


def mp4_set(root: Path) -> None:
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
    for number, one in enumerate(robots("oxe10")):
        files = EpisodeFiles.of(root / split_of(number), f"{number:09d}")
        write_episode(files, one.video, one.actions, {}, ENCODING)


def own_set(root: Path) -> None:
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
    (root / "actions.yaml").write_text("names: [speed, turn]\nlow: [-1, -1]\nhigh: [1, 1]\n")
    for number, one in enumerate(robots("lerobot7")):
        path = root / split_of(number) / f"walk_{number}.mp4"
        encode(path, one.video, ENCODING)
        rows = one.actions[:, :2]
        if number % 2:
            path.with_suffix(".csv").write_text(
                "\n".join(["speed,turn", *(f"{a},{b}" for a, b in rows.tolist())]) + "\n"
            )
        else:
            np.savez(path.with_suffix(".npz"), actions=rows)


def npz_set(root: Path) -> None:
    root.mkdir(parents=True)
    for number, one in enumerate(robots("vid2world13")):
        write_action_npz(root / f"train_eps_{number:08d}.npz", one.video, one.actions)


def rlds_set(root: Path) -> None:
    made = robots("vid2world13")
    write_rlds(root / "1.0.0", "arm", "train", [made[:3], made[3:TRAIN]])
    write_rlds(root / "1.0.0", "arm", "test", [made[TRAIN:]])


def lerobot_set(version: str):
    def write(root: Path) -> None:
        made = robots("lerobot7")
        LeRobotWriter(root, ENCODING, version, together=3).write({"train": made[:TRAIN], "test": made[TRAIN:]})  # type: ignore[arg-type]

    return write


def games() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for number in range(TRAIN + TEST):
        frames, source = length(number), np.random.default_rng(number)
        actions = np.zeros((frames, len(COLUMNS)), np.float32)
        actions[:, [0, 1, 12]] = source.random((frames, 3)) < 0.4
        for part in MOUSE.values():
            actions[np.arange(frames), part.start + source.integers(part.stop - part.start, size=frames)] = 1
        yield picture(number, frames), actions


def csgo_set(root: Path) -> None:
    root.mkdir(parents=True)
    for number, (video, actions) in enumerate(games()):
        write_csgo(root / f"hdf5_dm_july2021_{number}.hdf5", video, actions)
    names = [f"hdf5_dm_july2021_{number}.hdf5" for number in range(TRAIN, TRAIN + TEST)]
    (root / "test_split.txt").write_text("\n".join(names) + "\n")


# As the published ones, which say what they hold.
TARS = ("hdf5_dm_july2021_0_to_2.tar", "hdf5_dm_july2021_3_to_5.tar", "hdf5_dm_july2021_6_to_7.tar")


def tar_set(root: Path) -> None:
    csgo_set(root)
    files = sorted(root.glob("*.hdf5"))
    for number, part in enumerate((files[:3], files[3:TRAIN], files[TRAIN:])):
        with tarfile.open(root / TARS[number], "w") as tar:
            for path in part:
                tar.add(path, arcname=f"1-200/{path.name}")
                path.unlink()


def diamond_set(root: Path) -> None:
    for number, (video, actions) in enumerate(games()):
        write_diamond(root / split_of(number), number, video, actions, str(number))


def recon_set(write):
    def make(root: Path) -> None:
        root.mkdir(parents=True)
        for number in range(TRAIN + TEST):
            frames, source = length(number), np.random.default_rng(number)
            yaw = np.cumsum(source.uniform(-0.4, 0.4, frames)) + 3
            position = np.cumsum(0.2 * np.stack([np.cos(yaw), np.sin(yaw)], 1), axis=0)
            wrapped = (yaw + np.pi) % (2 * np.pi) - np.pi
            suffix = ".hdf5" if write is write_recon_file else ""
            write(root / f"jackal_{number}{suffix}", picture(number, frames), position, wrapped)
        for split in ("train", "test"):
            names = [f"jackal_{number}" for number in range(TRAIN + TEST) if split_of(number) == split]
            (root / f"{split}.txt").write_text("\n".join(names) + "\n")

    return make


def tasks_set(root: Path) -> None:
    world = GridTasks(seed=1, frames=9, most_walls=4, tasks_per_scene=2, slack=0)
    made = []
    for number in range(TRAIN + TEST):
        split = split_of(number)
        tasks = world.scene(split, number)
        rows = [
            TaskRow("", "", f"scene-{number}", t.agent, t.instruction, t.solution, t.category, "object", split,
                    to_json(t)) for t in tasks
        ]  # fmt: skip
        made.append((tasks[0].picture(4), rows))
    write_tasks(root, made)


def map_set(root: Path) -> None:
    world = WorldMap(
        seed=0, map_tiles=16, view=6, smoothness=2.0, stickiness=0.6, length=FRAMES,
        maps=dict(train=3, val=2, test=2), walks=dict(train=TRAIN, val=4, test=4),
    )  # fmt: skip
    world.write(root, lambda step: None)


@dataclass(frozen=True)
class Set:
    """How a form is made, and the words that open it."""

    make: object
    words: tuple[str, ...]


def _rt1(form: str) -> tuple[str, ...]:
    wide = "{world_vector: 1.0, rotation_delta: 1.0, gripper_closedness_action: 1.0, base_displacement_vector: 1.0, "
    return ("data=rt1", f"data.format={form}", "+data.bounds.set=" + wide + "base_displacement_vertical_rotation: 1.0}")


SETS = {
    "mp4": Set(mp4_set, _rt1("mp4")),
    "own": Set(own_set, ("data=own",)),
    "npz": Set(npz_set, _rt1("npz")),
    "rlds": Set(rlds_set, _rt1("rlds")),
    "lerobot2": Set(lerobot_set("v2.1"), _rt1("lerobot")),
    "lerobot3": Set(lerobot_set("v3.0"), _rt1("lerobot")),
    "csgo": Set(csgo_set, ("data=csgo", "data.format=hdf5")),
    "tar": Set(tar_set, ("data=csgo", "data.format=hdf5")),
    "diamond": Set(diamond_set, ("data=csgo", "data.format=diamond")),
    "recon": Set(recon_set(write_recon_file), ("data=recon",)),
    "folders": Set(recon_set(write_recon_folder), ("data=recon",)),
    "tasks": Set(tasks_set, ()),
    "map": Set(map_set, ("data=worldmap",)),
}


@cache
def composed(form: str, words: tuple[str, ...]) -> DictConfig:
    # Parts that no file holds alone, so that a fault leaves something of each.
    shape = ["data.subset=set", "data.height=48", "data.width=48", "data.decode_workers=1", "data.val_share=0.5"]
    shape = [] if form == "map" else [*shape, "data.test_share=0.3"]
    return compose([*SETS[form].words, "data.frames=5", "data.val_frames=5", "data.val_clips=2", *shape, *words])


def opened(root: Path, form: str, cache_dir: Path, *words: str) -> ClipDataModule:
    """The data of a set, as a training opens them. Raises ValueError where they are refused."""
    config = composed(form, words).copy()
    config.data.root, config.data.cache_dir = str(root), str(cache_dir)
    data = instantiate(config.data, _convert_="all")
    data.prepare_data()
    return data


def served(data: ClipDataModule) -> dict[str, Episode]:
    """Every episode that is given out, whole, by stored split and name (or number, where the form has no names)."""
    found: dict[str, Episode] = {}
    stored = data.stored_splits() if isinstance(data, SourceDataModule) else SPLITS
    for split in SPLITS:
        reader = data.reader(split)
        for episode in range(len(reader)):
            name = reader.name(episode) if isinstance(reader, StoreReader) else str(episode)
            found[f"{split if split in stored else 'train'}/{name}"] = reader.read(episode, 0, reader.length(episode))
    return found


def rows_served(root: Path) -> dict[str, Episode]:
    """Rows of a WorldTasks set that can be used, by id, and their pictures."""
    tasks, found = read_tasks(root), {}
    for row in tasks.rows:
        with contextlib.suppress(BadFile):
            picture = np.moveaxis(tasks.picture(row), -1, 0)[None]
            found[row.id] = Episode(picture, np.zeros((1, 1), np.float32), np.zeros(1, np.int64))
    return found
