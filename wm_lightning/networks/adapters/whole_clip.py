"""What networks of diffusers have in common that make a whole clip at once behind given frames, from words."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wm_lightning.clip import Condition, Latents, Levels, Prompt
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.state import State, empty_state

Features = tuple[Float[Tensor, "b n e"], Bool[Tensor, "b n"]]
TIMESTEPS = 1000.0  # the label of pure noise, of all of them


def diffusers_class(module: str, name: str) -> Any:
    """A class of `diffusers.models`. Raises ValueError where diffusers is not there, or too old to have it."""
    try:
        # An extra, and seconds that nobody else waits for.
        return getattr(importlib.import_module(f"diffusers.models.{module}"), name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a {name} needs diffusers 0.42 or newer, and {error.name} is not there: pip install 'diffusers>=0.42'"
        ) from error


def diffusers_model(module: str, name: str, arguments: Mapping[str, Any], gradient_checkpointing: bool) -> Any:
    """A model of `diffusers.models.transformers`, with random weights. Raises ValueError where it cannot be made."""
    kind = diffusers_class(f"transformers.{module}", name)
    try:
        model = kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"network.architecture describes no {name}: {error}") from error
    if gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model


def remembered(x_t: Latents, past: State | None, mask: FrameMask) -> State:
    """What such a network remembers: that so many frames were seen.

    Raises ValueError for a mask that hides frames from one another, and behind a past: `Rerun` asks again of all.
    """
    if mask.chunk is not None:
        raise ValueError(
            f"this network sees a whole clip at once, and the mask is {mask}; set rollout.mask.chunk=null and "
            f"module.masks.chunks=[null]"
        )
    if past is not None and past.length:
        raise ValueError(f"this network remembers nothing, and {past.length} frames are to be; run it through Rerun")
    return empty_state(len(x_t)).advanced({}, x_t.shape[1])


def one_level(label: Levels) -> Float[Tensor, "b"]:
    """The label of the frames that are no given ones (label 0). Raises ValueError where they have several."""
    level = label.amax(1)
    if not bool(((label == level[:, None]) | (label == 0)).all()):
        raise ValueError(
            "this network knows one noise level for all frames that are to be made; set module.levels.shared=1 and a "
            "sampler whose frames go together"
        )
    return level


def words(reader: nn.Module | None, condition: Condition, batch: int, width: int) -> Features:
    """Features of the prompt and which of them are there: the reader's, or those that the prompt has, `width` wide.

    Raises ValueError where it has ids of words and nothing reads them, and for features of another width.
    """
    prompt: Prompt | None = condition.prompt
    if reader is not None and prompt is not None and prompt.tokens.is_floating_point():
        raise ValueError("this network reads ids of words, found features of a text encoder; set network.prompt=null")
    if reader is not None:
        return reader(prompt, batch)
    if prompt is None or not prompt.tokens.is_floating_point():
        found = "no prompt" if prompt is None else "ids of words"
        raise ValueError(f"this network attends to features of a text encoder, found {found}; set network.prompt")
    if prompt.tokens.shape[-1] != width:
        raise ValueError(f"features of {width} numbers a token are expected, found {prompt.tokens.shape[-1]}")
    return prompt.tokens, prompt.there


def without_actions(actions: int | None) -> None:
    """Raises ValueError for data whose videos are driven by actions: nothing would tell this network of them."""
    if actions:
        raise ValueError(f"network.actions={actions}: this network is driven by words alone; set data=world_tasks")


def dtype_of(layer: nn.Module) -> torch.dtype:
    """What a layer computes in where nothing casts automatically."""
    return layer.weight.dtype  # type: ignore[union-attr,return-value]
