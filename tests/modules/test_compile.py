"""`module.compile=true`: the same training, whose checkpoints tell nothing of it."""

import os
import shutil
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
import torch._dynamo as dynamo
from torch import nn
from torch._dynamo.utils import counters

from tests.modules import making
from tests.modules.making import dmd, fit, flat, self_rollout, teacher, teacher_file
from tests.modules.test_counts_and_resume import Save
from tests.modules.test_precision import Losses
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.teacher import MaskMixture

COMPILERS = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
# Of the fewest programs: one layer; of a teacher one mask, of a student one chunk. Losses of all parts are in it.
TEACHER: dict[str, Any] = {"iterations": 3, "masks": MaskMixture((3,), (1.0,))}
DMD: dict[str, Any] = {
    "iterations": 2, "critic_warmup": 0, "ratio": 1, "rollout": self_rollout(lengths=(4,), scored=3),
}  # fmt: skip


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What makes the programs: `aot_eager` traces forward and backward and runs them as they are, and needs no C++."""
    if request.param == "inductor" and not any(map(shutil.which, COMPILERS)):
        pytest.skip(f"no C++ compiler, which torch's own needs on a CPU: none of {COMPILERS[1:]}, and CXX is not set")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=request.param))
    # The checks of types at run time, which are the tests' own, take what is traced for no tensor.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    dynamo.reset()
    counters.clear()
    # Past the limit of programs for one function the rest would run uncompiled, without a word.
    with dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield request.param
    dynamo.reset()


def made(name: str, compiled: bool) -> WorldModelModule:
    if name == "teacher":
        return teacher(**TEACHER, compile=compiled)
    return dmd(**DMD, teacher=teacher_file(making.network(seed=1)), compile=compiled)


def close(ours: Any, theirs: Any) -> None:
    """One float32 rounding apart and a few updates: 3e-8 of weights up to 0.7 was measured, 4e-8 of losses."""
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param("teacher", "aot_eager", marks=pytest.mark.slow),
        pytest.param("teacher", "inductor", marks=pytest.mark.nightly),
        pytest.param("dmd", "aot_eager", marks=pytest.mark.nightly),
        pytest.param("dmd", "inductor", marks=pytest.mark.nightly),
    ],
    indirect=["backend"],
)
def test_a_compiled_training_is_the_same(
    tmp_path: Path, name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "network", lambda seed=0, depth=1, _make=making.network: _make(seed, depth=depth))
    found, ends, path = [], [], tmp_path / "saved.ckpt"
    for compiled in (False, True):
        module, losses = made(name, compiled), Losses()
        fit(module, tmp_path / f"run{compiled}", losses, Save(1, path))
        assert bool(counters["stats"]["unique_graphs"]) == compiled, f"by {backend}"
        found.append(losses.found)
        ends.append(flat([p.detach() for p in module.parameters() if p.dtype == torch.float32]))
    plain, compiled = found
    assert len(plain) == len(compiled) and [row.keys() for row in plain] == [row.keys() for row in compiled]
    close([list(row.values()) for row in compiled], [list(row.values()) for row in plain])
    close(ends[1], ends[0])

    saved, other = torch.load(path, weights_only=True)["state_dict"], made(name, False)
    assert saved.keys() == other.state_dict().keys() and not any("_orig_mod" in key for key in saved)
    fit(other, tmp_path / "continued", resume=path)
    close(flat([p.detach() for p in other.parameters()]), ends[1])
