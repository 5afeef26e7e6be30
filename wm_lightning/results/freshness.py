"""Whether saved numbers are those of the code as it stands, asked of git."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wm_lightning.environment import NO_NUMBERS, git

STALE = "*(stale)*"  # beside the name of such numbers in tables
PROJECT = Path(__file__).resolve().parents[2]
# What is measured, unless a result names the files that made it.
ALL = ("wm_lightning", "conf")
# Tables, pictures, what is only looked at while training, and this very module change no number, so they age none.
_HARMLESS = (
    *(f":(exclude)wm_lightning/callbacks/{name}.py" for name in ("action_fidelity", "progress", "rollout_video")),
    ":(exclude)wm_lightning/modules/fidelity.py", ":(exclude)wm_lightning/metrics/action_fidelity.py",
    ":(exclude)wm_lightning/environment.py", ":(exclude)wm_lightning/launchers",
    ":(exclude)conf/data/callbacks", ":(exclude)wm_lightning/results", ":(exclude)wm_lightning/tasks/report.py",
    *(f":(exclude)conf/{group}" for group in NO_NUMBERS),
)  # fmt: skip
# A file that was not there when something was measured cannot have made it.
CHANGES = "--diff-filter=MDRT"


@dataclass(frozen=True)
class Freshness:
    """`stale` where the code is newer than the numbers; `reason` says why, or why it cannot be told ("": fresh)."""

    stale: bool
    reason: str


def freshness(revision: str, code: Sequence[str] | None = None, *, folder: Path = PROJECT) -> Freshness:
    """Compares the revision that results name with the files in `folder` that made them, committed or not.

    `code` names those files and folders; None takes all of the package and the config.
    """
    paths = (*(code or ALL), *_HARMLESS)
    commit = revision.removesuffix("-modified")
    if commit == "unknown":
        return Freshness(False, "measured outside git, so its age cannot be told")
    if git(folder, "rev-parse", "HEAD") is None:
        return Freshness(False, "there is no git here, so its age cannot be told")
    if git(folder, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return Freshness(False, f"revision {commit[:9]} is not in this repository, so its age cannot be told")
    if revision != commit:
        return Freshness(True, f"measured with uncommitted changes to {commit[:9]}")
    newer = (git(folder, "log", "--format=%h", CHANGES, f"{commit}..HEAD", "--", *paths) or "").split()
    if newer:
        commits = "commit has" if len(newer) == 1 else "commits have"
        return Freshness(True, f"{len(newer)} {commits} changed the code since {commit[:9]}")
    if git(folder, "status", "--porcelain", "--untracked-files=no", "--", *paths):
        return Freshness(True, f"the code has uncommitted changes since {commit[:9]}")
    return Freshness(False, "")
