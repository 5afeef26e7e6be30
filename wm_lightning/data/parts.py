"""The parts of a set that stores training episodes alone, drawn by name."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from wm_lightning.data.formats.source import EpisodeSource


def parts_of(names: Collection[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """The names of every part of `shares` (at least one each), and of train, which has the rest (at least one).

    They are ranked by their hash, so that a part hangs on no order in which they are given.
    """
    ranks = sorted(sorted(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    parts, start = {}, 0
    for number, (part, share) in enumerate(shares.items(), start=1):
        # Every part after this one keeps an episode at least.
        count = min(max(1, round(share * len(names))), len(names) - start - (len(shares) - number) - 1)
        parts[part] = ranks[start : start + count]
        start += count
    return parts | {"train": ranks[start:]}


def names_to_part(source: EpisodeSource, wanted: Collection[str], home: Path) -> set[str]:
    """The names of all episodes that belong to a set, usable or not, from which the parts `wanted` are drawn.

    Raises ValueError where names are lost that nothing tells, for then parts would shift, or where there are too few.
    """
    unknown = next((error for error in source.bad if error.episode is None), None)
    if wanted and unknown is not None:
        raise ValueError(
            f"{unknown}; which episodes are lost with it cannot be told, and {' and '.join(wanted)} are drawn from "
            f"the names of all training episodes, so others would change their part: repair this file, or store "
            f"{' and '.join(wanted)} as splits of their own"
        )
    names = {*source.names, *(error.episode for error in source.bad if error.episode is not None)}
    if len(names) < len(wanted) + 1:
        raise ValueError(
            f"{home} has {len(names)} training episodes, one each is needed for train and "
            f"{' and '.join(wanted)}, which are not stored; add episodes, or these splits"
        )
    return names
