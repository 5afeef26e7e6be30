"""Episodes written in several processes."""

import os

import pytest

from wm_lightning.worlds.writing import write_batches


def test_every_batch_is_reported_in_order() -> None:
    for workers in (1, 2):
        done: list[int] = []
        write_batches(abs, [-3, -1, -2], workers, done.append)
        assert done == [3, 1, 2]


def test_a_process_that_ends_too_early_is_named_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"data\.world\.workers=2: .*__name__ == '__main__'"):
        write_batches(os._exit, [1, 2], 2, lambda done: None)
