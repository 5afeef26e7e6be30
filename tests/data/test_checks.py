"""The colour test: an episode with red and blue swapped is named beside others, and a plain set names none."""

import numpy as np

from wm_lightning.data.checks import swapped
from wm_lightning.data.formats.source import StoredEpisode


def episodes(colour: tuple[int, int, int], count: int = 5) -> dict[str, StoredEpisode]:
    found = {}
    for number in range(count):
        source = np.random.default_rng(number)
        video = (np.array(colour) + source.normal(0, 20, (4, 8, 8, 3))).clip(0, 255).astype(np.uint8)
        found[str(number)] = StoredEpisode(video, np.zeros((4, 2), np.float32))
    return found


def test_a_swapped_episode_is_named() -> None:
    sound = episodes((170, 120, 80))
    assert swapped(sound) == []
    one = sound["3"]
    assert swapped(sound | {"3": StoredEpisode(one.video[..., ::-1], one.actions)}) == ["3"]


def test_grey_sets_and_pairs_tell_nothing() -> None:
    grey = episodes((120, 120, 123))
    assert swapped(grey | {"3": StoredEpisode(grey["3"].video[..., ::-1], grey["3"].actions)}) == []
    pair = episodes((170, 120, 80), 2)
    assert swapped(pair | {"1": StoredEpisode(pair["1"].video[..., ::-1], pair["1"].actions)}) == []
