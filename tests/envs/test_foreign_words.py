"""Words that lie beside somebody else's checkpoint, or in it: none of them builds what configs may not build."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from wm_lightning.config import compose
from wm_lightning.config_errors import ConfigError
from wm_lightning.tasks.environments import composed, make_env, make_vector_env
from wm_lightning.tasks.policy_stage import contenders

ATTACK = "data.augment={_target_: builtins.print, _args_: [done]}"
WORDS = ["experiment=teacher", "size=debug", ATTACK]


def beside(folder: Path) -> Path:
    """An exported network, and words beside it."""
    OmegaConf.save(OmegaConf.create(WORDS), folder / "overrides.yaml")
    (path := folder / "teacher.safetensors").write_bytes(b"")
    return path


def within(folder: Path) -> Path:
    torch.save({"provenance": {"overrides": WORDS}}, folder / "best.ckpt")
    return folder / "best.ckpt"


def against(path: Path) -> Any:
    """Beside a checkpoint of one's own."""
    config = compose(["experiment=teacher", "size=debug"])
    return contenders(config, instantiate(config.data, _convert_="all"), [str(path)], None)


USES: dict[str, Callable[[Path], Any]] = {
    "composed": lambda path: composed(path, []),
    "environment": make_env,
    "vector": lambda path: make_vector_env(path, num_envs=2),
    "against": against,
}  # fmt: skip


@pytest.mark.parametrize("place", [beside, within])
@pytest.mark.parametrize("use", list(USES))
def test_what_configs_may_not_build_is_refused(
    place: Callable[[Path], Path], use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("wm_lightning.tasks.policy_stage._contender", lambda *_: None)
    with pytest.raises(ConfigError, match=r"data.augment._target_: builtins.print is not allowed"):
        USES[use](place(tmp_path))
    assert "done" not in capsys.readouterr().out
