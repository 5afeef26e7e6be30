"""mp4 files to frames and back, without trusting anything the container says about time or length."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from wm_lightning.data.formats.atomic import atomic_file

Decoder = Literal["auto", "pyav", "decord"]
Given = TypeVar("Given")
# What PyAV raises for damaged files: FFmpeg's errors, and its own where texts, times or sizes are out of range.
DAMAGED = (FFmpegError, ValueError, LookupError, ArithmeticError, MemoryError)
BEYOND_DECORD = ("av1",)  # codecs that its FFmpeg does not know
DRIFT = 0.25  # frames: an episode's pictures may be as much nearer together or farther apart than declared
FIRST_BOXES = ("ftyp", "styp", "moov", "mdat", "free", "skip", "wide")


class BadFile(ValueError):
    """A file that cannot be used: which one, and why; and the name of the episode that is lost, where that is known."""

    def __init__(self, path: Path, reason: str, episode: str | None = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason, self.episode = path, reason, episode


@dataclass(frozen=True)
class Decoded:
    """All RGB frames of a file, in order, and which decoder gave them."""

    video: UInt8[np.ndarray, "f h w 3"]
    decoder: Decoder


@dataclass(frozen=True)
class Encoding:
    """H.264 4:2:0 with one key frame; `fps` is what the container claims, `crf` the quality (lower is better)."""

    fps: int
    crf: int
    preset: str


def decoder_named(name: str) -> Decoder:
    """The decoder of that name; `auto` is PyAV where decord is not installed.

    Raises ValueError where it is unknown or not installed.
    """
    if name not in ("auto", "pyav", "decord"):
        raise ValueError(f"data.decoder={name} is not one of auto, pyav, decord")
    if name == "decord" and find_spec("decord") is None:
        raise ValueError("data.decoder=decord, but decord is not installed here; use data.decoder=pyav or auto")
    return "decord" if name == "decord" else "auto" if name == "auto" and find_spec("decord") else "pyav"


def decode(path: Path, decoder: Decoder) -> UInt8[np.ndarray, "f h w 3"]:
    """All RGB frames of a file, in order: see `decoded`."""
    return decoded(path, decoder).video


def decoded(path: Path, decoder: Decoder) -> Decoded:
    """All RGB frames of a file, in order. Raises BadFile where any of them is damaged.

    PyAV is strict: it refuses a damaged stream which decord hides by repeating pixels. `auto` gives a file to decord,
    and to PyAV where that cannot open it; AV1 goes to PyAV at once. The reader lives inside this call only, since a
    decord reader that meets a fork hangs.
    """
    video, who = by_decoder(path, decoder, _decode_pyav, _decode_decord)
    if not len(video):
        raise BadFile(path, "holds no video frame")
    return Decoded(video, who)


def by_decoder(
    path: Path, decoder: Decoder, pyav: Callable[[Path], Given], decord: Callable[[Path], Given]
) -> tuple[Given, Decoder]:
    """What one of two ways to read a whole file gives, and whose it is: see `decoded`."""
    require_whole(path)
    chosen: Decoder = "pyav" if decoder == "auto" and codec_of(path) in BEYOND_DECORD else decoder
    try:
        found = pyav(path) if chosen == "pyav" else decord(path)
    except BadFile as error:
        if decoder == "decord" and codec_of(path) in BEYOND_DECORD:
            reason = f"is coded as {codec_of(path)}, which decord cannot decode; use data.decoder=auto or pyav"
            raise BadFile(path, reason) from error
        if chosen != "auto":
            raise
        chosen, found = "pyav", pyav(path)
    return found, "decord" if chosen == "auto" else chosen


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """PyAV's container of a file. Raises BadFile where it, or what is done with it, fails."""
    try:
        # Nobody needs the texts in it, which FFmpeg takes for whatever bytes stand there.
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except BadFile:
        raise
    except DAMAGED as error:
        raise BadFile(path, f"cannot be decoded, it may be truncated or damaged ({error})") from error


def codec_of(path: Path) -> str | None:
    """The name of the codec of a file's video; None where it cannot be opened or holds none that is known."""
    try:
        with opened(path) as container:
            known = next(iter(container.streams.video), None)
            return known.codec_context.codec.canonical_name if known is not None and known.codec_context else None
    except BadFile:
        return None


def decode_span(path: Path, start: float, wanted: range, fps: float) -> UInt8[np.ndarray, "f h w 3"]:
    """The `wanted` frames, k of them at `start` + k / fps seconds, of a file that several episodes share.

    Raises BadFile unless there is one picture within half a frame of each of these times, and they are as far apart:
    a container that runs at another rate has other pictures there.
    """
    require_whole(path)
    found: dict[int, np.ndarray] = {}
    offsets: list[float] = []  # of every picture from its time, in frames
    with opened(path) as container:
        stream = strict_stream(path, container)
        _require_rate(path, stream, fps)
        first = start + (wanted.start - 0.5) / fps
        container.seek(max(0, int(first / _unit(path, stream))), stream=stream)
        reformatter = VideoReformatter()
        for frame in container.decode(stream):
            if frame.time is None:
                raise BadFile(path, "has a picture without a time")
            exact = (frame.time - start) * fps
            place = round(exact)
            if place >= wanted.stop:
                break  # one past the last, so that a second picture at its time is seen
            if place in found:
                raise BadFile(path, f"has two pictures at {start + place / fps:.3f} s, {fps:g} a second are declared")
            if place >= wanted.start:
                found[place] = picture_of(path, frame, reformatter)
                offsets.append(exact - place)
    missing = [place for place in wanted if place not in found]
    if missing:
        counts = f"{len(missing)} of {len(wanted)} missing"
        raise BadFile(path, f"has no picture at {start + missing[0] / fps:.3f} s ({counts})")
    if max(offsets) - min(offsets) > DRIFT:
        raise BadFile(path, f"has pictures that drift from their times, {fps:g} a second are declared")
    return np.stack([found[place] for place in wanted])


def strict_stream(path: Path, container: InputContainer) -> VideoStream:
    """The video, decoded by one thread that refuses what is damaged. Raises BadFile where there is none."""
    if not container.streams.video:
        raise BadFile(path, "holds no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise BadFile(path, "is coded in a way that FFmpeg does not know, it may be damaged")
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"err_detect": "explode"}
    return stream


def _unit(path: Path, stream: VideoStream) -> Fraction:
    """Seconds of a unit of a stream's times."""
    if not stream.time_base:
        raise BadFile(path, "does not say how long a unit of its times is, it may be damaged")
    return stream.time_base


def _require_rate(path: Path, stream: VideoStream, fps: float) -> None:
    """Raises BadFile where a container, by its own account, runs at another rate: late episodes would be others'."""
    rate = stream.average_rate
    if rate and abs(rate / fps - 1) > 0.01 and stream.frames * abs(1 / rate - 1 / fps) * fps > 1.5:
        raise BadFile(path, f"runs at {float(rate):g} pictures a second, {fps:g} are declared")


def require_whole(path: Path) -> None:
    """Raises BadFile where an mp4's boxes (ISO/IEC 14496-12) do not end where the file does: it lacks its end.

    Decoders find that out only where what is missing is needed for pictures. Other containers are left to them.
    """
    try:
        with path.open("rb") as file:
            _walk_boxes(path, file)
    except OSError as error:
        raise BadFile(path, f"cannot be read ({error})") from error


def _walk_boxes(path: Path, file: BinaryIO) -> None:
    size, place = os.fstat(file.fileno()).st_size, 0
    while place < size:
        file.seek(place)
        head = file.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8].decode("latin-1")
        if length == 1:  # the length stands behind the name
            length = int.from_bytes(head[8:16], "big")
        other = place == 0 and name not in FIRST_BOXES
        if other or length == 0:  # 0: to the end of the file
            return
        if length < 8 or place + length > size:
            ends = f"it ends within its box {name!r} at byte {place}"
            raise BadFile(path, f"cannot be decoded, it may be truncated or damaged ({ends})")
        place += length


def encode(path: Path, video: UInt8[np.ndarray, "f h w 3"], encoding: Encoding) -> None:
    """Writes an mp4; a reader sees the whole file or none."""
    height, width = video.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: frames of {height}x{width} cannot be stored as H.264 4:2:0, which needs even sides")
    options = {"crf": str(encoding.crf), "preset": encoding.preset, "g": str(len(video))}
    with atomic_file(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(encoding.fps), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # the bytes depend on the number of threads
        for picture in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _decode_pyav(path: Path) -> UInt8[np.ndarray, "f h w 3"]:
    with opened(path) as container:
        stream = strict_stream(path, container)
        reformatter = VideoReformatter()  # one a file: a new one a frame takes four fifths of the time
        frames = [picture_of(path, frame, reformatter) for frame in container.decode(stream)]
    if len({frame.shape for frame in frames}) > 1:
        raise BadFile(path, "changes its picture size on the way")
    return np.stack(frames) if frames else np.empty((0, 0, 0, 3), np.uint8)


def picture_of(path: Path, frame: av.VideoFrame, reformatter: VideoReformatter) -> UInt8[np.ndarray, "h w 3"]:
    """A frame's pixels. Raises BadFile where the decoder says that it is damaged."""
    if frame.is_corrupt:
        raise BadFile(path, "has a damaged frame")
    return reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()


def _decode_decord(path: Path) -> UInt8[np.ndarray, "f h w 3"]:
    with decord_reader(path) as reader:
        return reader.get_batch(range(len(reader))).asnumpy()


@contextmanager
def decord_reader(path: Path) -> Iterator[Any]:
    """decord's reader of a file. Raises BadFile where it, or what is done with it, fails."""
    decord = import_module("decord")
    try:
        yield decord.VideoReader(str(path), num_threads=1)
    except (RuntimeError, IndexError, AssertionError, ValueError, MemoryError, decord.DECORDError) as error:
        # It also fails on sound files whose width it does not like, 48 pixels for one.
        reason = "cannot be decoded by decord, it may be truncated or damaged, or need data.decoder=auto or pyav"
        raise BadFile(path, f"{reason} ({error})") from error
