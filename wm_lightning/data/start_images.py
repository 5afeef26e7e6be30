"""Clips that begin with a picture from a folder: no history, no truth, the actions chosen by whoever asks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wm_lightning.clip import ActionSpec, ActionState, Clip, Condition
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.formats.picture_files import from_bytes
from wm_lightning.data.formats.resize import Resize

log = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True)
class StartImages:
    """Pictures in the size of the data's frames, in the order of their names."""

    names: tuple[str, ...]
    pixels: UInt8[np.ndarray, "n 3 h w"]


def read_images(folder: Path, resize: Resize) -> StartImages:
    """All pictures of the folder; other files are left out and counted in the log.

    Raises ValueError, naming the file or folder, for a picture that cannot be decoded and where there is none.
    """
    if not folder.is_dir():
        raise ValueError(f"task.images={folder} is not a folder; name one that holds pictures ({', '.join(SUFFIXES)})")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    if len(pictures) < len(files):
        log.warning("%s: %d files that are no pictures are left out", folder, len(files) - len(pictures))
    if not pictures:
        raise ValueError(f"task.images={folder} holds no picture ({', '.join(SUFFIXES)}); name another folder")
    frames = [resize(from_bytes(path, path.read_bytes())[None].copy()) for path in pictures]
    return StartImages(tuple(path.name for path in pictures), np.concatenate(frames))


def held_action(
    spec: ActionSpec, action: Mapping[str, float], clips: int, frames: int, *, rest: Mapping[str, float | int]
) -> Condition:
    """One action for all frames; columns that are not named are as at `rest`.

    Raises ValueError for a column that is none, or a value out of its bounds.
    """
    row = neutral(spec, rest)
    for name, value in action.items():
        if name not in spec.names:
            raise ValueError(f"task.action names {name!r}, the data's actions are {list(spec.names)}")
        column = spec.names.index(name)
        low, high = spec.low[column], spec.high[column]
        if isinstance(value, str) or not low <= value <= high:
            raise ValueError(f"task.action.{name}={value} is no number within its bounds, {low:g} to {high:g}")
        row[column] = value
    return Condition(row.expand(clips, frames, -1).clone(), torch.zeros(clips, frames, dtype=torch.int64))


def neutral(spec: ActionSpec, rest: Mapping[str, float | int]) -> Float[Tensor, "a"]:
    """The action of doing nothing: what `rest` says of a column, else 0, or the bound next to it.

    A mouse that rests is a key of its own in some data, and 0 lies off the middle of a range in others.
    """
    wanted = [rest.get(name, 0.0) for name in spec.names]
    return torch.tensor(np.clip(wanted, spec.low, spec.high), dtype=torch.float32)


def begun(condition: Condition, spec: ActionSpec, context: int, *, rest: Mapping[str, float | int]) -> Condition:
    """The same condition behind a picture that is held for `context` frames: nothing led to the first of them, and a
    neutral action (see `neutral`) to the others."""
    actions, state = condition.actions.clone(), condition.state.clone()
    actions[:, :context], state[:, :context] = neutral(spec, rest), int(ActionState.GIVEN)
    actions[:, 0], state[:, 0] = 0.0, int(ActionState.NONE)
    return Condition(actions, state)


def image_clips(
    data: ClipDataModule, images: StartImages, condition: Condition, context: int, batch_size: int
) -> Sequence[Clip]:
    """Batches of clips whose `context` given frames are the picture, held; what follows it is empty.

    Where networks see latents, the data's autoencoder makes those of the picture.
    """
    frames = condition.actions.shape[1]
    given = torch.from_numpy(images.pixels)[:, None]
    video = torch.zeros(len(given), frames, *given.shape[2:], dtype=torch.uint8)
    video[:, :context] = given
    latents = None
    if data.autoencoder_identity:
        encoded = data.encode(given)
        latents = encoded.new_zeros(len(given), frames, *encoded.shape[2:])
        latents[:, :context] = encoded
    whole = Clip(video, condition, torch.arange(len(given)), latents=latents)
    return [whole[start : start + batch_size] for start in range(0, len(given), batch_size)]
