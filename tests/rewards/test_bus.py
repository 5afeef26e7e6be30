"""Several rewards at once: the same as one after the other, whatever comes first and whatever fails."""

import logging
import threading
from collections.abc import Callable, Mapping

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from tests.judge_server import Running
from tests.rewards.making import TEXTS, Brightness, films, judged_by, row
from wm_lightning.clip import Pixels, Texts
from wm_lightning.config_check import locate, targets
from wm_lightning.rewards.bus import RewardBus, TooManyFailures, Weighted
from wm_lightning.rewards.reward import Reward, Verdict
from wm_lightning.worlds.grid_reward import GridReward

VIDEOS = films()
BATCHES = [slice(0, 5), slice(5, 6), slice(6, 12)]


def bus(rewards: Mapping[str, Reward], max_invalid: float = 0.2) -> RewardBus:
    return RewardBus(
        rewards={name: Weighted(reward, 0.5 + place) for place, (name, reward) in enumerate(rewards.items())},
        max_invalid=max_invalid,
    )


class Waiting:
    """A reward that says nothing until it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        self.let.wait()
        return Brightness()(videos, texts)


class Broken:
    """A reward with a fault in its code."""

    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        raise ZeroDivisionError("a fault in the code")


class Short:
    """A reward that forgets a video."""

    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        return Verdict.of([1.0] * (len(videos) - 1))


def test_submitted_and_collected_is_the_same_as_judged_at_once(server: Running) -> None:
    rewards: dict[str, Reward] = {
        "task": judged_by(server, "task"), "consistency": judged_by(server, "consistency"), "bright": Brightness(),
        "program": GridReward(criterion="agent", row=row),
    }  # fmt: skip
    direct = {name: [reward(VIDEOS[part], TEXTS[part]) for part in BATCHES] for name, reward in rewards.items()}
    server.behaviour.latency = lambda number: 0.01 * (number % 3)
    both = bus(rewards)
    scores = both.collect([both.submit(VIDEOS[part], TEXTS[part]) for part in BATCHES])
    both.close()
    assert scores.names == tuple(rewards) and scores.weights.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert scores.valid.all() and not any(scores.failures.values())
    for name, verdicts in direct.items():
        assert torch.equal(scores.of(name), torch.cat([verdict.value for verdict in verdicts]))


def test_a_config_builds_a_bus(server: Running) -> None:
    home = "wm_lightning.rewards"
    server_config = f"""
      _target_: {home}.endpoint.Endpoint
      url: {server.url}
      model: grid-program
      key_variable: null
      encoding: png
      concurrency: 8
      timeout: 60.0
      retries: 3
      backoff: 1.0
      extra: {{chat_template_kwargs: {{enable_thinking: false}}}}
    """
    text = f"""
    _target_: {home}.bus.RewardBus
    max_invalid: 0.2
    rewards:
      task:
        _target_: {home}.bus.Weighted
        weight: 0.5
        reward:
          _target_: {home}.vlm.EndpointReward
          asking: {{_target_: {home}.questions.Asking, criterion: task, version: v1, frames: 16, short_side: 448}}
          cache: null
    """
    config = OmegaConf.create(text)
    config.rewards.task.reward.endpoint = OmegaConf.create(server_config)
    for target in targets(OmegaConf.to_container(config)):
        locate(target.name)
    built: RewardBus = instantiate(config, _convert_="all")
    scores = built(VIDEOS[:3], TEXTS[:3])
    assert torch.equal(scores.of("task"), judged_by(server, "task")(VIDEOS[:3], TEXTS[:3]).value)


def test_neither_the_order_of_rewards_nor_that_of_videos_matters(server: Running) -> None:
    names = ("task", "agent", "consistency")
    turned = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    one = bus({name: judged_by(server, name) for name in names})(VIDEOS[:12], TEXTS[:12])
    server.behaviour.latency = lambda number: 0.03 * (number % 4)
    other = bus({name: judged_by(server, name) for name in reversed(names)})(VIDEOS[turned], TEXTS[turned])
    for name in names:
        assert torch.equal(one.of(name)[turned], other.of(name))


def test_work_goes_on_while_judges_judge() -> None:
    waiting = Waiting()
    both = bus({"slow": waiting, "fast": Brightness()})
    videos = VIDEOS[:5].clone()
    pending = both.submit(videos, TEXTS[:5])
    videos.zero_()
    assert pending.judged["fast"].result().valid.all(), "the fast one waits for the slow one"
    assert not pending.judged["slow"].done()
    waiting.let.set()
    scores = both.collect([pending])
    assert torch.equal(scores.of("slow"), Brightness()(VIDEOS[:5], TEXTS[:5]).value)


def test_failures_stay_what_they_are_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    rewards = {
        "a": Brightness(["task1"], "timeout"),
        "b": Brightness(["task1", "task3"], "http 429"),
        "c": Brightness(),
    }
    with caplog.at_level(logging.WARNING):
        scores = bus(rewards)(VIDEOS[:10], TEXTS[:10])
    assert scores.failures == {"a": {"timeout": 1}, "b": {"http 429": 2}, "c": {}}
    assert scores.value.isnan().equal(~scores.valid)
    assert (~scores.valid).nonzero().tolist() == [[1, 0], [1, 1], [3, 1]]
    assert "reward b: 2 of 10 judgements failed (http 429: 2)" in caplog.text and "reward c" not in caplog.text


def test_too_many_failures_of_an_iteration_end_it() -> None:
    # One reward's, though all together they are few, and over all its batches.
    rewards = {
        "fails": Brightness(["task0", "task1", "task2"]),
        **{f"sound{place}": Brightness() for place in range(5)},
    }
    strict = bus(rewards)
    wanted = r"reward fails: 3 of 12 judgements failed \(timeout: 3\), more than max_invalid=0.2"
    with pytest.raises(TooManyFailures, match=wanted):
        strict.collect([strict.submit(VIDEOS[part], TEXTS[part]) for part in BATCHES])
    assert bus(rewards, max_invalid=0.25)(VIDEOS[:12], TEXTS[:12]).failures["fails"] == {"timeout": 3}


def test_processes_that_judge_together_go_on_or_end_as_one() -> None:
    """Two of six fail here, none of six there: too many alone, few enough together; and the other way round."""

    def there(failed: int) -> Callable[[Tensor], Tensor]:
        return lambda here: here + torch.tensor([[failed], [6]])

    mixed = bus({"a": Brightness(["task1", "task3"], "timeout")})
    pending = [mixed.submit(VIDEOS[:6], TEXTS[:6])]
    assert int(mixed.collect(pending, there(0)).valid.sum()) == 4
    with pytest.raises(TooManyFailures, match=r"reward a: 6 of 12 judgements failed"):
        mixed.collect(pending, there(4))
    sound = bus({"a": Brightness()})
    with pytest.raises(TooManyFailures, match=r"3 of 12 judgements failed \(none here\)"):
        sound.collect([sound.submit(VIDEOS[:6], TEXTS[:6])], there(3))


def test_a_server_that_is_not_there_is_to_be_started_or_named() -> None:
    absent = bus({"task": Brightness(["task0"], "no connection")}, max_invalid=0.0)
    with pytest.raises(ValueError, match=r"no server answers: start one, or name it by endpoint.url"):
        absent(VIDEOS[:4], TEXTS[:4])


def test_a_dead_server_ends_the_iteration(server: Running) -> None:
    server.behaviour.always = "http 500"
    with pytest.raises(TooManyFailures, match=r"reward task: 4 of 4 judgements failed \(http 500: 4\)"):
        bus({"task": judged_by(server, "task", retries=1), "bright": Brightness()})(VIDEOS[:4], TEXTS[:4])


@pytest.mark.parametrize(
    ("reward", "error"), [(Broken(), "a fault in the code"), (Short(), "Short gave 3 judgements of 4 videos")]
)
def test_a_fault_of_the_code_is_no_failed_judgement(reward: Reward, error: str) -> None:
    with pytest.raises((ZeroDivisionError, ValueError), match=error):
        bus({"faulty": reward, "bright": Brightness()})(VIDEOS[:4], TEXTS[:4])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="4 videos come with 3 texts"):
        bus({"bright": Brightness()})(VIDEOS[:4], TEXTS[:3])
    with pytest.raises(ValueError, match="no batches to collect"):
        bus({"bright": Brightness()}).collect([])
    with pytest.raises(ValueError, match="at least one is needed"):
        RewardBus(rewards={}, max_invalid=0.2)
    with pytest.raises(ValueError, match="none below 0"):
        RewardBus(rewards={"bright": Weighted(Brightness(), -1.0)}, max_invalid=0.2)
    with pytest.raises(ValueError, match=r"max_invalid=20"):
        bus({"bright": Brightness()}, max_invalid=20.0)
