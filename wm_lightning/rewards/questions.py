"""What a judge is asked about every video of a batch."""

from collections.abc import Iterator
from dataclasses import dataclass

from wm_lightning.clip import Pixels, Texts
from wm_lightning.rewards.frames import Shown, shown
from wm_lightning.rewards.prompt import Prompt, load_prompt


@dataclass(frozen=True)
class Question:
    """Pictures in order of time, and what is asked about them."""

    pictures: Shown
    text: str


class Asking:
    """One yes or no criterion, asked of `frames` evenly spread frames whose short side is at most `short_side` pixels.

    Raises ValueError where the prompt is not answered by yes or no, or too little would be seen.
    """

    def __init__(self, *, criterion: str, version: str, frames: int, short_side: int) -> None:
        self.prompt: Prompt = load_prompt(criterion, version)
        if not self.prompt.yes_or_no:
            raise ValueError(f"{self.prompt.name} is not answered by yes or no, so it is no criterion of a reward")
        if frames < 2 or short_side < 1:
            raise ValueError(f"{frames=} of 2 or more (the first and the last), {short_side=} of 1 or more")
        self.frames, self.short_side = frames, short_side

    def questions(self, videos: Pixels, texts: Texts) -> Iterator[Question]:
        """One question a video. Raises ValueError where texts and videos differ in number."""
        for video, instruction, solution in zip(videos, texts.instruction, texts.solution, strict=True):
            pictures = shown(video, self.frames, self.short_side)
            yield Question(pictures, self.prompt.question(instruction, solution))
