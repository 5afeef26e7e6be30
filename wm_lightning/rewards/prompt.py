"""What judges and writers are asked: one text file a criterion and version, in `prompts/`.

A changed question is another judge, so a file that results were made with is never edited: it gets a next version.
"""

from dataclasses import dataclass
from pathlib import Path
from string import Template

FOLDER = Path(__file__).parent / "prompts"
# What a judge is asked ends in this, so that its first token is the answer.
FORCED = "Answer with one word only: yes or no."


@dataclass(frozen=True)
class Prompt:
    """A question with places for `$instruction` and `$solution`."""

    criterion: str
    version: str
    text: str

    @property
    def name(self) -> str:
        """Criterion and version, for logs and results."""
        return f"{self.criterion}.{self.version}"

    @property
    def yes_or_no(self) -> bool:
        """Whether the answer is one of the two words."""
        return self.text.endswith(FORCED)

    def question(self, instruction: str = "", solution: str = "") -> str:
        """The text for one video or picture."""
        return Template(self.text).substitute(instruction=instruction, solution=solution)


def load_prompt(criterion: str, version: str) -> Prompt:
    """The prompt of a criterion. Raises ValueError, naming those there are, where there is none."""
    path = FOLDER / f"{criterion}.{version}.txt"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in FOLDER.glob("*.txt")))
        raise ValueError(f"{criterion=} of {version=} has no prompt; there are {there}")
    return Prompt(criterion, version, path.read_text(encoding="utf-8").strip())
