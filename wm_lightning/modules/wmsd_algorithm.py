"""Which of WMSD's algorithms an iteration runs: whose rollouts, who learns from rewards, and what the anchor weighs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wm_lightning.objectives.self_distillation import CostWeighting

Turn = Literal["executor", "demonstrator", "both"]


@dataclass(frozen=True)
class Algorithm:
    """What is learned from, of all that WMSD can: its variants differ in nothing else.

    `states`: whose rollouts are learned from, or "films": those of the data, noised. `rl`: do rewards move the one who
    made them? `judged`: are judges among them? `distill`: the weight of the distillation reward among the rewards.
    `distill_reward`: is it that of a whole rollout, or is every step credited with the steps behind it alone? `anchor`:
    that of the regression on the demonstrator's velocities, or the films'. `anchor_states`: is it at the states of the
    rollouts, where rewards ask the demonstrator too, or at their finished videos noised anew? `demonstrator`: which
    network is told the solution: the base as it was, the executor's moving average, the executor itself, or a copy of
    the base that rewards move. `turns`: how many iterations in a row the latter learns, and then the executor; null
    where both learn in each. `hold`: what the distance of that copy's velocities from the base's weighs. `critic`: how
    many updates an iteration a critic makes on the executor's videos, whom and the demonstrator the executor then
    follows by distribution matching; 0: there is none. Raises ValueError for a combination that learns nothing or
    cannot be.
    """

    states: Literal["executor", "demonstrator", "films"]
    rl: bool
    judged: bool
    distill: float
    anchor: float
    weighting: CostWeighting
    demonstrator: Literal["frozen", "ema", "shared", "rewarded"] = "frozen"
    turns: Sequence[int] | None = None
    distill_reward: Literal["trajectory", "per_step"] = "trajectory"
    critic: int = 0
    hold: float = 0.0
    anchor_states: Literal["rollout", "renoised"] = "rollout"

    def __post_init__(self) -> None:
        if not self.rl and self.anchor <= 0 and not self.critic:
            raise ValueError(f"{self.rl=} and {self.anchor=}: nothing would be learned; set one of them")
        self._check_variant()
        if self.rl and not self.judged and self.distill <= 0:
            raise ValueError("algorithm.rl=true without judges needs algorithm.distill above 0")
        if self.rl and self.states == "demonstrator" and self.demonstrator != "rewarded":
            raise ValueError(
                "rewards move the one whose rollouts they judge; algorithm.states=demonstrator needs rl=false or "
                "demonstrator=rewarded"
            )
        if self.demonstrator == "rewarded" and not (self.rl and self.judged and self.anchor > 0):
            raise ValueError("algorithm.demonstrator=rewarded needs rl=true, judged=true and anchor above 0")
        if self.hold < 0 or (self.hold and self.demonstrator != "rewarded"):
            raise ValueError(
                f"algorithm.hold={self.hold} with demonstrator={self.demonstrator}: 0 or more, and of a demonstrator "
                f"that rewards move, which it holds to the base; set algorithm.hold=0"
            )
        alternates = self.demonstrator == "rewarded" and self.states == "executor"
        if alternates != (self.turns is not None):
            raise ValueError(
                f"algorithm.turns={self.turns}: a demonstrator that rewards move while the executor's own rollouts "
                f"are learned from takes turns with it, such as [5, 5]; nobody else does"
            )
        if self.turns is not None and (len(self.turns) != 2 or min(self.turns) < 1):
            raise ValueError(f"algorithm.turns={self.turns} must be two numbers of iterations, each 1 or more")

    def _check_variant(self) -> None:
        """What films, steps and a critic cannot be joined with."""
        if self.states == "films" and (self.rl or self.demonstrator != "frozen"):
            raise ValueError(
                f"algorithm.states=films with {self.rl=} and demonstrator={self.demonstrator}: rewards move who made "
                f"what they judge, and films have no demonstrator; set rl=false and demonstrator=frozen"
            )
        if self.distill_reward == "per_step" and not (self.rl and self.distill > 0):
            raise ValueError(
                f"algorithm.distill_reward=per_step with {self.rl=} and {self.distill=}: there is no distillation "
                f"reward to give step by step; set rl=true and distill above 0, or distill_reward=trajectory"
            )
        if self.anchor_states == "renoised" and not (self.anchor > 0 and self.states == "executor"):
            raise ValueError(
                f"algorithm.anchor_states=renoised with {self.anchor=} and {self.states=}: the executor's own videos "
                f"are noised anew for the anchor; set anchor above 0 and states=executor, or anchor_states=rollout"
            )
        if self.critic < 0 or (
            self.critic and (self.rl, self.states, self.demonstrator) != (False, "executor", "frozen")
        ):
            raise ValueError(
                f"algorithm.critic={self.critic} with {self.rl=}, {self.states=} and {self.demonstrator=}: a critic's "
                f"updates are 0 or more, and it is of an executor without rewards and of its frozen demonstrator; set "
                f"algorithm.critic=0, or rl=false, states=executor and demonstrator=frozen"
            )

    def turn(self, iteration: int) -> Turn:
        """Who learns in this iteration."""
        if self.demonstrator != "rewarded":
            return "executor"
        if self.turns is None:
            return "both"
        first, second = self.turns
        return "demonstrator" if iteration % (first + second) < first else "executor"

    @property
    def moves_demonstrator(self) -> bool:
        """Do rewards move the demonstrator?"""
        return self.demonstrator == "rewarded"

    def made_by(self, turn: Turn) -> Literal["executor", "demonstrator"]:
        """Whose rollouts an iteration learns from, where it is not films."""
        return "demonstrator" if turn == "demonstrator" or self.states == "demonstrator" else "executor"

    @property
    def taught(self) -> bool:
        """Is the demonstrator asked at the states of the rollouts?"""
        return (self.anchor > 0 and self.anchor_states == "rollout") or (self.rl and self.distill > 0)

    @property
    def of_films(self) -> bool:
        """Are films of the data learned from?"""
        return self.states == "films"
