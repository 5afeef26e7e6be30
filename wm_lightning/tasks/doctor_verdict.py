"""When `task=doctor` refuses recordings: what a training refuses, and what makes one worthless."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wm_lightning.data.alignment import Alignment, Verdict
from wm_lightning.data.checks import too_many
from wm_lightning.data.datamodule import SPLITS
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.tasks.doctor_look import Findings, Place


@dataclass(frozen=True)
class Shared:
    """Two episodes that have the same in common, as they are called, and the splits that they serve."""

    one: str
    other: str
    across: bool


def parts(data: SourceDataModule, findings: Findings) -> dict[Place, str]:
    """The split that every episode serves. Raises ValueError where there are too few to give each split one."""
    found: dict[Place, str] = {}
    for stored, finding in findings.items():
        names = finding.source.names
        for split in SPLITS if stored == "train" else (stored,):
            if stored == "train" and split != "train" and split in findings:
                continue
            own = set(data.share(finding.source, split)) if stored == "train" else set(names)
            found |= {(stored, episode): split for episode, name in enumerate(names) if name in own}
    return found


def equal(findings: Findings, serves: dict[Place, str]) -> list[Shared]:
    """Decoded episodes that training holds for equal, by pictures and actions; one pair of each."""
    groups: dict[str, list[Place]] = {}
    for split, finding in findings.items():
        for episode, seen in finding.seen.items():
            groups.setdefault(seen.digest, []).append((split, episode))
    found = []
    for first, *others in groups.values():
        # A pair across splits says enough of a group; else one within.
        other = next((place for place in others if serves[place] != serves[first]), others[0] if others else None)
        if other is not None:
            found.append(_shared(findings, serves, other, first))
    return found


def same_actions(findings: Findings, serves: dict[Place, str], groups: Sequence[Sequence[Place]]) -> list[Shared]:
    """Episodes of two splits with equal actions and other pictures: one recording may be stored twice."""
    found = []
    for group in groups:
        digests = {
            place: findings[place[0]].seen[place[1]].digest for place in group if place[1] in findings[place[0]].seen
        }
        for other in list(digests)[1:]:
            first = next(iter(digests))
            if digests[other] != digests[first] and serves[other] != serves[first]:
                found.append(_shared(findings, serves, other, first))
    return found


def faults(data: SourceDataModule, findings: Findings, alignment: Alignment) -> list[str]:
    """Why the files and their actions cannot be trained on as they are; nothing where they can."""
    found = [*_damage(data, findings)]
    if alignment.verdict is Verdict.LAGGED:
        found.append(
            f"actions explain the motion best at a lag of {alignment.peak} frames; stored at the observation they "
            f"should come 0 to 2 frames before it: check data.action_shift and how they were recorded"
        )
    # A choice may move the picture as far as any other: then the sizes of actions say nothing of motion.
    if alignment.verdict is Verdict.UNRELATED and data.spec.kind != "discrete":
        found.append(
            f"actions go with the motion of other episodes as well as with that of their own ({alignment.used} "
            f"episodes): check that every table of actions stands beside its own video"
        )
    return found


def _damage(data: SourceDataModule, findings: Findings) -> Iterator[str]:
    """More unusable files than the set may have, or than a set within that bound would show in a sample."""
    tolerance = data.frame_cache.tolerance
    for split, found in findings.items():
        try:
            tolerance.check(split, found.bad, len(found.source.names) + len(found.source.bad))
        except ValueError as error:
            yield str(error)
            continue
        if found.decoded and found.broken == found.decoded:
            yield f"{split}: none of {found.decoded} episodes could be decoded, e.g. {found.bad[-1]}"
        elif found.decoded < len(found.actions) and too_many(found.broken, found.decoded, tolerance.max_bad_share):
            yield (
                f"{split}: {found.broken} of {found.decoded} episodes drawn could not be decoded, more than a set "
                f"within data.max_bad_share={tolerance.max_bad_share} shows, e.g. {found.bad[-1]}; task.decoded=null "
                f"finds all of them: repair or remove them, or raise the share"
            )


def _shared(findings: Findings, serves: dict[Place, str], one: Place, other: Place) -> Shared:
    names = [f"{findings[split].source.names[episode]} ({serves[split, episode]})" for split, episode in (one, other)]
    return Shared(*names, across=serves[one] != serves[other])
