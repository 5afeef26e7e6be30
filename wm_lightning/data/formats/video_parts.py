"""Some frames of an mp4 file, by number: decoded from the key frame before them, the same bits as of the whole file."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from wm_lightning.data.formats.video_files import (
    DAMAGED,
    BadFile,
    Decoder,
    by_decoder,
    decord_reader,
    opened,
    picture_of,
    strict_stream,
)


@dataclass(frozen=True)
class First:
    """The first picture of a file, how many there are, and who decoded it."""

    picture: UInt8[np.ndarray, "h w 3"]
    frames: int
    decoder: Decoder


def first_picture(path: Path, decoder: Decoder, expected: int) -> First:
    """The first picture and the number of them. Raises BadFile where there is none.

    The number is the container's where that is what is expected; else all are decoded and counted.
    """
    (picture, frames), who = by_decoder(path, decoder, lambda p: _first_pyav(p, expected), _first_decord)
    return First(picture, frames, who)


def decode_part(
    path: Path, decoder: Decoder, start: int, stop: int, step: int = 1
) -> UInt8[np.ndarray, "f h w 3"]:  # fmt: skip
    """Every `step`-th of frames start..stop-1 as `decoded` has them; no other is kept.

    Raises BadFile where one is damaged or not there.
    """
    wanted = range(start, stop, step)
    return by_decoder(path, decoder, lambda p: _part_pyav(p, wanted), lambda p: _part_decord(p, wanted))[0]


def _first_pyav(path: Path, expected: int) -> tuple[np.ndarray, int]:
    with opened(path) as container:
        stream = strict_stream(path, container)
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None:
            raise BadFile(path, "holds no video frame")
        picture = picture_of(path, first, VideoReformatter())
        return picture, expected if stream.frames == expected else 1 + sum(1 for _ in frames)


def _part_pyav(path: Path, wanted: range, *, seek: bool = True) -> np.ndarray:
    with opened(path) as container:
        stream = strict_stream(path, container)
        key = _key_before(stream, wanted.start) if seek else 0
        if not key:
            return _required(path, _pictures(path, container.decode(stream), wanted), wanted)
        found = _sought(path, container, stream, key, wanted)
    return _part_pyav(path, wanted, seek=False) if found is None else found


def _sought(path: Path, container: InputContainer, stream: VideoStream, key: int, wanted: range) -> np.ndarray | None:
    """The frames by way of a key frame; None where decoding from it fails."""
    try:
        behind = range(wanted.start - key, wanted.stop - key, wanted.step)
        return _pictures(path, _from_key(container, stream, key), behind)
    except DAMAGED:
        return None  # what is damaged shows again, by its own name, when all is decoded up to there


def _key_before(stream: VideoStream, start: int) -> int:
    """The number of the last key frame up to `start`, 0 where the container does not list all frames."""
    entries = stream.index_entries
    if len(entries) != stream.frames or start >= len(entries) or entries[0].is_discard:
        return 0
    return next((number for number in range(start, 0, -1) if entries[number].is_keyframe), 0)


def _from_key(container: InputContainer, stream: VideoStream, key: int) -> Iterator[av.VideoFrame]:
    """The frames from a key frame on; none where that cannot be told from its packets, for then numbers would be wrong.

    In a closed group of pictures, as encoders make them, no later packet is shown before the key frame's.
    """
    entries = stream.index_entries
    # Entries have times of decoding; those of showing, by which is sought, are as much later as the first one's is.
    container.seek(entries[key].timestamp - entries[0].timestamp + (stream.start_time or 0), stream=stream)
    shown: int | None = None
    for packet in container.demux(stream):
        if shown is None:
            shown = packet.pts
            if packet.dts != entries[key].timestamp or shown is None or not packet.is_keyframe:
                return
        if packet.pts is not None and packet.pts < shown:
            return
        yield from packet.decode()


def _pictures(path: Path, frames: Iterator[av.VideoFrame], wanted: range) -> np.ndarray | None:
    """The wanted frames of those given; None where there are fewer."""
    reformatter = VideoReformatter()  # one a file: a new one a frame takes four fifths of the time
    chosen = islice(frames, wanted.start, wanted.stop, wanted.step)
    found = [picture_of(path, frame, reformatter) for frame in chosen]
    if len({picture.shape for picture in found}) > 1:
        raise BadFile(path, "changes its picture size on the way")
    return np.stack(found) if len(found) == len(wanted) else None


def _required(path: Path, found: np.ndarray | None, wanted: range) -> np.ndarray:
    if found is None:
        raise BadFile(path, f"ends within frames {wanted.start}..{wanted.stop - 1}, it may be truncated or damaged")
    return found


def _first_decord(path: Path) -> tuple[np.ndarray, int]:
    with decord_reader(path) as reader:
        return reader.get_batch([0]).asnumpy()[0], len(reader)


def _part_decord(path: Path, wanted: range) -> np.ndarray:
    with decord_reader(path) as reader:
        whole = wanted[-1] < len(reader)
        return _required(path, reader.get_batch(wanted).asnumpy() if whole else None, wanted)
