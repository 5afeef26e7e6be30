"""Encoders of video pipelines: features as the published pipelines hand them to their transformers, and refusals."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.networks.tiny_pipelines import (
    GLYPHS,
    HUNYUAN_LENGTH,
    HUNYUAN_WIDTH,
    LENGTH,
    TEMPLATE,
    WIDTH,
    hunyuan15_pipeline,
    ltx2_pipeline,
)
from wm_lightning.networks.adapters.pipeline_encoders import Hunyuan15Encoders, LTX2Encoders

pytest.importorskip("diffusers.models.transformers.transformer_ltx2")
pytest.importorskip("transformers")

CPU = torch.device("cpu")
TEXTS = ["[Red square]: push the box", 'the red square at a4 a3 b3, the sign says "go"']


def ltx2(folder: Path | None, **changes: Any) -> LTX2Encoders:
    settings: dict[str, Any] = dict(folder=folder and str(folder), length=LENGTH, width=WIDTH)
    return LTX2Encoders(**settings | changes)


def hunyuan15(folder: Path | None, **changes: Any) -> Hunyuan15Encoders:
    settings: dict[str, Any] = dict(
        folder=folder and str(folder), length=HUNYUAN_LENGTH, width=HUNYUAN_WIDTH, glyphs=GLYPHS, template=TEMPLATE
    )
    return Hunyuan15Encoders(**settings | changes)


@pytest.fixture(scope="module")
def ltx2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ltx2_pipeline(tmp_path_factory.mktemp("ltx2"))


@pytest.fixture(scope="module")
def hunyuan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hunyuan15_pipeline(tmp_path_factory.mktemp("hunyuan15"))


@torch.no_grad()
def test_ltx2_hears_all_layers_of_gemma_through_both_connectors(ltx2_folder: Path) -> None:
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors  # noqa: PLC0415
    from transformers import AutoTokenizer, Gemma3ForConditionalGeneration  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(ltx2_folder / "tokenizer")
    tokenizer.padding_side = "left"
    given = tokenizer(TEXTS, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    assert not bool(given["attention_mask"][0, 0]) and bool(given["attention_mask"][0, -1])
    gemma = Gemma3ForConditionalGeneration.from_pretrained(ltx2_folder / "text_encoder")
    known = {name: given[name] for name in ("input_ids", "attention_mask")}
    states = torch.stack(gemma(**known, output_hidden_states=True).hidden_states, dim=-1)
    connectors = LTX2TextConnectors.from_pretrained(ltx2_folder / "connectors")
    video, sound, there = connectors(states, given["attention_mask"], padding_side="left")
    found = ltx2(ltx2_folder).words(TEXTS, CPU)
    torch.testing.assert_close(found.tokens, torch.cat([video, sound], dim=-1))
    assert torch.equal(found.there, there.bool())
    assert float((found.tokens[0] - found.tokens[1]).abs().max()) > 1e-3, "texts change nothing"


@torch.no_grad()
def test_hunyuan_hears_qwen_behind_its_chat_and_what_is_quoted(hunyuan_folder: Path) -> None:
    from transformers import ByT5Tokenizer, Qwen2_5_VLTextModel, T5EncoderModel  # noqa: PLC0415

    found = hunyuan15(hunyuan_folder).words(TEXTS, CPU)
    text, glyphs = found.tokens.split([HUNYUAN_LENGTH - GLYPHS, GLYPHS], dim=1)
    assert found.there[:, -GLYPHS:].any(1).tolist() == [False, True], "only the second text quotes anything"
    given = ByT5Tokenizer()(['Text "go". '], padding="max_length", max_length=GLYPHS, truncation=True)
    t5 = T5EncoderModel.from_pretrained(hunyuan_folder / "text_encoder_2")
    expected = t5(torch.tensor(given["input_ids"]), torch.tensor(given["attention_mask"]).float())[0]
    torch.testing.assert_close(glyphs[1:, :, :8], expected)
    assert not bool(glyphs[..., 8:].any()) and not bool(glyphs[0].any())
    qwen = Qwen2_5_VLTextModel.from_pretrained(hunyuan_folder / "text_encoder")
    seen: list[Any] = []
    encoders = hunyuan15(hunyuan_folder)
    hook = encoders._on(CPU).text_encoder.register_forward_pre_hook(lambda _, __, k: seen.append(k), with_kwargs=True)
    encoders.words(TEXTS, CPU)
    hook.remove()
    known = {name: seen[0][name] for name in ("input_ids", "attention_mask")}
    states = qwen(**known, output_hidden_states=True).hidden_states[-3]
    torch.testing.assert_close(text, states[:, TEMPLATE:])
    assert torch.equal(found.there[:, :-GLYPHS], known["attention_mask"][:, TEMPLATE:].bool())


@torch.no_grad()
def test_hunyuan_sees_tokens_of_siglip(hunyuan_folder: Path) -> None:
    from transformers import SiglipVisionModel  # noqa: PLC0415

    pictures = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found = hunyuan15(hunyuan_folder).picture(pictures, CPU)
    siglip = SiglipVisionModel.from_pretrained(hunyuan_folder / "image_encoder")
    expected = siglip(pictures.float() / 127.5 - 1).last_hidden_state
    assert found is not None and found.shape == (2, 4, 12)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert ltx2(None).picture(pictures, CPU) is None


@pytest.mark.parametrize("name", ["ltx2", "hunyuan15"])
def test_a_text_says_the_same_whatever_is_beside_it(ltx2_folder: Path, hunyuan_folder: Path, name: str) -> None:
    encoders = ltx2(ltx2_folder) if name == "ltx2" else hunyuan15(hunyuan_folder)
    both, alone = encoders.words(TEXTS, CPU), encoders.words(TEXTS[:1], CPU)
    torch.testing.assert_close(both.tokens[:1][both.there[:1]], alone.tokens[alone.there])


def test_without_a_folder_nothing_is_encoded(ltx2_folder: Path, tmp_path: Path) -> None:
    assert ltx2(None).identity["weights"] is None
    with pytest.raises(ValueError, match="data.encoders.folder=null, and a text or picture is to be encoded"):
        ltx2(None).words(TEXTS, CPU)
    with pytest.raises(ValueError, match=f"data.encoders.folder={tmp_path} lacks text_encoder, connectors; name"):
        ltx2(tmp_path)
    shutil.copytree(ltx2_folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/tokenizer")
    with pytest.raises(ValueError, match="copy cannot be read as a LTX2ImageToVideoPipeline: "):
        ltx2(tmp_path / "copy").words(TEXTS, CPU)


def test_another_width_is_refused_with_the_words_to_change(ltx2_folder: Path) -> None:
    with pytest.raises(ValueError, match="makes 16 x 24 features of a text, the config has 16 x 30; set data.encoders"):
        ltx2(ltx2_folder, width=30).words(TEXTS, CPU)


def test_pickled_weights_are_not_read(ltx2_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(ltx2_folder, tmp_path / "copy")
    weights = tmp_path / "copy/text_encoder/model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match="copy cannot be read as a LTX2ImageToVideoPipeline: "):
        ltx2(tmp_path / "copy").words(TEXTS, CPU)
