"""Every picture looked at once: is it whole, what is its content's name, and what do its pixels measure?"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from wm_lightning.data.formats.picture_files import from_bytes
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.from_images.filters import Filters, Measures
from wm_lightning.data.from_images.pictures import Picture
from wm_lightning.data.from_images.verdicts import Verdicts
from wm_lightning.rewards.reward import Failed

UNREADABLE, DAMAGED, COPY, NEAR_COPY = "cannot be read", "damaged", "copy", "near copy"


@dataclass(frozen=True)
class Seen:
    """A picture that can be decoded. `key` names its content, by which later stages know it wherever it is moved."""

    picture: Picture
    key: str
    measures: Measures


@dataclass(frozen=True)
class Sifted:
    """The pictures that are left, and what each of the others was removed by."""

    kept: list[Seen]
    removed: dict[str, str]


def look_at_all(
    pictures: Sequence[Picture], verdicts: Verdicts, filters: Filters, workers: int, batch: int,
    report: Callable[[int], None],
) -> None:  # fmt: skip
    """Looks at what was not looked at yet, or has another size or time since, on `workers` threads."""

    def look(picture: Picture) -> tuple[str, Any]:
        return picture.name, looked(picture, filters)

    left = [picture for picture in pictures if not _known(picture, verdicts)]
    report(len(pictures) - len(left))
    with ThreadPoolExecutor(workers) as pool:
        # In batches: what waits in a pool is waited for, even by whoever interrupts.
        for start in range(0, len(left), batch):
            for name, verdict in pool.map(look, left[start : start + batch]):
                verdicts.add(name, verdict)
                report(1)


def looked(picture: Picture, filters: Filters) -> dict[str, Any] | Failed:
    """Size and time of the file with its key and measures, or with what is wrong; a failure where it cannot be read."""
    try:
        stat, data = picture.path.stat(), picture.path.read_bytes()
    except OSError:
        return Failed(UNREADABLE)
    own = {"size": stat.st_size, "time": stat.st_mtime_ns}
    try:
        return own | {"key": key_of(data), "measures": asdict(filters.measure(from_bytes(picture.path, data)))}
    except BadFile as error:
        return own | {"damage": error.reason}


def key_of(data: bytes) -> str:
    """The name of a file's content."""
    return hashlib.sha256(data).hexdigest()[:16]


def sift(pictures: Sequence[Picture], verdicts: Verdicts, filters: Filters) -> Sifted:
    """Files that cannot be used, copies, and pictures that do not pass the filters are removed, in this order."""
    seen: list[Seen] = []
    removed: dict[str, str] = {}
    keys: set[str] = set()
    for picture in pictures:
        found = verdicts.answers.get(picture.name) if _known(picture, verdicts) else None
        if found is None or "damage" in found:
            removed[picture.name] = UNREADABLE if found is None else DAMAGED
            continue
        one = Seen(picture, found["key"], Measures(**found["measures"]))
        fault = COPY if one.key in keys else filters.fault(one.measures)
        keys.add(one.key)
        if fault is None:
            seen.append(one)
        else:
            removed[picture.name] = fault
    # Only now: a picture that was removed has no copies.
    near = filters.copies([one.measures for one in seen])
    removed |= {seen[place].picture.name: NEAR_COPY for place in sorted(near)}
    return Sifted([one for place, one in enumerate(seen) if place not in near], removed)


def _known(picture: Picture, verdicts: Verdicts) -> bool:
    found = verdicts.answers.get(picture.name)
    try:
        stat = picture.path.stat()
    except OSError:
        return False
    return found is not None and (found["size"], found["time"]) == (stat.st_size, stat.st_mtime_ns)
