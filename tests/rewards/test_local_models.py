"""Judges on this machine, by tiny random models that the test writes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from PIL import Image

from tests.rewards.making import TEXTS, asking, films
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.rewards.bus import RewardBus, Weighted

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
from wm_lightning.rewards.local_vlm import LocalModel, LocalReward  # noqa: E402  needs transformers
from wm_lightning.rewards.pickscore import PickScore  # noqa: E402

VIDEOS = films()[:3]
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think></think>{% endif %}"
)


def tokenizer_of_bytes() -> Any:
    """Single bytes, and the two words in some spellings."""
    merges = [("n", "o"), ("N", "o"), ("y", "e"), ("Y", "e"), ("ye", "s"), ("Ye", "s")]
    merges += [("\u0120", word) for word in ("no", "No", "yes", "Yes")]
    pieces = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    return transformers.Qwen2Tokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=list(SPECIAL))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Qwen-VL model of 100 thousand weights."""
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = tokenizer_of_bytes()
    sizes = dict(hidden_size=32, intermediate_size=48)
    text = sizes | dict(
        vocab_size=len(tokenizer), num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        max_position_embeddings=4096,
        rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1], mrope_interleaved=True),
    )  # fmt: skip
    vision = sizes | dict(
        depth=2, num_heads=4, patch_size=8, temporal_patch_size=2, spatial_merge_size=2, out_hidden_size=32,
        num_position_embeddings=16, deepstack_visual_indexes=[0],
    )  # fmt: skip
    places = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    numbers = dict(zip(places, tokenizer.convert_tokens_to_ids(list(SPECIAL[2:])), strict=True))
    torch.manual_seed(0)
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **numbers)
    transformers.Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    patches = dict(patch_size=8, temporal_patch_size=2, merge_size=2)
    transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(
            **patches, size={"shortest_edge": 256, "longest_edge": 4096}
        ),
        video_processor=transformers.Qwen3VLVideoProcessor(**patches), tokenizer=tokenizer, chat_template=CHAT,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def picker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CLIP model that reads single letters."""
    folder = tmp_path_factory.mktemp("picker")
    letters = [chr(number) for number in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, merges=[])
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    ends = dict(bos_token_id=len(pieces) - 2, eos_token_id=len(pieces) - 1, pad_token_id=len(pieces) - 1)
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=sizes | ends | dict(vocab_size=len(pieces), max_position_embeddings=77),
        vision_config=sizes | dict(image_size=32, patch_size=8), projection_dim=8,
    )  # fmt: skip
    transformers.CLIPModel(config).save_pretrained(folder)
    squared = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(image_processor=squared, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def local(folder: Path, **template: Any) -> LocalReward:
    model = LocalModel(folder=str(folder), dtype="float32", device="cpu", template=template)
    return LocalReward(model=model, asking=asking("task"))


def test_the_log_odds_are_those_of_the_next_token(judge: Path) -> None:
    verdict = local(judge)(VIDEOS, TEXTS[:3])
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(judge).eval()
    processor = transformers.AutoProcessor.from_pretrained(judge)
    question = next(asking("task").questions(VIDEOS[:1], TEXTS[:1]))
    seen = "<|vision_start|><|image_pad|><|vision_end|>" * 9
    told = f"<|im_start|>user\n{seen}{question.text}<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor(text=[told], images=[Image.fromarray(p) for p in question.pictures], return_tensors="pt")
    with torch.no_grad():
        probabilities = F.softmax(model(**inputs).logits[0, -1].double(), -1)
    spelt = (["yes", "Yes", "\u0120yes", "\u0120Yes"], ["no", "No", "\u0120no", "\u0120No"])
    yes, no = (probabilities[processor.tokenizer.convert_tokens_to_ids(tokens)].sum() for tokens in spelt)
    assert float(verdict.value[0]) == pytest.approx(float((yes / no).log()), abs=1e-5)


def test_video_text_and_template_are_seen(judge: Path) -> None:
    reward, video = local(judge), VIDEOS[:1]
    first = reward(video, TEXTS[:1]).value
    darker = video // 2
    assert torch.equal(first, reward(video, TEXTS[:1]).value)
    for other in (
        reward(darker, TEXTS[:1]),
        reward(video, TEXTS[1:2]),
        local(judge, enable_thinking=False)(video, TEXTS[:1]),
    ):
        assert other.valid.all() and (other.value - first).abs() > 1e-5


def test_a_model_that_breaks_down_has_no_opinion(judge: Path) -> None:
    reward = local(judge)
    with torch.no_grad():
        reward.model._model.lm_head.weight.fill_(float("nan"))
    assert reward(VIDEOS, TEXTS[:3]).reasons == ("not finite",) * 3


def test_pickscore_is_the_scaled_cosine_of_text_and_frames(picker: Path) -> None:
    score = PickScore(folder=str(picker), frames=4, dtype="float32", device="cpu")
    verdict = score(VIDEOS, TEXTS[:3])
    model = transformers.CLIPModel.from_pretrained(picker).eval()
    processor = transformers.CLIPProcessor.from_pretrained(picker)
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in VIDEOS[1][[0, 3, 5, 8]]]
    inputs = processor(text=[TEXTS.instruction[1]], images=pictures, return_tensors="pt", padding=True)
    with torch.no_grad():
        found = model(**inputs)
        cosine = F.cosine_similarity(found.image_embeds, found.text_embeds)
        wanted = float(model.logit_scale.exp() * cosine.mean()) / 26
    assert float(verdict.value[1]) == pytest.approx(wanted, abs=1e-5)
    assert len(set(verdict.value.tolist())) == 3


def test_a_long_instruction_is_cut_short(picker: Path) -> None:
    score = PickScore(folder=str(picker), frames=2, dtype="float32", device="cpu")
    texts = type(TEXTS)(("long",), ("go " * 200,), ("",))
    assert score(VIDEOS[:1], texts).valid.all()


def test_local_judges_work_on_a_bus(judge: Path, picker: Path) -> None:
    rewards = {"task": local(judge), "pick": PickScore(folder=str(picker), frames=2, dtype="float32", device="cpu")}
    direct = {name: reward(VIDEOS, TEXTS[:3]).value for name, reward in rewards.items()}
    bus = RewardBus(rewards={name: Weighted(reward, 1.0) for name, reward in rewards.items()}, max_invalid=0.0)
    scores = bus(VIDEOS, TEXTS[:3])
    for name, value in direct.items():
        assert torch.equal(scores.of(name), value)


def test_a_config_puts_them_together_for_any_data(judge: Path, picker: Path) -> None:
    on_cpu = {"device": "cpu", "dtype": "float32"}
    config = compose(["experiment=wmsd_full", "reward=local", f"reward.model.folder={judge}", "reward.max_invalid=0.0"])
    published = compose(["experiment=wmsd_full", "reward=vlm_pick"]).reward.others
    assert published.pick.weight == 0.225
    pair = compose(["experiment=wmsd_hunyuan15", "reward=vlm_pair"])
    assert sum(pair.reward.weights.values()) + pair.algorithm.distill == pytest.approx(1.0)
    config.module.judges.others = published
    for node, folder in ((config.module.judges.model, judge), (config.module.judges.others.pick.reward, picker)):
        node.update(on_cpu | {"folder": str(folder)})
    check(config)
    bus = instantiate(config.module.judges, _convert_="all")(None)
    scores = bus(VIDEOS, TEXTS[:3])
    bus.close()
    torch.testing.assert_close(scores.of("task"), local(judge)(VIDEOS, TEXTS[:3]).value)
    assert set(scores.names) == {"task", "consistency", "pick"} and bool(scores.valid.all())


def test_no_hub_is_asked_for_a_name(tmp_path: Path) -> None:
    for folder in ("owner/model", str(tmp_path)):
        with pytest.raises(ValueError, match=r"holds no config\.json"):
            local(Path(folder))
        with pytest.raises(ValueError, match=r"holds no config\.json"):
            PickScore(folder=folder, frames=2, dtype="float32", device="cpu")
