"""HunyuanVideo 1.5: what diffusers' own transformer is shown of given frames, words and the picture."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.networks.tiny_diffusers import CHANNELS, FLOW, FRAMES, LENGTH, SIDE, WIDTH, Features, hunyuan15, noisy, told
from wm_lightning.clip import Condition, Prompt, Start
from wm_lightning.networks.adapters.hunyuan15 import Hunyuan15
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.prompt import PromptReader
from wm_lightning.sampling.samplers import StepList

pytest.importorskip("diffusers.models.transformers.transformer_hunyuan_video15")

WHOLE = FrameMask(None)
WORDS = ("[Blue square]: move to the circle", "a hand opens the drawer")


def shown(
    network: Hunyuan15, condition: Condition, x_t: Tensor | None = None, level: float = 0.7
) -> tuple[Tensor, dict[str, Any]]:
    """The prediction, and what the transformer was called with."""
    seen: dict[str, Any] = {}
    hook = network.transformer.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    clip, t = noisy(level)
    with torch.no_grad():
        made, _ = Denoiser(network, FLOW).predict(clip if x_t is None else x_t, t, condition, None, WHOLE)
    hook.remove()
    return made, seen


def test_channels_are_latents_given_frames_and_where_they_are() -> None:
    made, seen = shown(hunyuan15(), told(*WORDS))
    assert made.shape == (2, FRAMES, CHANNELS, SIDE, SIDE) and bool(made.isfinite().all())
    latents, clean, marked = seen["hidden_states"].transpose(1, 2).split([CHANNELS, CHANNELS, 1], dim=2)
    x_t = noisy()[0]
    assert torch.equal(latents[:, 1:], x_t[:, 1:])
    assert torch.equal(clean[:, 0], x_t[:, 0]) and not bool(clean[:, 1:].any())
    assert bool((marked[:, 0] == 1).all()) and not bool(marked[:, 1:].any())
    assert torch.allclose(seen["timestep"], torch.tensor([700.0, 700.0]))


def test_the_given_frame_is_shown_under_noise_of_the_clips_level() -> None:
    """As the pipeline does, whose latents are all noisy; the noise is one draw."""
    found = [shown(hunyuan15(), told(*WORDS), level=level)[1]["hidden_states"] for level in (0.7, 1.0)]
    noise = found[1][:, :CHANNELS, 0]
    torch.testing.assert_close(found[0][:, :CHANNELS, 0], 0.3 * noisy()[0][:, 0] + 0.7 * noise)
    assert torch.equal(noise[0], noise[1]) and 0.7 < float(noise.std()) < 1.3
    other = shown(hunyuan15(given_seed=1), told(*WORDS), level=1.0)[1]["hidden_states"]
    assert not torch.equal(other[:, :CHANNELS, 0], noise) and torch.equal(other[:, CHANNELS:], found[1][:, CHANNELS:])


def test_a_given_frame_is_what_it_is_and_steers_the_others() -> None:
    network, condition = hunyuan15(), told(*WORDS)
    x_t, t = noisy()
    other = torch.cat([x_t[:, :1] + 1, x_t[:, 1:]], dim=1)
    with torch.no_grad():
        x0, changed = (Denoiser(network, FLOW).x0(x, t, condition, None, WHOLE)[0] for x in (x_t, other))
    assert torch.equal(x0[:, 0], x_t[:, 0])
    assert float((changed - x0)[:, 1:].abs().max()) > 1e-3


def test_levels_are_those_of_the_published_scheduler() -> None:
    from diffusers.schedulers import FlowMatchEulerDiscreteScheduler  # noqa: PLC0415

    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(sigmas=[1 - step / 10 for step in range(10)])
    times = StepList("matched", 10, 5.0).times(FLOW)
    torch.testing.assert_close(times, scheduler.sigmas)
    torch.testing.assert_close(FLOW.label(times[:-1]), scheduler.timesteps)


def test_words_and_glyphs_are_told_apart_and_padding_does_not_matter() -> None:
    prompt = Features(WIDTH, LENGTH)(WORDS)
    there = prompt.there.clone()
    there[:, 10:] = torch.tensor([[True, False], [False, False]])
    condition = replace(told(*WORDS), prompt=Prompt(prompt.tokens, there))
    made, seen = shown(hunyuan15(), condition)
    assert torch.equal(seen["encoder_hidden_states"], prompt.tokens[:, :10])
    assert torch.equal(seen["encoder_hidden_states_2"], prompt.tokens[:, 10:, :8])
    assert torch.equal(seen["encoder_attention_mask_2"], there[:, 10:])
    noise = torch.where(there[..., None], prompt.tokens, 7.0)
    padded = replace(condition, prompt=Prompt(noise, there))
    torch.testing.assert_close(shown(hunyuan15(), padded)[0], made, atol=1e-5, rtol=1e-4)
    other = replace(condition, prompt=Prompt(prompt.tokens.flip(0), there))
    assert float((shown(hunyuan15(), other)[0] - made).abs().max()) > 1e-5


def test_the_pictures_tokens_are_those_given_else_those_of_the_first_frame() -> None:
    network, condition = hunyuan15(), told(*WORDS)
    made, seen = shown(network, condition)
    assert seen["image_embeds"].shape == (2, 4, 12)
    tokens = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    given = replace(condition, start=Start(noisy()[0][:, :1], image=tokens))
    other, seen = shown(network, given)
    assert torch.equal(seen["image_embeds"], tokens) and float((other - made).abs().max()) > 1e-5
    assert torch.equal(shown(hunyuan15(image=None), given)[1]["image_embeds"], tokens)
    zeros = replace(condition, start=Start(noisy()[0][:, :1], image=torch.zeros(2, 5, 12)))
    for condition, found in ((zeros, "zeros"), (told(*WORDS), "none")):
        with pytest.raises(ValueError, match=f"needs tokens of the picture, found {found}"):
            shown(hunyuan15(image=None), condition)


def test_ids_of_words_may_be_read() -> None:
    reader = partial(PromptReader, buckets=64, depth=1, heads=2)
    tokens, there = torch.randint(64, (2, 8)), torch.ones(2, 8, dtype=torch.bool)
    made, seen = shown(hunyuan15(prompt=reader), replace(told(*WORDS), prompt=Prompt(tokens, there)))
    assert bool(made.isfinite().all())
    assert seen["encoder_hidden_states"].shape == (2, 9, WIDTH) and seen["encoder_hidden_states_2"].shape[1] == 0


def test_layers_that_run_again_give_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        network = hunyuan15(gradient_checkpointing=checkpointing)
        x_t, t = noisy()
        Denoiser(network, FLOW).predict(x_t, t, told(*WORDS), None, WHOLE)[0].square().sum().backward()
        found.append(network.transformer.x_embedder.proj.weight.grad)
    torch.testing.assert_close(found[0], found[1])


def test_what_it_cannot_see_is_refused() -> None:
    network, (x_t, t) = hunyuan15(), noisy()
    with pytest.raises(ValueError, match="sees a whole clip at once"):
        network(x_t, FLOW.label(t), told(*WORDS), mask=FrameMask(1))
    levels = torch.tensor([0.0, 0.7, 0.3]).expand(2, -1)
    with pytest.raises(ValueError, match="one noise level for all frames"):
        network(x_t, FLOW.label(levels), told(*WORDS), mask=WHOLE)
    with pytest.raises(ValueError, match="the last 2 are glyphs, has no words"):
        network(x_t, FLOW.label(t), told("", ""), mask=WHOLE)
    with pytest.raises(ValueError, match="network.actions=2"):
        hunyuan15(actions=2)
    with pytest.raises(ValueError, match="cannot be cut into patches of 2"):
        hunyuan15({"patch_size": 2}, height=5)
