"""A judge on loopback."""

from collections.abc import Iterator

import pytest

from tests.judge_server import Running, judge_server
from tests.rewards.making import CELL, TASKS


@pytest.fixture
def server() -> Iterator[Running]:
    with judge_server(TASKS, CELL) as running:
        yield running
