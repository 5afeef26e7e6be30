"""A student that learns on video it rolled out itself (self-forcing, 2506.08009), whatever it is matched by."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wm_lightning.checkpoints import NetworkFile, load_into
from wm_lightning.clip import Clip, Condition, Levels
from wm_lightning.modules.average import Average
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.frozen import Frozen
from wm_lightning.modules.initialisation import Initialisation, Lesson, Players, draw_places
from wm_lightning.modules.replay import Window
from wm_lightning.modules.self_forcing import Score, SelfRollout
from wm_lightning.modules.teacher import ActionDropout
from wm_lightning.objectives.denoising import Scalar
from wm_lightning.randomness import generator
from wm_lightning.sampling.guidance import Guidance, guided_by
from wm_lightning.sampling.rollout import rollout
from wm_lightning.sampling.samplers import described


class SelfForcedModule(WorldModelModule):
    """Student, running average and frozen teacher: rollouts, how a score sees them, lessons on real clips.

    With `action_dropout` some clips lose actions, for student, teacher and critic alike: so the student learns what the
    teacher does without them.
    """

    def __init__(
        self,
        *,
        network: Callable[[], nn.Module],
        teacher: NetworkFile,
        score: Score,
        rollout: SelfRollout,
        init: Initialisation,
        regression: Initialisation | None,
        ema_decay: float,
        ema_start: int,
        frames: int,
        compile: bool,
        action_dropout: ActionDropout | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.action_dropout = action_dropout
        self.student, frozen = network(), network()
        for copy in (self.student, frozen):
            load_into(copy, teacher, "the teacher's checkpoint")
        self.teacher = Frozen(frozen)
        self.teacher_hash, self.teacher_card = teacher.sha256, teacher.card
        self.average = Average(self.student, decay=ema_decay, start=ema_start)
        if compile:
            self.student.compile()
        self.score, self.self_rollout, self.frames = score, rollout, frames
        self.init, self.regression = init, regression
        self._check()

    def _check(self) -> None:
        card, plan = self.teacher_card, self.plan
        self.self_rollout.check(self.context, self.score.context, plan.chunk, self.frames)
        card.require_mask(self.score.mask.chunk, "module.score.mask")
        card.require_one_level(self.score.mask.chunk, "module.score")
        # Every initialisation, that without iterations too, takes the teacher under the student's mask.
        card.require_mask(plan.mask.chunk, "rollout.mask")
        for use, frames in self.spans().items():
            card.require_frames(frames, use)
        card.require_context(self.score.context, "module.score.context")
        if self.score.guidance != 1:
            card.require_null("all", "guidance of the teacher's score")
        if (dropout := self.action_dropout) is not None and dropout.share > 0:
            for pattern in {"clip": ["all"], "frame": ["newest"], "both": ["all", "newest"]}[dropout.granularity]:
                card.require_null(pattern, f"module.action_dropout.granularity={dropout.granularity}")
        if self.lessons and not getattr(self.student, "teacher_forcing", True):
            raise ValueError(
                f"lessons on real clips force the teacher, which a {type(self.student).__name__} cannot be: its "
                f"convolutions along time would see frames ahead; set init=teacher and module.regression=null"
            )

    @property
    def lessons(self) -> bool:
        """Does the student learn from real clips too, teacher-forced, at first or all the time?"""
        return self.init.iterations > 0 or self.regression is not None

    def spans(self) -> dict[str, int]:
        """How many frames teacher and student see at once, by the key that says so."""
        return self.self_rollout.spans(self.score.context, self.plan.window, self.frames if self.lessons else 0)

    @property
    def deployed(self) -> nn.Module:
        return self.average.network

    def trained_for(self) -> dict[str, Any]:
        commit, dropout = self.plan.commit, self.action_dropout
        return {
            "chunks": [self.plan.mask.chunk], "frames": self.spans()["rollout.window"], "context": self.context,
            "clean_history": 1.0, "history_level": 0.0, "shared": 1.0,
            "steps": len(self.student_times()) - 1, "sampler": described(self.sampler),
            "commit": [{"mode": commit.mode, "t": commit.t}],
            "action_dropout": {"share": 0.0, "granularity": "frame"} if dropout is None else asdict(dropout),
            "teacher": self.teacher_hash,
        }  # fmt: skip

    def student_times(self) -> Float[Tensor, "k"]:
        """The student's step times, the last of them 0."""
        return self.sampler.levels(self.path, 1)[:, 0]

    def generate(self, clip: Clip, purpose: str, *, learn: bool) -> Window:
        """The student's own rollout from the clip's context, cut to the scored window and its clean context."""
        source = generator(self.seed, f"{purpose}/plan", self.iterations)
        lengths = self.self_rollout.lengths
        length = lengths[int(source.integers(len(lengths)))]
        chunks = (length - self.context) // self.plan.chunk
        exits = self.self_rollout.draw_exits(source, chunks, len(self.student_times()) - 1)
        grad_frames, condition = self.self_rollout.grad_frames, self.heard(clip).frames(0, length)
        with torch.set_grad_enabled(learn):
            x = rollout(
                self.denoiser(self.student), self.sampler, clip.frames(0, self.context).x0,
                condition, self.plan, self.rollout_noise(purpose, clip.index),
                exits=exits, grad_from=0 if grad_frames is None else length - grad_frames,
            )  # fmt: skip
        start = length - self.self_rollout.scored - self.score.context
        return Window(x[:, start:], condition.frames(start, length), clip.index)

    def heard(self, clip: Clip) -> Condition:
        """What is told of every clip in this iteration, without the actions that are dropped."""
        if self.action_dropout is None:
            return clip.condition
        draws = {"clip": 1, "frame": clip.condition.state.shape[1]}

        def uniform(name: str) -> Tensor:
            drawn = lambda source: torch.from_numpy(source.random(draws[name])).float()  # noqa: E731
            return self.per_sample(f"dropout/{name}", clip.index, drawn)

        return self.action_dropout.apply(clip.condition, uniform)

    def scored_levels(self, window: Window, purpose: str) -> Levels:
        """One level per sample on the scored frames, 0 on the clean context."""
        level = self.per_sample(purpose, window.index, lambda source: self.score.level(self.path, source))
        t = level.expand(window.x.shape[:2]).clone()
        t[:, : self.score.context] = 0.0
        return t

    def teacher_score(self) -> Any:
        """The teacher as a score. It sees a window at once, so that guidance drops the actions of all its frames."""
        guidance = Guidance(self.score.guidance, "all", rescale=0.0, scope="new")
        return guided_by(self.denoiser(self.teacher), guidance)

    def lesson_loss(self, init: Initialisation, clip: Clip) -> Scalar:
        """The loss of an initialisation (or regression) on real clips."""
        x0 = clip.x0
        chunk = self.plan.mask.chunk or x0.shape[1]
        place = self.per_sample("lesson place", clip.index, lambda source: draw_places(source, x0.shape[1], chunk))
        noise = self.noise_like(x0, "lesson noise", clip.index)
        lesson = Lesson(x0, self.heard(clip), noise, place, chunk, self.context)
        players = Players(*(self.denoiser(n) for n in (self.student, self.average.network, self.teacher)))
        return init.loss(players, lesson, self.student_times())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the card and the teacher's hash."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["teacher_hash"] = self.teacher_hash

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError where the run continues with another teacher."""
        if checkpoint["teacher_hash"] != self.teacher_hash:
            raise ValueError(
                f"the checkpoint was distilled from teacher {checkpoint['teacher_hash'][:12]}, this run has "
                f"{self.teacher_hash[:12]}; name the same file with module.teacher.ckpt_path"
            )
