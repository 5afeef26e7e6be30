"""Intervals of clips that come in episodes: as often right as they say."""

import torch

from wm_lightning.metrics.episode_bootstrap import drawn_clips, mean_interval

EPISODES, CLIPS = 20, 8
NAMES = [str(clip // CLIPS) for clip in range(EPISODES * CLIPS)]


def held(names: list[str], *, times: int = 200) -> float:
    """Share of intervals that hold the true mean, 0, of values seven tenths of whose variance is the episode's."""
    source, hits = torch.Generator().manual_seed(0), 0
    for time in range(times):
        shared = torch.randn(EPISODES, 1, generator=source).double() * 0.7**0.5
        own = torch.randn(EPISODES, CLIPS, generator=source).double() * 0.3**0.5
        found = mean_interval((shared + own).reshape(-1, 1), names, draws=200, seed=time)
        assert found.low[0] is not None and found.high[0] is not None
        hits += found.low[0] <= 0 <= found.high[0]
    return hits / times


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    assert held(NAMES) > 0.9
    alone = [str(clip) for clip in range(EPISODES * CLIPS)]
    assert held(alone) < 0.75, "what comes of taking clips of one episode for independent ones"


def test_episodes_are_drawn_whole() -> None:
    for chosen in drawn_clips(["b", "a", "b", "c", "a", "b"], draws=20, seed=0):
        times = torch.bincount(chosen, minlength=6)
        assert times[0] == times[2] == times[5] and times[1] == times[4]
        assert times[0] + times[1] + times[3] == 3, "as many episodes as there are"


def test_one_episode_tells_no_spread_and_what_is_not_finite_has_no_bounds() -> None:
    values = torch.tensor([[1.0, torch.nan], [2.0, 3.0]]).double()
    assert mean_interval(values, ["a", "a"], draws=9, seed=0).low == (None, None)
    found = mean_interval(values, ["a", "b"], draws=9, seed=0)
    assert found.high[0] is not None and found.high[1] is None and found.episodes == 2
