"""Networks that are told of a video's first frame beside the frames themselves."""

from typing import Protocol, runtime_checkable

from wm_lightning.clip import Condition, Latents


@runtime_checkable
class Begins(Protocol):
    """A network that makes `Condition.start` of the first given frame, and keeps one that is there."""

    def begun(self, context: Latents, condition: Condition) -> Condition:
        """The condition with its start; `context` may have no frames."""
        ...
