"""The batch: a clip of video with the condition that drove it, as frozen values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Pixels = UInt8[Tensor, "b f c h w"]
Latents = Float[Tensor, "b f c h w"]
Encoded = Float[Tensor, "b f channels rows columns"]  # latents beside the pixels they are of
Levels = Float[Tensor, "b f"]


class ActionState(IntEnum):
    """What stands in a frame's action slot."""

    GIVEN = 0
    NONE = 1  # the first frame of an episode: nothing produced it
    DROPPED = 2  # hidden on purpose, so that a network learns to do without


@dataclass(frozen=True)
class ActionSpec:
    """Names, bounds and kind of every action column; travels with data and checkpoints.

    `low` and `high` are the bounds of what is stored; readers clip to them. `kind` is
    "continuous" or "discrete" (columns are then a multi-hot of named choices).
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    kind: Literal["continuous", "discrete"] = "continuous"

    def __post_init__(self) -> None:
        for name in ("names", "low", "high"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.names) == len(self.low) == len(self.high):
            raise ValueError(f"{len(self.names)=}, {len(self.low)=} and {len(self.high)=} must be equal")

    @property
    def dim(self) -> int:
        """Number of action columns."""
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, fit for JSON and checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ActionSpec":
        """Inverse of `to_dict`."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


@dataclass(frozen=True)
class Start:
    """What a network made for image-to-video is told of a video's first frame, beside its frames and actions.

    `latent` is that frame, clean (s = 1), or one for every frame; `image` and `text` are tokens as frozen encoders give
    them, None where a network takes none.
    """

    latent: Float[Tensor, "b s c h w"]
    image: Float[Tensor, "b n e"] | None = None
    text: Float[Tensor, "b m d"] | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Start":
        """The same change made to all tensors."""
        image, text = (None if value is None else change(value) for value in (self.image, self.text))
        return Start(change(self.latent), image, text)

    @classmethod
    def cat(cls, parts: Sequence["Start"]) -> "Start":
        """Joins over the batch."""
        tokens = [[value for p in parts if (value := getattr(p, name)) is not None] for name in ("image", "text")]
        image, text = (torch.cat(values) if len(values) == len(parts) else None for values in tokens)
        return cls(torch.cat([p.latent for p in parts]), image, text)


@dataclass(frozen=True)
class Prompt:
    """What a video shall show, in words: ids of words `b n`, or features `b n e` of a frozen encoder.

    `there` marks the tokens that are no padding.
    """

    tokens: Int[Tensor, "b n"] | Float[Tensor, "b n e"]
    there: Bool[Tensor, "b n"]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Prompt":
        """The same change made to all tensors."""
        return Prompt(change(self.tokens), change(self.there))

    @classmethod
    def cat(cls, parts: Sequence["Prompt"]) -> "Prompt":
        """Joins prompts of one length over the batch."""
        return cls(torch.cat([p.tokens for p in parts]), torch.cat([p.there for p in parts]))


@dataclass(frozen=True)
class Condition:
    """What drives a video: `actions[:, f]` is the action that *produced* frame f.

    `state[:, f]` is an `ActionState`. Actions may be longer than the video. `start` is made by networks that need it
    (`Denoises.begun`), from the first given frame. `prompt` says in words what shall happen.
    """

    actions: Float[Tensor, "b f a"]
    state: Int[Tensor, "b f"]
    start: Start | None = None
    prompt: Prompt | None = None

    def frames(self, start: int, stop: int) -> "Condition":
        """The condition of frames start..stop-1. Raises ValueError where actions end earlier."""
        if stop > self.actions.shape[1]:
            raise ValueError(f"actions for frames {start}..{stop - 1} asked for, {self.actions.shape[1]} are there")
        return replace(self, actions=self.actions[:, start:stop], state=self.state[:, start:stop])

    def null(self, frames: Sequence[int] | None = None) -> "Condition":
        """The same condition with the actions of all, or of the named, frames marked dropped."""
        state = self.state.clone()
        state[:, slice(None) if frames is None else list(frames)] = ActionState.DROPPED
        return replace(self, state=state)

    def drop(self, mask: Tensor) -> "Condition":
        """Marks the actions dropped where the boolean mask `b f` holds."""
        return replace(self, state=self.state.masked_fill(mask, int(ActionState.DROPPED)))

    def to(self, *args: Any, **kwargs: Any) -> "Condition":
        """Moves all tensors to a device (dtype conversion would change `state`, so devices only)."""
        return self._each(lambda value: value.to(*args, **kwargs))

    def __len__(self) -> int:
        return self.actions.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> "Condition":
        return self._each(lambda value: value[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        start = None if self.start is None else self.start.each(change)
        prompt = None if self.prompt is None else self.prompt.each(change)
        return Condition(change(self.actions), change(self.state), start, prompt)

    @classmethod
    def cat(cls, parts: Sequence["Condition"], dim: int = 0) -> "Condition":
        """Joins over the batch (dim 0) or over time (dim 1, where the first one's start and prompt hold for all)."""
        starts = [p.start for p in parts if p.start is not None]
        start = None if len(starts) < len(parts) else starts[0] if dim == 1 else Start.cat(starts)
        prompts = [p.prompt for p in parts if p.prompt is not None]
        prompt = None if len(prompts) < len(parts) else prompts[0] if dim == 1 else Prompt.cat(prompts)
        return cls(torch.cat([p.actions for p in parts], dim), torch.cat([p.state for p in parts], dim), start, prompt)


@dataclass(frozen=True)
class Texts:
    """What is asked of every clip of a batch and how it can be done; `ids` name the tasks in their data set."""

    ids: tuple[str, ...]
    instruction: tuple[str, ...]
    solution: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.instruction) == len(self.solution):
            raise ValueError(f"{len(self.ids)=}, {len(self.instruction)=} and {len(self.solution)=} must be equal")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Tensor) -> "Texts":
        if isinstance(rows, Tensor):
            places = rows.nonzero()[:, 0].tolist() if rows.dtype == torch.bool else rows.tolist()
            return Texts(*(tuple(texts[i] for i in places) for texts in (self.ids, self.instruction, self.solution)))
        return Texts(self.ids[rows], self.instruction[rows], self.solution[rows])

    @classmethod
    def cat(cls, parts: Sequence["Texts"]) -> "Texts":
        """Joins the texts of several batches."""
        return cls(
            tuple(text for part in parts for text in part.ids),
            tuple(text for part in parts for text in part.instruction),
            tuple(text for part in parts for text in part.solution),
        )


@dataclass(frozen=True)
class Clip:
    """A batch of clips: video uint8 `b f c h w`, its condition, and where each sample came from.

    `index` is the global sample index (it seeds noise); `truth` is hidden state of a simulator,
    each `b f ...`, present in evaluation only; `texts` are those of data sets that have tasks. `latents` are
    there where the data are read from a latent cache; training clips then have no pixels (frames of 0 x 0).
    """

    video: Pixels
    condition: Condition
    index: Int[Tensor, "b"]
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    texts: Texts | None = None
    latents: Encoded | None = None

    @property
    def x0(self) -> Latents:
        """Clean frames as a network sees them: latents where there are any, else pixels in [-1, 1]."""
        return to_unit(self.video) if self.latents is None else self.latents.float()

    def frames(self, start: int, stop: int) -> "Clip":
        """Frames start..stop-1 with their condition and truth."""
        return self._changed(lambda value: value[:, start:stop], self.condition.frames(start, stop), self.index)

    def to(self, *args: Any, **kwargs: Any) -> "Clip":
        """Moves every tensor to a device."""
        condition, index = self.condition.to(*args, **kwargs), self.index.to(*args, **kwargs)
        return self._changed(lambda value: value.to(*args, **kwargs), condition, index)

    def pin_memory(self) -> "Clip":
        """Pinned copies, for loaders that feed a GPU."""
        condition = replace(
            self.condition, actions=self.condition.actions.pin_memory(), state=self.condition.state.pin_memory()
        )
        return self._changed(lambda value: value.pin_memory(), condition, self.index.pin_memory())

    def __len__(self) -> int:
        return self.video.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> "Clip":
        """Some clips of the batch, by a slice or by their places."""
        some = self._changed(lambda value: value[rows], self.condition[rows], self.index[rows])
        return some if self.texts is None else replace(some, texts=self.texts[rows])

    @classmethod
    def cat(cls, parts: Sequence["Clip"]) -> "Clip":
        """Joins clips over the batch; texts where all have them."""
        truth = {key: torch.cat([p.truth[key] for p in parts]) for key in parts[0].truth}
        texts = [p.texts for p in parts if p.texts is not None]
        return cls(
            torch.cat([p.video for p in parts]),
            Condition.cat([p.condition for p in parts]),
            torch.cat([p.index for p in parts]),
            truth,
            Texts.cat(texts) if len(texts) == len(parts) else None,
            _cat_latents(parts),
        )

    def _changed(self, change: Callable[[Tensor], Tensor], condition: Condition, index: Tensor) -> "Clip":
        """The same change made to video, truth and latents."""
        truth = {key: change(value) for key, value in self.truth.items()}
        latents = None if self.latents is None else change(self.latents)
        return Clip(change(self.video), condition, index, truth, self.texts, latents)


def _cat_latents(parts: Sequence[Clip]) -> Encoded | None:
    """In full precision, for autocast to bfloat16 refuses to join halves."""
    found = [part.latents.float() for part in parts if part.latents is not None]
    return torch.cat(found) if found else None


def to_unit(video: Pixels) -> Latents:
    """uint8 pixels 0..255 to floats in [-1, 1]."""
    return video.float() / 127.5 - 1.0


def to_pixels(video: Latents) -> Pixels:
    """Floats in [-1, 1] (clamped) to uint8 pixels 0..255."""
    return ((video.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
