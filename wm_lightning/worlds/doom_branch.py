"""Other futures of a frame of Doom: its levels are played again from their start, then with other actions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from wm_lightning.worlds.doom import SPLITS, DoomWorld, Recording, hidden, started
from wm_lightning.worlds.doom_player import pressed

State = Mapping[str, Shaped[np.ndarray, "n ..."]]


def branch(
    world: DoomWorld, state: State, actions: Float32[np.ndarray, "n f 51"]
) -> tuple[UInt8[np.ndarray, "n f1 h w 3"], State]:
    """What follows from one saved frame of `n` episodes under these actions: pictures and state from it on.

    `state` holds that frame's rows of `state.npz`, of which `origin` is used: Doom saves no state that could be gone on
    from to the bit, but it is deterministic. Chance is the level's own, so actions are the only difference between two
    branches. Raises ValueError where a level ends on the way.
    """
    with started(world.height, world.width) as game:
        futures = [_future(world, game, origin, own) for origin, own in zip(state["origin"], actions, strict=True)]
    found = [hidden(future, origin) for future, origin in futures]
    for one, origin in zip(found, state["origin"], strict=True):
        one["origin"][:, 3] += origin[3]
    video = np.stack([future.video for future, _ in futures])
    return video, {key: np.stack([one[key] for one in found]) for key in found[0]}


def _future(
    world: DoomWorld, game: Any, origin: Shaped[np.ndarray, "4"], actions: Float32[np.ndarray, "f 51"]
) -> tuple[Recording, tuple[int, int]]:
    split, episode, attempt, frame = (int(number) for number in origin)
    player, before = world.begin(game, SPLITS[split], episode, attempt)
    start, rest = before + frame, pressed(set(), 0.0)

    def act(seen: Any, number: int) -> Float32[np.ndarray, "51"]:
        if number < start:
            return player.act(seen)
        return actions[number - start] if number - start < len(actions) else rest

    found = world.film(game, act, start, len(actions) + 1)
    if found is None:
        raise ValueError(f"the level of {SPLITS[split]} episode {episode} ends within {len(actions)} frames of {frame}")
    return replace(found, attempt=attempt), (split, episode)
