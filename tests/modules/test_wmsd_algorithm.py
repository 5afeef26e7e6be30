"""Which algorithms there are: what cannot be joined is refused, and turns are taken."""

from typing import Any

import pytest

from tests.modules.making_wmsd import algorithm


def test_turns_are_taken() -> None:
    turns = [algorithm(demonstrator="rewarded", turns=(2, 3)).turn(iteration) for iteration in range(7)]
    assert [turn[0] for turn in turns] == ["d", "d", "e", "e", "e", "d", "d"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rl": False, "anchor": 0.0}, "nothing would be learned"),
        ({"states": "demonstrator"}, "needs rl=false"),
        ({"judged": False, "distill": 0.0}, "distill above 0"),
        ({"demonstrator": "rewarded", "rl": False}, "needs rl=true"),
        ({"demonstrator": "rewarded"}, r"takes turns with it, such as \[5, 5\]"),
        ({"turns": (5, 5)}, "nobody else does"),
        ({"hold": 0.1}, "a demonstrator that rewards move, which it holds to the base"),
        ({"distill_reward": "per_step", "distill": 0.0}, "no distillation reward to give step by step"),
        ({"distill_reward": "per_step", "rl": False}, "no distillation reward to give step by step"),
    ],
)
def test_algorithms_that_learn_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        algorithm(**changes)


@pytest.mark.parametrize("changes", [{"anchor": 0.0}, {"states": "demonstrator", "rl": False}], ids=str)
def test_what_is_noised_anew_are_the_executors_own_videos(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="set anchor above 0 and states=executor, or anchor_states=rollout"):
        algorithm(anchor_states="renoised", **changes)
