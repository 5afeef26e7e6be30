"""Pictures: right size, the pixels that were given, nothing clipped, loops, small files."""

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wm_lightning.results.pictures import Film, draw_gif, draw_side_by_side, draw_strips, write_mp4

GIF = {"context": 2, "clips": 3, "side": 48, "fps": 5.0, "caption": "simulated world map", "most_bytes": 1_500_000}
STRIP = {"context": 2, "clips": 2, "columns": 4, "side": 48, "caption": "simulated world map"}


def random_video(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def films(count: int = 3, frames: int = 6, size: int = 24) -> list[Film]:
    """Each film in a colour of its own that grows brighter with time."""
    found = []
    for place in range(count):
        video = torch.zeros(4, frames, 3, size, size, dtype=torch.uint8)
        video[:, :, place] = (120 + 20 * torch.arange(frames))[None, :, None, None]
        found.append(Film(f"a rather long label {place}\n{place} steps", video))
    return found


def find(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((np.abs(picture.astype(int) - colour) <= 6).all(axis=-1))


def test_gif_loops_and_holds_one_page_per_frame(tmp_path):
    draw_gif(tmp_path / "r.gif", films(), **GIF)
    with Image.open(tmp_path / "r.gif") as image:
        assert image.n_frames == 6 and image.info["loop"] == 0
        assert image.info["duration"] == 200
        image.seek(5)
        assert image.info["duration"] > 200


def test_gif_shows_every_film_at_every_frame_in_its_row(tmp_path):
    draw_gif(tmp_path / "r.gif", films(), **GIF)
    with Image.open(tmp_path / "r.gif") as image:
        for frame in range(6):
            image.seek(frame)
            picture = np.asarray(image.convert("RGB"))
            tops = []
            for row in range(3):
                level = 120 + 20 * frame
                place = find(picture, tuple(level if channel == row else 0 for channel in range(3)))
                # 3 clips of 48 x 48 pixels; the borders of given frames stand outside.
                assert len(place) == pytest.approx(3 * 48 * 48, rel=0.02)
                tops.append(place[:, 0].min())
            assert tops == sorted(tops)


def test_side_by_side_every_film_stands_under_its_label_in_gif_and_mp4(tmp_path):
    shown = [Film(f"film {place}", film.video) for place, film in enumerate(films())]
    draw_side_by_side(tmp_path / "r.gif", shown, context=2, side=48, columns=2, fps=5, caption="simulated world map")
    with Image.open(tmp_path / "r.gif") as image, av.open(str(tmp_path / "r.mp4")) as container:
        assert image.n_frames == 6 and image.info["loop"] == 0
        pages = [page.to_ndarray(format="rgb24") for page in container.decode(video=0)]
        assert len(pages) == 6 and all(
            abs(a - b) <= 1 for a, b in zip(pages[0].shape[:2], image.size[::-1], strict=True)
        )
        for frame in range(6):
            image.seek(frame)
            corners, level = [], 120 + 20 * frame
            for row in range(3):
                colour = tuple(level if channel == row else 0 for channel in range(3))
                place = find(np.asarray(image.convert("RGB")), colour)
                assert len(place) == pytest.approx(48 * 48, rel=0.02), "one clip of each"
                corners.append(tuple(place.min(0)))
                y, x = place.mean(0).astype(int)
                assert np.abs(pages[frame][y, x].astype(int) - colour).max() < 12
            assert corners[0][0] == corners[1][0] < corners[2][0] and corners[0][1] == corners[2][1] < corners[1][1]


def test_gif_drops_clips_before_it_grows_too_large(tmp_path):
    noisy = [Film("noise", random_video(4, 6, 3, 48, 48))]
    settings = GIF | {"side": 96}
    draw_gif(tmp_path / "large.gif", noisy, **settings)
    full = (tmp_path / "large.gif").stat().st_size
    draw_gif(tmp_path / "small.gif", noisy, **settings | {"most_bytes": full // 2})
    assert (tmp_path / "small.gif").stat().st_size <= full // 2
    with Image.open(tmp_path / "small.gif") as small, Image.open(tmp_path / "large.gif") as large:
        assert small.width < large.width and small.height == large.height


def test_strip_shows_the_last_given_and_the_last_generated_frame(tmp_path):
    draw_strips(tmp_path / "r.png", films(), **STRIP)
    picture = np.asarray(Image.open(tmp_path / "r.png").convert("RGB"))
    for frame, shown in ((0, False), (1, True), (5, True)):
        assert bool(len(find(picture, (120 + 20 * frame, 0, 0)))) is shown


def test_pixels_are_repeated_and_not_blended(tmp_path):
    video = random_video(1, 2, 3, 12, 12)
    draw_strips(tmp_path / "r.png", [Film("noise", video)], **STRIP | {"clips": 1, "context": 1})
    picture = np.asarray(Image.open(tmp_path / "r.png").convert("RGB"))
    wanted = video[0, 1].permute(1, 2, 0).numpy().repeat(4, axis=0).repeat(4, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(picture, wanted.shape)[:, :, 0]
    assert any((windows[y, x] == wanted).all() for y, x in np.argwhere((windows[:, :, 0, 0] == wanted[0, 0]).all(-1)))


@pytest.mark.parametrize("labels", ["a", "a label that is very much longer than any sensible label"])
def test_labels_and_captions_are_not_clipped(labels: str, tmp_path):
    shown = [Film(labels, film.video) for film in films(1)]
    settings = STRIP | {"caption": "a caption of many words " * 12}
    draw_strips(tmp_path / "r.png", shown, **settings)
    picture = np.asarray(Image.open(tmp_path / "r.png").convert("L"))
    for edge in (picture[:8], picture[-8:], picture[:, :8], picture[:, -8:]):
        assert edge.min() > 240


@pytest.mark.parametrize("shape", [(16, 16), (24, 40), (256, 320)])
def test_any_frame_size_and_grey_video(shape: tuple[int, int], tmp_path):
    video = random_video(2, 4, 1, *shape)
    draw_strips(tmp_path / "r.png", [Film("x", video)], **STRIP)
    draw_gif(tmp_path / "r.gif", [Film("x", video)], **GIF)
    assert Image.open(tmp_path / "r.png").width < 600 and Image.open(tmp_path / "r.gif").height < 200


def test_films_of_different_shapes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="equal shapes"):
        draw_strips(tmp_path / "r.png", [*films(1), *films(1, frames=5)], **STRIP)


def test_mp4_gives_back_its_frames(tmp_path):
    video = films(1)[0].video[0]
    write_mp4(tmp_path / "r.mp4", video, fps=5, side=99)
    with av.open(str(tmp_path / "r.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 5 and (stream.width, stream.height) == (96, 96)
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(found) == len(video)
    means = torch.tensor([frame[..., 0].mean() for frame in found])
    torch.testing.assert_close(means.float(), video[:, 0].float().mean(dim=(1, 2)), atol=8.0, rtol=0)
