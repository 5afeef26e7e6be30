"""The share of its own matrix products that a training step reaches: what counts as one, and the numbers made of it."""

import json
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from tests.tiny_run import DMD, tiny
from wm_lightning.tasks.bench_products import Products

CPU = torch.device("cpu")
FEW = ["task.parts=[products]", "task.warmup=1", "task.steps=2", "task.repeats=1", "task.batches=2"]


def test_products_are_counted_forwards_and_backwards() -> None:
    layer, x = nn.Linear(8, 16), torch.randn(4, 8, requires_grad=True)
    with Products() as products:
        layer(x).relu().sum().backward()
    flops, seconds = products.alone(CPU)
    assert flops == 3 * 2 * 4 * 8 * 16 and seconds > 0  # the output, and the gradients of input and weight


def test_equal_products_are_timed_once_and_counted_as_often_as_they_run() -> None:
    convolution, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 8)
    with Products() as products, torch.no_grad():
        for _ in range(4):
            convolution(x)
    assert list(products.seen.values()) == [4]
    assert products.alone(CPU)[0] == 4 * 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)


def test_what_is_no_product_is_left_out() -> None:
    with Products() as products:
        torch.randn(4, 4).softmax(-1).cumsum(0)
    assert not products.seen and products.alone(CPU) == (0.0, 0.0)


@pytest.mark.slow
def test_steps_are_held_against_their_products_and_the_machine(tmp_path: Path) -> None:
    config = tiny(tmp_path, "experiment=dmd_chunkwise", "task=bench", *DMD, *FEW)
    measured = instantiate(config.task)(config)
    kinds = ("of its products", "of the machine")
    assert list(measured) == [f"{name} step, {kind}" for name in ("teacher", "distillation") for kind in kinds]
    entries = json.loads((tmp_path / "run/bench.json").read_text())["comparisons"]
    assert all(entry["ours_value"] > 0 for entry in entries)
    for own, machine in (entries[:2], entries[2:]):
        assert own["ours_value"] == machine["ours_value"] and own["least"] == 0.5 and machine["least"] is None
        assert own["ratio"] == pytest.approx(own["ours_value"] / own["other_value"])
