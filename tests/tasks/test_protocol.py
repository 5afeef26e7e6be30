"""Protocols: composed for their data, scoring exactly the frames they name, and saying what is not the paper's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.tiny_run import tiny, tiny_teacher
from wm_lightning.clip import Clip
from wm_lightning.config import CONFIG_DIR, compose
from wm_lightning.config_check import check
from wm_lightning.config_record import save_record
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.rt1 import RT1DataModule
from wm_lightning.results.freshness import Freshness
from wm_lightning.results.protocols import protocol_groups, protocol_table, read_protocols
from wm_lightning.tasks.build import build_card, build_data
from wm_lightning.tasks.evaluate import evaluate
from wm_lightning.tasks.fit import fit
from wm_lightning.tasks.protocol import Protocol, resized

PROTOCOLS = {
    "vid2world_rt1": "rt1", "vid2world_csgo": "csgo", "vid2world_recon_time": "recon",
    "vid2world_recon_rollout": "recon", "nwm_time": "recon", "nwm_rollout": "recon",
    "nwm_rollout_1fps": "recon", "worldgen": "worldmap", "vid2world_csgo_long": "csgo",
}  # fmt: skip
# Frames that are scored, of images and of clips, and clips, as the papers have them.
PUBLISHED = {
    "vid2world_rt1": (list(range(16)), [0, 16], 1024), "vid2world_csgo": (list(range(4, 16)), [4, 16], 500),
    "vid2world_recon_time": ([19], [4, 20], 500), "vid2world_recon_rollout": ([7, 11, 19], [4, 20], 150),
    "nwm_time": ([7, 11, 19, 35, 67], None, 500), "nwm_rollout": ([7, 11, 19, 35, 67], [4, 68], 150),
    "nwm_rollout_1fps": ([4, 5, 7, 11, 19], [4, 20], 150),
    "worldgen": ([1], [0, 2], 512), "vid2world_csgo_long": (list(range(9, 109)), [9, 109], 50),
}  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_is_composed_at_every_size_and_names_what_its_paper_scores(name: str) -> None:
    for size in ("debug", "paper"):
        check(compose(["task=evaluate", f"protocol={name}", f"data={PROTOCOLS[name]}", f"size={size}"]))
    node = compose(["task=evaluate", f"protocol={name}", f"data={PROTOCOLS[name]}"]).protocol
    frames = list(node.image_frames or range(node.first_scored, node.context + node.horizon))
    video = None if node.video_frames is None else list(node.video_frames)
    assert (frames, video, node.clips) == PUBLISHED[name]
    assert node.name == name and node.paper.sampler


def test_no_protocol_is_left_out() -> None:
    names = {path.stem for path in (CONFIG_DIR / "protocol").glob("[!_]*.yaml")}
    of_tasks = {"worldtasks_bench", "dreamgen", "vbvr"}  # test_task_bench.py
    of_policies = {"policy", "policy_planning", "vid2world_policies"}  # test_policies.py
    assert names == {*PROTOCOLS, *of_tasks, *of_policies, "degradation", "action_control"}
    check(compose(["task=evaluate", "protocol=degradation", "size=debug"]))


def test_another_window_than_the_papers_and_longer_drives_are_told(trained: Path, tmp_path: Path) -> None:
    words = ["protocol.horizon=8", "protocol.window=5", "protocol.action_frames=7", "protocol.action_clips=3"]
    fewer = ["callbacks.action_fidelity.fit_clips=8", "rollout.window=6"]
    evaluate(asked(trained, tmp_path, *words, *fewer))
    found = written(tmp_path)
    assert "the rollout remembers 6 frames, not 5" in found["departures"]
    assert len(found["actions"]["gap"]["horizon"]) == len(found["actions"]["sweep"]["gain"]) == 7


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    tiny_teacher(folder)
    return folder


def asked(trained: Path, run: Path, *words: str) -> DictConfig:
    sizes = ["protocol.clips=6", "protocol.batch_size=4", "protocol.draws=4", "protocol.minimum=4"]
    steps = ["sampler.steps.steps=2", "module.sampler.steps.steps=2"]
    config = tiny(trained, "experiment=teacher", "task=evaluate", "protocol=worldgen", *sizes, *steps, *words)
    config.ckpt_path, config.run_dir = str(trained / "run/checkpoints/last.ckpt"), str(run)
    return config


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "protocol_worldgen_simulated.json").read_text())


def test_the_result_says_every_choice_and_what_is_not_the_papers(trained: Path, tmp_path: Path) -> None:
    config = asked(trained, tmp_path, "protocol.window=2")
    means = evaluate(config)
    found = written(tmp_path)
    assert not any("remembers" in text for text in found["departures"]), "a window of 7 holds both frames"
    assert found["rollout"]["commit"]["mode"] == config.rollout.commit.mode and "guidance" in found["rollout"]
    assert found["clips"] == 6 and found["frames_scored"] == [1] and found["video_frames"] == [0, 2]
    assert not found["comparable_with_the_paper"]
    assert any("simulated data (simulated-worldmap)" in text for text in found["departures"])
    assert set(found["missing"]) == {"kid_worldgen", "kid", "fid"}
    assert means["psnr"] == found["model"]["frames"]["psnr"]["mean"] and found["copy_last_frame"]["frames"]["psnr"]
    names = {entry["name"]: entry for entry in found["model"]["distances"]}
    assert set(names) == {"kd_rand", "fd_rand"}
    assert all(len(entry["extractor"]) == 64 and entry["n"] == 6 and entry["resize"] for entry in names.values())
    assert found["episodes"] == 6 and names["fd_rand"]["episodes"] == 6
    for entry in found["model"]["frames"].values():
        assert entry["low"] <= entry["mean"] <= entry["high"] and entry["n"] == 6
    data, protocol = build_data(config), instantiate(config.protocol, _convert_="all")
    held = Clip.cat(list(protocol.batches(data, protocol.choose(data)[0]))).video / 255
    wanted = float((held[:, 0] - held[:, 1]).square().mean())
    assert found["copy_last_frame"]["frames"]["mse"]["mean"] == pytest.approx(wanted)
    assert found["model"]["frames"]["mse"]["mean"] != pytest.approx(wanted)
    assert found["name"] == "teacher" and "wm_lightning/tasks/protocol.py" in found["code"]
    assert len(found["world"]["action_error"]) == 1 and found["sampler"] and len(found["checkpoint"]) == 64


def test_whether_actions_drive_the_video_is_part_of_it(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["protocol.action_clips=5", "callbacks.action_fidelity.frames=4", "callbacks.action_fidelity.fit_clips=8"]
    evaluate(asked(trained, tmp_path, *words, "protocol.horizon=6"))
    found = written(tmp_path)["actions"]
    assert found["gap"]["clips"] == 5 and len(found["gap"]["horizon"]) == 4
    assert set(found["sweep"]["probes"]) == {"left", "right", "up", "down"}
    assert {"action_gap", "sweep_gain", "sweep_sign", "null_motion"} <= set(found["means"])
    # Two iterations teach nothing, so the noise alone decides; what is written is what is said.
    assert found["ignored"] == any("ACTIONS ARE IGNORED in protocol worldgen" in text for text in caplog.messages)


@pytest.mark.parametrize("word", ["~callbacks.action_fidelity", "callbacks.action_fidelity=null"])
def test_without_action_fidelity_a_protocol_says_nothing_of_actions(trained: Path, tmp_path: Path, word: str) -> None:
    evaluate(asked(trained, tmp_path, word))
    assert written(tmp_path)["actions"] is None


def test_what_is_wrong_with_the_drives_is_said_before_anything_is_generated(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Protocol, "score", lambda *args: pytest.fail("clips were generated first"))
    with pytest.raises(ValueError, match="an action probe names the column nowhere"):
        evaluate(asked(trained, tmp_path, "+callbacks.action_fidelity.probes.moves.x={nowhere: 1.0}"))


def test_a_model_of_the_large_map_is_measured_by_the_protocol_of_its_paper(tmp_path: Path) -> None:
    sizes = ["protocol.clips=6", "protocol.batch_size=4", "protocol.draws=4", "protocol.minimum=4"]
    words = ["experiment=worldgen_flow", "size=debug", f"cache_dir={tmp_path}/cache"]
    config = compose([*words, f"run_dir={tmp_path}/run"])
    save_record(config, words, tmp_path / "run")
    data = build_data(config)
    fit(config, data, build_card(config, data, "teacher"), None)
    evaluating = ["task=evaluate", "protocol=worldgen", f"run_dir={tmp_path}", *sizes]
    evaluate(compose([*words, *evaluating, f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt"]))
    found = written(tmp_path)
    assert found["data"] == "simulated-mapimage" and found["clips"] == 6
    assert set(found["actions"]["sweep"]["probes"]) == {"up", "down", "left", "right"}


def test_frames_are_brought_to_their_native_size_and_then_to_that_of_scoring() -> None:
    letterbox, source = Resize("letterbox", 32, 32), object.__new__(RT1DataModule)
    source.__dict__.update(frame_cache=SimpleNamespace(resize=letterbox), frame_shape=(3, 32, 32), autoencoder=None)
    stored = torch.randint(0, 256, (2, 1, 3, 20, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    fitted = torch.from_numpy(letterbox(stored.flatten(0, 1).permute(0, 2, 3, 1).numpy())).unflatten(0, (2, 1))
    whole = instantiate(compose(["task=evaluate", "protocol=vid2world_rt1"]).protocol, _convert_="all")
    undone = replace(whole, native=[20, 40]).sized(fitted, source)
    assert torch.equal(undone, torch.from_numpy(letterbox.undo(fitted[:, 0].numpy(), 20, 40))[:, None])
    assert undone.shape == stored.shape and replace(whole, native=None).sized(fitted, source) is fitted
    small = replace(whole, native=[20, 40], size=[10, 20])
    assert torch.equal(small.sized(fitted, source), resized(undone, 10, 20))
    assert list(small.scored_size(source)) == [10, 20]
    assert list(replace(whole, native=[20, 40]).scored_size(source)) == [20, 40]


def test_a_report_joins_protocols(trained: Path, tmp_path: Path) -> None:
    evaluate(asked(trained, tmp_path / "run"))
    [group] = protocol_groups(read_protocols(["run"], root=tmp_path, age=lambda *_: Freshness(False, "")))
    text = protocol_table(group)
    assert (
        f"teacher {written(tmp_path / 'run')['checkpoint'][:8]}" in text and "kd rand" in text and "action gap" in text
    )


def test_a_committed_list_gives_the_same_numbers_whatever_the_batches(trained: Path, tmp_path: Path) -> None:
    evaluate(asked(trained, tmp_path / "one"))
    index = shutil.copy(tmp_path / "one/eval_index.json", tmp_path / "list.json")
    evaluate(asked(trained, tmp_path / "two", f"protocol.index={index}", "protocol.batch_size=3"))
    one, two = (written(tmp_path / name) for name in ("one", "two"))
    assert one["index"] == two["index"]
    for name, entry in one["model"]["frames"].items():
        assert two["model"]["frames"][name]["mean"] == pytest.approx(entry["mean"], rel=1e-3), name


def test_fewer_clips_and_frames_than_asked_are_recorded(trained: Path, tmp_path: Path) -> None:
    words = ["protocol.clips=9999", "protocol.context=1", "protocol.horizon=30", "protocol.image_frames=[5,19,25]"]
    evaluate(asked(trained, tmp_path, *words, "protocol.video_frames=null"))
    found = written(tmp_path)
    assert found["clips"] == 8 and found["frames"] == 20 and found["frames_scored"] == [5, 19]
    said = " ".join(found["departures"])
    assert "8 clips, not 9999" in said and "20 frames, not 31" in said and "frames [25] are not scored" in said


def test_other_data_and_wrong_files_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="protocol=worldgen is for data=csgo, this run has worldmap"):
        evaluate(asked(trained, tmp_path, "protocol.data=[csgo]"))
    path = tmp_path / "inception.pt"
    path.write_bytes(b"x")
    pinned = f"{{_target_: wm_lightning.metrics.pinned.Pinned, path: {path}, sha256: {'0' * 64}}}"
    with pytest.raises(Exception, match="it is another file"):
        evaluate(asked(trained, tmp_path, f"protocol.weights.inception={pinned}"))
    assert not list(tmp_path.glob("*.json"))
