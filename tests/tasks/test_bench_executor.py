"""What a benchmark of an executor's iteration assumes of its rollouts."""

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from wm_lightning.config import CONFIG_DIR
from wm_lightning.tasks.bench import Bench
from wm_lightning.tasks.bench_executor import advantages


@pytest.mark.parametrize(("without", "zeros"), [(0.0, 0), (0.25, 12), (0.5, 24), (0.9, 43)])
def test_the_assumed_share_has_no_advantage(without: float, zeros: int) -> None:
    found = advantages(48, without)
    assert int((found == 0).sum()) == zeros and abs(float(found.sum())) <= 1
    places = torch.arange(48)[found == 0].tolist()
    assert len({place // 4 for place in places}) == min(12, zeros), "in all micro-batches alike"


def test_half_of_them_by_default_and_never_all() -> None:
    written: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "task/bench.yaml"))
    settings = {key: value for key, value in written.items() if not key.startswith("_")}
    assert Bench(**settings).without_advantage == 0.5
    with pytest.raises(ValueError, match="task.without_advantage=1.0 is a share of rollouts"):
        Bench(**settings | {"without_advantage": 1.0})
