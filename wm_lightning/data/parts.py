"""The parts of a set that stores training episodes alone, drawn by name."""

import hashlib
from collections.abc import Collection, Mapping


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
