"""Which pictures a video gives for which times, by which decoder, and AV1."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.error import FFmpegError

from tests.data.fault_sets import opened, picture
from tests.data.fault_trial import clean_set
from tests.data.making import robot_actions
from wm_lightning.data.formats import video_files
from wm_lightning.data.formats.lerobot import LeRobotSource
from wm_lightning.data.formats.lerobot_writer import LeRobotWriter
from wm_lightning.data.formats.source import StoredEpisode
from wm_lightning.data.formats.video_files import BadFile, Encoding, codec_of, decode, decode_span, decoded
from wm_lightning.worlds.faults.catalogue import scramble
from wm_lightning.worlds.faults.robots import _other_rate
from wm_lightning.worlds.faults.stand import media, whole

FPS = 12.0
ENCODING = Encoding(fps=12, crf=10, preset="veryfast")


def film(path: Path, frames: int, factor: Fraction = Fraction(1)) -> np.ndarray:
    """Writes a video of which times are `factor` times as far apart as declared."""
    video_files.encode(path, picture(0, frames), ENCODING)
    video = decode(path, "pyav")
    if factor != 1:
        _other_rate(whole(path.parent, path, path, ()), factor)
    return video


def test_a_span_gives_the_pictures_of_its_times(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4", 30)
    for start, frames in ((0, 30), (11, 7), (29, 1), (0, 1)):
        found = decode_span(tmp_path / "a.mp4", start / FPS, range(frames), FPS)
        assert np.array_equal(found, video[start : start + frames])
        assert np.array_equal(decode_span(tmp_path / "a.mp4", 0.0, range(start, start + frames), FPS), found)


FACTORS = [Fraction(1, 4), Fraction(1, 3), Fraction(1, 2), Fraction(10, 11), Fraction(11, 10), Fraction(2), Fraction(7)]


@pytest.mark.parametrize("by_account", [True, False])
@pytest.mark.parametrize("factor", FACTORS)
def test_no_picture_is_served_of_a_container_at_another_rate(
    tmp_path: Path, factor: Fraction, by_account: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    film(tmp_path / "a.mp4", 30, factor)
    if not by_account:  # times alone must tell, where a container says nothing of its rate
        monkeypatch.setattr(video_files, "_require_rate", lambda *_: None)
    for start in (0, 9, 20):
        with pytest.raises(BadFile, match="declared|has no picture"):
            decode_span(tmp_path / "a.mp4", start / FPS, range(6), FPS)


def test_a_single_picture_is_not_one_of_two_at_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "a.mp4", 30, Fraction(1, 4))
    monkeypatch.setattr(video_files, "_require_rate", lambda *_: None)
    with pytest.raises(BadFile, match="two pictures at 0.000 s"):
        decode_span(tmp_path / "a.mp4", 0.0, range(1), FPS)


# -- AV1 --------------------------------------------------------------------------------------------------------------


def to_av1(path: Path) -> None:
    """The same pictures as LeRobot stores them: SVT-AV1, a key frame every second picture."""
    video, copy = decode(path, "pyav"), path.with_suffix(".av1.mp4")
    try:
        with av.open(str(copy), "w", format="mp4") as container:
            stream = container.add_stream("libsvtav1", rate=12, options={"g": "2", "crf": "30", "preset": "10"})
            stream.width, stream.height, stream.pix_fmt = video.shape[2], video.shape[1], "yuv420p"  # type: ignore[attr-defined]
            for frame in video:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))  # type: ignore[attr-defined]
            container.mux(stream.encode(None))  # type: ignore[attr-defined]
    except (FFmpegError, ValueError) as error:
        pytest.skip(f"PyAV has no encoder libsvtav1 here ({error})")
    copy.replace(path)


def large(number: int, frames: int) -> StoredEpisode:
    video = np.kron(picture(number, frames), np.ones((1, 2, 2, 1), np.uint8))
    return StoredEpisode(video, robot_actions(frames, "lerobot7", number))


@pytest.fixture
def av1_set(tmp_path: Path) -> Path:
    made = [large(number, frames) for number, frames in enumerate((9, 7, 8, 6))]
    LeRobotWriter(tmp_path / "set", ENCODING, "v3.0", together=2).write({"train": made})
    for path in tmp_path.glob("set/videos/**/*.mp4"):
        to_av1(path)
    return tmp_path / "set"


def test_a_lerobot_set_of_av1_comes_back(av1_set: Path) -> None:
    source = LeRobotSource(av1_set, "train")
    assert {codec_of(place.video) for place in source.places} == {"av1"}
    for number, frames in enumerate((9, 7, 8, 6)):
        found, wanted = source.read(number).video, large(number, frames).video
        assert found.shape == wanted.shape and found.dtype == np.uint8
        error = [[np.abs(a.astype(int) - b).mean() for b in wanted] for a in found]
        assert np.argmin(error, axis=1).tolist() == list(range(frames)), "pictures of other times"


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)]) and None


def damaged(path: Path) -> None:
    scramble(path, *media(path), np.random.default_rng(0))


@pytest.mark.parametrize("damage", [cut(0.5), cut(0.95), cut(0.995), damaged])
def test_damaged_av1_is_left_out(av1_set: Path, damage: Callable[[Path], None]) -> None:
    source = LeRobotSource(av1_set, "train")
    damage(source.places[0].video)
    faults = []
    for number in (0, 1):
        try:
            source.read(number)
        except BadFile as error:
            faults.append(error)
    assert faults
    assert source.read(2).video.shape[0] == 8


# -- Who decodes ------------------------------------------------------------------------------------------------------


def test_a_decoder_is_chosen_by_what_a_file_needs(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    video_files.encode(tmp_path / "a.mp4", large(0, 8).video, ENCODING)
    video = decode(tmp_path / "a.mp4", "pyav")
    for decoder, chosen in (("auto", "decord"), ("decord", "decord"), ("pyav", "pyav")):
        found = decoded(tmp_path / "a.mp4", decoder)  # type: ignore[arg-type]
        assert found.decoder == chosen and np.array_equal(found.video, video)
    video_files.encode(tmp_path / "b.mp4", large(1, 8).video, ENCODING)
    to_av1(tmp_path / "b.mp4")
    found = decoded(tmp_path / "b.mp4", "auto")
    assert found.decoder == "pyav" and len(found.video) == 8
    with pytest.raises(BadFile, match=r"is coded as av1, which decord cannot decode; use data.decoder=auto or pyav"):
        decode(tmp_path / "b.mp4", "decord")


def test_what_decord_cannot_open_is_given_to_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = film(tmp_path / "a.mp4", 8)

    def refused(path: Path) -> None:
        raise BadFile(path, "cannot be decoded")

    monkeypatch.setattr(video_files, "_decode_decord", refused)
    found = decoded(tmp_path / "a.mp4", "auto")
    assert found.decoder == "pyav" and np.array_equal(found.video, video)


def test_without_decord_auto_is_pyav_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_files, "find_spec", lambda name: None)
    assert video_files.decoder_named("auto") == "pyav"
    with pytest.raises(ValueError, match="not installed here; use data.decoder=pyav or auto"):
        video_files.decoder_named("decord")


def test_the_manifest_says_who_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("decord")
    clean = clean_set("mp4", tmp_path)
    with monkeypatch.context() as patch:  # decord's own does not take pictures of 48 pixels
        patch.setattr(video_files, "_decode_decord", video_files._decode_pyav)
        assert opened(clean.root, "mp4", tmp_path / "c", "data.decoder=auto").manifest["decoders"] == {"decord": 8}
    assert opened(clean.root, "mp4", tmp_path / "d", "data.decoder=auto").manifest["decoders"] == {"pyav": 8}
    assert opened(clean.root, "mp4", tmp_path / "c").manifest["decoders"] == {"pyav": 8}
    clean = clean_set("lerobot3", tmp_path)
    manifest = opened(clean.root, "lerobot3", tmp_path / "c", "data.decoder=decord").manifest
    assert manifest["decoders"] == {"pyav": 8} and "decoder='pyav'" in manifest["reading"]
    clean = clean_set("npz", tmp_path)
    assert opened(clean.root, "npz", tmp_path / "c").manifest["decoders"] == {}
