"""One mp4 and one npz per episode, as world-model-eval stores Open X-Embodiment data.

Layout `<subset>/{train,val,test}/NNNNNNNNN.mp4` beside `NNNNNNNNN.npz`, whose positional array `arr_0` is
float32 [frames, 10]. `arr_0[k]` is stored at the observation k and acts to produce frame k+1. Simulated
episodes have a `NNNNNNNNN.state.npz` too: hidden state, every array by frame, for evaluation only.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.video_files import BadFile, Decoder, Encoding, decode, encode

# RT-1's fields in world-model-eval's order, with the number of columns of each.
FIELDS = {
    "world_vector": 3,
    "rotation_delta": 3,
    "gripper_closedness_action": 1,
    "base_displacement_vector": 2,
    "base_displacement_vertical_rotation": 1,
}
COLUMNS = sum(FIELDS.values())
STATE = ".state.npz"


def action_spec(bounds: Mapping[str, float]) -> ActionSpec:
    """The 10 columns with a symmetric bound per field. Raises ValueError where a field is missing or unknown."""
    if set(bounds) != set(FIELDS) or min(bounds.values()) <= 0:
        raise ValueError(f"action bounds {dict(bounds)} must give each of {', '.join(FIELDS)} one positive number")
    names = [f"{name}_{'xyz'[axis]}" if size > 1 else name for name, size in FIELDS.items() for axis in range(size)]
    high = [float(bounds[name]) for name, size in FIELDS.items() for _ in range(size)]
    return ActionSpec(tuple(names), tuple(-value for value in high), tuple(high))


@dataclass(frozen=True)
class EpisodeFiles:
    """Where one episode stands."""

    video: Path
    actions: Path
    state: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> "EpisodeFiles":
        """The three paths of the episode `name` (without suffix)."""
        return cls(folder / f"{name}.mp4", folder / f"{name}.npz", folder / f"{name}{STATE}")

    @property
    def name(self) -> str:
        """The episode's number as written."""
        return self.video.stem


@dataclass(frozen=True)
class StoredEpisode:
    """An episode as it stands on disk: all arrays have the same number of frames."""

    video: UInt8[np.ndarray, "f h w 3"]
    actions: Float32[np.ndarray, "f a"]
    truth: Mapping[str, Shaped[np.ndarray, "f ..."]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The episodes of a folder in the order of their names, and files that have no partner."""

    episodes: tuple[EpisodeFiles, ...]
    bad: tuple[BadFile, ...]


def find_episodes(folder: Path) -> Found:
    """The pairs of a split's folder. Raises ValueError where it is missing or holds neither mp4 nor npz."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not there; expected a folder of NNNNNNNNN.mp4 beside NNNNNNNNN.npz")
    videos = {path.stem for path in folder.glob("*.mp4")}
    states = {path.name.removesuffix(STATE) for path in folder.glob(f"*{STATE}")}
    actions = {path.stem for path in folder.glob("*.npz") if not path.name.endswith(STATE)}
    if not videos | actions:
        raise ValueError(f"{folder} holds no episode; expected NNNNNNNNN.mp4 beside NNNNNNNNN.npz")
    bad = [BadFile(folder / f"{name}.mp4", f"has no {name}.npz beside it") for name in videos - actions]
    bad += [BadFile(folder / f"{name}.npz", f"has no {name}.mp4 beside it") for name in actions - videos]
    pairs = sorted(videos & actions)
    if states:  # a judge that knows the truth of some episodes only would compare unlike things
        bad += [BadFile(folder / f"{name}.mp4", f"has no {name}{STATE}, others do") for name in set(pairs) - states]
        pairs = [name for name in pairs if name in states]
    return Found(tuple(EpisodeFiles.of(folder, name) for name in pairs), tuple(sorted(bad, key=lambda b: b.path)))


def read_actions(files: EpisodeFiles) -> Float32[np.ndarray, "f a"]:
    """The stored actions, unclipped and unshifted. Raises BadFile where they are no finite [frames, 10] floats."""
    arrays = _load(files.actions)
    if "arr_0" not in arrays:
        raise BadFile(files.actions, f"has no array arr_0, only {sorted(arrays)}")
    actions = arrays["arr_0"]
    if actions.ndim != 2 or actions.shape[1] != COLUMNS or not len(actions):
        raise BadFile(files.actions, f"actions have shape {list(actions.shape)}, [frames, {COLUMNS}] is expected")
    if actions.dtype.kind not in "fiu" or not np.isfinite(actions).all():
        raise BadFile(files.actions, "actions are not all finite numbers (NaN or infinite)")
    return actions.astype(np.float32)


def read_episode(files: EpisodeFiles, *, decoder: Decoder, trim_tail: bool) -> StoredEpisode:
    """The whole episode. Raises BadFile where a file is damaged or the lengths differ.

    `trim_tail` lets video and actions differ by one frame: the longer one loses its last.
    """
    actions, truth = read_actions(files), _load(files.state) if files.state.exists() else {}
    video = decode(files.video, decoder)
    lengths = {len(video), len(actions)}
    frames = min(lengths)
    if max(lengths) - frames > int(trim_tail):
        hint = "" if trim_tail else "; data.trim_tail=true allows a difference of one"
        raise BadFile(files.video, f"has {len(video)} frames for {len(actions)} actions{hint}")
    for key, values in truth.items():
        if values.ndim == 0 or len(values) < frames:
            raise BadFile(files.state, f"{key} has shape {list(values.shape)} for {frames} frames")
    return StoredEpisode(video[:frames], actions[:frames], {key: values[:frames] for key, values in truth.items()})


def write_episode(
    files: EpisodeFiles,
    video: UInt8[np.ndarray, "f h w 3"],
    actions: Float32[np.ndarray, "f a"],
    state: Mapping[str, Shaped[np.ndarray, "..."]],
    encoding: Encoding,
) -> None:
    """Writes the files of one episode, each whole or not at all. Raises ValueError where the lengths differ."""
    lengths = {"video": len(video), "actions": len(actions)} | {key: len(values) for key, values in state.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{files.video}: lengths differ: {lengths}; every array has one row per frame")
    _save(files.actions, {"arr_0": actions.astype(np.float32)})
    if state:
        _save(files.state, state)
    encode(files.video, video, encoding)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        # AttributeError: numpy returns a bare array where the file is an npy under another name.
        raise BadFile(path, f"cannot be read as npz ({error})") from error


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # An open file, because numpy would add .npz to the partial name.
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **dict(arrays))  # pyright: ignore[reportArgumentType] (keys are never allow_pickle)
