"""Pictures of a folder become given frames: their order, size and actions, and what is refused."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wm_lightning.clip import ActionSpec, ActionState
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.start_images import begun, held_action, neutral, read_images

SPEC = ActionSpec(("x", "y", "gain"), (-1.0, -1.0, 0.5), (1.0, 1.0, 2.0))


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (48, 24)) -> None:
    Image.new("RGB", size, colour).save(path)


def test_pictures_come_in_the_order_of_their_names_and_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture(tmp_path / "b.png", (0, 200, 0))
    picture(tmp_path / "a.BMP", (200, 0, 0), (24, 24))
    Image.new("RGBA", (30, 30), (0, 0, 200, 255)).save(tmp_path / "c.webp", lossless=True)
    (tmp_path / "notes.txt").write_text("which is which")
    (tmp_path / "actions.npz").write_bytes(b"")
    (tmp_path / "more").mkdir()
    with caplog.at_level(logging.WARNING):
        images = read_images(tmp_path, Resize("squash", 12, 16))
    assert images.names == ("a.BMP", "b.png", "c.webp") and images.pixels.shape == (3, 3, 12, 16)
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    assert np.array_equal(images.pixels, np.broadcast_to(np.array(colours, np.uint8)[..., None, None], (3, 3, 12, 16)))
    assert "2 files that are no pictures are left out" in caplog.text


def test_pictures_are_resized_as_the_datas_frames_are(tmp_path: Path) -> None:
    half = np.zeros((24, 48, 3), np.uint8)
    half[:, 12:36] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    for policy in ("squash", "crop", "letterbox"):
        resize = Resize(policy, 12, 12)
        assert np.array_equal(read_images(tmp_path, resize).pixels, resize(half[None]))
    assert (read_images(tmp_path, Resize("crop", 12, 12)).pixels == 255).all()


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    resize = Resize("squash", 12, 16)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        read_images(tmp_path / "nowhere", resize)
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match="holds no picture"):
        read_images(tmp_path, resize)
    picture(tmp_path / "a.png", (1, 2, 3))
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"broken\.jpg: a picture cannot be decoded"):
        read_images(tmp_path, resize)


def test_a_held_action_in_the_datas_own_columns() -> None:
    assert neutral(SPEC, {}).tolist() == [0.0, 0.0, 0.5]
    assert neutral(SPEC, {"x": 1.0, "not there": 1.0}).tolist() == [1.0, 0.0, 0.5]
    held = held_action(SPEC, {"y": -1.0}, clips=2, frames=4, rest={"x": 1.0})
    assert held.actions.tolist() == [[[1.0, -1.0, 0.5]] * 4] * 2
    held = held_action(SPEC, {"y": -1.0}, clips=2, frames=4, rest={})
    assert held.actions.tolist() == [[[0.0, -1.0, 0.5]] * 4] * 2
    for wrong, said in (
        ({"z": 1.0}, r"names 'z', the data's actions are \['x', 'y', 'gain'\]"),
        ({"y": 1.5}, r"task\.action\.y=1\.5 is no number within its bounds, -1 to 1"),
        ({"gain": float("nan")}, "0.5 to 2"),
    ):
        with pytest.raises(ValueError, match=said):
            held_action(SPEC, wrong, clips=1, frames=2, rest={})


@pytest.mark.parametrize("context", [1, 3])
def test_nothing_led_to_the_first_frame_and_nothing_happened_while_it_is_held(context: int) -> None:
    held = held_action(SPEC, {"x": 1.0}, clips=2, frames=5, rest={})
    condition = begun(held, SPEC, context, rest={"y": -1.0})
    assert (condition.state[:, 0] == ActionState.NONE).all() and (condition.state[:, 1:] == ActionState.GIVEN).all()
    assert condition.actions[0, :, 0].tolist() == [0.0] * context + [1.0] * (5 - context)
    assert (condition.actions[:, 1:context] == neutral(SPEC, {"y": -1.0})).all()
    assert torch.equal(held.actions[:, :, 0], torch.ones(2, 5)), "what was given is left alone"
