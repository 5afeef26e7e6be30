"""Action fidelity at a validation: logged, written, loud where actions are ignored, and without effect on training."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.modules.making import SIDE, data, dmd, fit, network, teacher, trainer
from wm_lightning.callbacks.action_fidelity import ActionFidelity
from wm_lightning.metrics.inverse_dynamics import Trained, save_reader
from wm_lightning.metrics.pinned import Pinned
from wm_lightning.modules.fidelity import Probes
from wm_lightning.modules.teacher import ActionDropout
from wm_lightning.networks.inverse_dynamics import InverseDynamics

PROBES = Probes({"stay": 1.0}, {"left": {"stay": 0.0, "left": 1.0}, "down": {"stay": 0.0, "down": 1.0}})


def callback(folder: Path, **changes: Any) -> ActionFidelity:
    settings: dict[str, Any] = dict(
        run_dir=str(folder), clips=4, frames=6, sweep_clips=2, sweep_frames=3, fit_clips=8, probes=PROBES,
        inverse_dynamics=None,
    )  # fmt: skip
    return ActionFidelity(**(settings | changes))


def validated(folder: Path, module: Any, **changes: Any) -> tuple[dict[str, float], dict[str, Any]]:
    runner = trainer(folder / "run", callback(folder / "run", **changes), limit_val_batches=1.0)
    runner.validate(module, datamodule=data(folder / "cache"), verbose=False)
    [path] = (folder / "run/actions").glob("*.json")
    assert path.name == "iteration_000000_simulated.json"
    return {name: float(value) for name, value in runner.callback_metrics.items()}, json.loads(path.read_text())


def deaf() -> Any:
    """A network whose video does not depend on actions."""
    made = network()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "action" in name:
                parameter.zero_()
    return made


def test_a_validation_in_which_actions_are_ignored_is_loud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = dmd()
    module.average.network.load_state_dict(deaf().state_dict())
    with caplog.at_level(logging.WARNING):
        logged, written = validated(tmp_path, module)
    assert logged["val/action_gap"] == 0 and written["ignored"] and written["data"] == "simulated-worldmap"
    assert any("ACTIONS ARE IGNORED" in message and "by 0, standard" in message for message in caplog.messages)
    assert logged["val/sweep_gain"] == 0
    assert written["sweep"]["measure"] == "worldmap" and len(written["gap"]["horizon"]) == 6


def test_where_all_actions_are_hidden_from_training_nothing_is_loud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = teacher(network=deaf, action_dropout=ActionDropout(1.0, "clip"))
    with caplog.at_level(logging.WARNING):
        _, written = validated(tmp_path, module)
    assert written["ignored"] and not any("ACTIONS ARE IGNORED" in message for message in caplog.messages)


def test_recovery_names_its_network_and_refuses_other_data(tmp_path: Path) -> None:
    spec = data(tmp_path / "cache").spec
    made = Trained(
        data="simulated-worldmap", frame_shape=(3, SIDE, SIDE), action_spec=spec.to_dict(), action_shift=1, width=4,
        iterations=0, ceiling={"left": 0.8, "stay": 0.2, "up": 0.5},
    )  # fmt: skip
    path = tmp_path / "reader.safetensors"
    pinned = Pinned(str(path), save_reader(path, InverseDynamics(actions=spec.dim, width=4), made))
    logged, written = validated(tmp_path, dmd(), inverse_dynamics=pinned)
    assert written["recovery"]["network"] == pinned.sha256 and len(written["recovery"]["ceiling"]["horizon"]) == 6
    assert written["recovery"]["columns"] == ["left", "up"], "what cannot be read off real clips is not asked for"
    assert logged["val/recovery"] == pytest.approx(written["recovery"]["r2"])
    with pytest.raises(ValueError, match="SHA-256"):
        callback(tmp_path, inverse_dynamics=Pinned(str(path), "0" * 64))
    other = Pinned(str(path), save_reader(path, InverseDynamics(actions=spec.dim, width=4), made.__class__(
        **{**vars(made), "frame_shape": (3, 2 * SIDE, SIDE)}
    )))  # fmt: skip
    with pytest.raises(ValueError, match=r"frames \(3, 16, 8\), not \(3, 8, 8\)"):
        validated(tmp_path, dmd(), inverse_dynamics=other)


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    weights = []
    for name, extra in (("with", [callback(tmp_path / "with")]), ("without", [])):
        module = dmd(iterations=4)
        fit(module, tmp_path / name, *extra, val_check_interval=2, limit_val_batches=1)
        weights.append(torch.cat([value.flatten().float() for value in module.state_dict().values()]))
    assert torch.equal(*weights)
    assert len(list((tmp_path / "with/actions").glob("*.json"))) == 2
