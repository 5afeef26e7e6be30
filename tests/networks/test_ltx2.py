"""LTX-2: what diffusers' own transformer is shown, which sound it hears, and what it refuses."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.networks.tiny_diffusers import (
    CHANNELS,
    FLOW,
    FRAMES,
    LENGTH,
    LTX2_SIZES,
    SIDE,
    WIDTH,
    Features,
    ltx2,
    noisy,
    told,
)
from wm_lightning.clip import Condition, Prompt
from wm_lightning.networks.adapters.ltx2 import LTX2
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.prompt import PromptReader
from wm_lightning.networks.state import empty_state
from wm_lightning.sampling.given_levels import GivenLevels
from wm_lightning.sampling.samplers import DDIMSampler, StepList

pytest.importorskip("diffusers.models.transformers.transformer_ltx2")

WHOLE = FrameMask(None)
WORDS = ("[Blue square]: move to the circle", "a hand opens the drawer")


def shown(network: LTX2, condition: Condition, level: float = 0.7) -> tuple[Tensor, dict[str, Any]]:
    """The prediction, and what the transformer was called with."""
    seen: dict[str, Any] = {}
    hook = network.transformer.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    x_t, t = noisy(level)
    with torch.no_grad():
        made, _ = Denoiser(network, FLOW).predict(x_t, t, condition, None, WHOLE)
    hook.remove()
    return made, seen


@pytest.mark.parametrize("patch", [1, 2])
def test_tokens_are_packed_as_the_pipeline_packs_them(patch: int) -> None:
    made, seen = shown(ltx2({"patch_size": patch}), told(*WORDS))
    assert made.shape == (2, FRAMES, CHANNELS, SIDE, SIDE) and bool(made.isfinite().all())
    x_t, side = noisy()[0], SIDE // patch
    cut = x_t.transpose(1, 2).reshape(2, CHANNELS, FRAMES, 1, side, patch, side, patch)
    torch.testing.assert_close(seen["hidden_states"], cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3))
    assert (seen["num_frames"], seen["height"], seen["width"]) == (FRAMES, SIDE, SIDE)


def test_tokens_of_the_given_frame_are_clean_and_at_timestep_0() -> None:
    _, seen = shown(ltx2(), told(*WORDS))
    per_frame = seen["timestep"].unflatten(1, (FRAMES, SIDE**2))
    assert bool((per_frame[:, 0] == 0).all()) and torch.allclose(per_frame[:, 1:], torch.tensor(700.0))
    assert torch.allclose(seen["audio_timestep"], torch.tensor([700.0, 700.0]))
    assert torch.equal(seen["hidden_states"][:, : SIDE**2], noisy()[0][:, 0].flatten(2).transpose(1, 2))


def test_a_given_frame_is_what_it_is_and_steers_the_others() -> None:
    network, condition = ltx2(), told(*WORDS)
    x_t, t = noisy()
    other = torch.cat([x_t[:, :1] + 1, x_t[:, 1:]], dim=1)
    with torch.no_grad():
        x0, changed = (Denoiser(network, FLOW).x0(x, t, condition, None, WHOLE)[0] for x in (x_t, other))
    assert torch.equal(x0[:, 0], x_t[:, 0])
    assert float((changed - x0)[:, 1:].abs().max()) > 1e-3


def test_a_step_is_that_of_the_published_scheduler() -> None:
    """The prediction is noise − x0, with the sign and the levels of diffusers' scheduler."""
    from diffusers.schedulers import FlowMatchEulerDiscreteScheduler  # noqa: PLC0415

    levels = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)
    sampler = DDIMSampler(GivenLevels(steps=8, levels=levels), eta=0.0)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=list(levels))
    times = sampler.levels(FLOW, FRAMES)
    torch.testing.assert_close(times[:, 0], scheduler.sigmas)
    torch.testing.assert_close(FLOW.label(times[:-1, 0]), scheduler.timesteps)
    x, condition, model = noisy()[0], told(*WORDS), Denoiser(ltx2(), FLOW)
    t, t_next = (times[step].expand(2, -1) for step in (5, 6))
    with torch.no_grad():
        said, _ = model.predict(x, t, condition, None, WHOLE)
        x0, _ = model.x0(x, t, condition, None, WHOLE)
    expected = scheduler.step(said, scheduler.timesteps[5], x).prev_sample
    torch.testing.assert_close(sampler.step(FLOW, x, x0, t, t_next, x).sample, expected)


def test_given_levels_are_thinned_and_checked() -> None:
    steps = GivenLevels(steps=4, levels=(1.0, 0.9, 0.6, 0.2))
    assert steps.with_steps(2).levels == (1.0, 0.6)
    with pytest.raises(ValueError, match="5 steps cannot be made of 4 given levels"):
        steps.with_steps(5)
    for levels in ((1.0, 0.5), (1.0, 0.5, 0.5), (1.2, 0.5, 0.1), (1.0, 0.5, 0.0)):
        with pytest.raises(ValueError, match="steps=3 levels, falling from 1"):
            GivenLevels(steps=3, levels=levels)
    assert StepList("matched", 3).times(FLOW)[0] == steps.times(FLOW)[0] == 1


def test_features_are_not_read_as_ids_of_words() -> None:
    network = ltx2(prompt=partial(PromptReader, buckets=64, depth=1, heads=2))
    with pytest.raises(ValueError, match="reads ids of words, found features of .*; set network.prompt=null"):
        shown(network, told(*WORDS))


def test_words_matter_and_padding_does_not() -> None:
    network = ltx2()
    made, other = (shown(network, told(*words))[0] for words in (WORDS, WORDS[::-1]))
    assert float((made - other).abs().max()) > 1e-4
    prompt = Features(WIDTH, LENGTH)(WORDS)
    noise = torch.where(prompt.there[..., None], prompt.tokens, 7.0)
    padded = replace(told(*WORDS), prompt=Prompt(noise, prompt.there))
    torch.testing.assert_close(shown(network, padded)[0], made)


def test_video_and_sound_may_be_told_apart() -> None:
    prompt = Features(WIDTH, LENGTH)(WORDS)
    both = replace(told(*WORDS), prompt=Prompt(torch.cat([prompt.tokens] * 2, dim=-1), prompt.there))
    apart = replace(told(*WORDS), prompt=Prompt(torch.cat([prompt.tokens, prompt.tokens + 1], dim=-1), prompt.there))
    same, other = (shown(ltx2(), condition)[1] for condition in (both, apart))
    assert torch.equal(same["encoder_hidden_states"], prompt.tokens)
    assert torch.equal(other["audio_encoder_hidden_states"], prompt.tokens + 1)
    torch.testing.assert_close(shown(ltx2(), both)[0], shown(ltx2(), told(*WORDS))[0])


def test_the_track_is_noise_of_the_clips_own_level_and_as_long() -> None:
    _, seen = shown(ltx2(), told(*WORDS))
    seconds = ((FRAMES - 1) * 8 + 1) / 24
    assert seen["audio_hidden_states"].shape == (2, round(25 * seconds), 4) and seen["audio_num_frames"] == 18
    quiet = shown(ltx2(), told(*WORDS), level=0.35)[1]["audio_hidden_states"]
    torch.testing.assert_close(2 * quiet, seen["audio_hidden_states"])
    assert torch.equal(seen["audio_hidden_states"][0], seen["audio_hidden_states"][1])


def test_the_tracks_draw_is_heard_unless_video_and_sound_are_isolated() -> None:
    """Through attention to sound; executor and demonstrator are told apart at one draw, so no gap comes of it."""
    found = {
        audio: [shown(ltx2(audio=audio, audio_seed=seed), told(*WORDS))[0] for seed in (0, 1)]
        for audio in ("noise", "isolated")
    }
    assert float((found["noise"][0] - found["noise"][1]).abs().max()) > 1e-5
    assert torch.equal(*found["isolated"])


def test_ids_of_words_may_be_read() -> None:
    reader = partial(PromptReader, buckets=64, depth=1, heads=2)
    tokens, there = torch.randint(64, (2, 8)), torch.ones(2, 8, dtype=torch.bool)
    condition = replace(told(*WORDS), prompt=Prompt(tokens, there))
    made, _ = shown(ltx2(prompt=reader), condition)
    assert bool(made.isfinite().all())
    with pytest.raises(ValueError, match="found ids of words; set network.prompt"):
        shown(ltx2(), condition)


def test_layers_that_run_again_give_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        network = ltx2(gradient_checkpointing=checkpointing)
        x_t, t = noisy()
        Denoiser(network, FLOW).predict(x_t, t, told(*WORDS), None, WHOLE)[0].square().sum().backward()
        found.append(network.transformer.proj_in.weight.grad)
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": 2}, "network.actions=2"),
        ({"height": 5, "architecture": LTX2_SIZES | {"patch_size": 2}}, "cannot be cut into patches of 2"),
        ({"architecture": {"heads": 2}}, "network.architecture describes no LTX2VideoTransformer3DModel"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ltx2(**changes)


def test_what_it_cannot_see_is_refused() -> None:
    network, (x_t, t) = ltx2(), noisy()
    with pytest.raises(ValueError, match="sees a whole clip at once"):
        network(x_t, FLOW.label(t), told(*WORDS), mask=FrameMask(1))
    past = empty_state(2).advanced({"x": x_t}, FRAMES)
    with pytest.raises(ValueError, match="remembers nothing, and 3 frames"):
        network(x_t, FLOW.label(t), told(*WORDS), past, mask=WHOLE)
    with pytest.raises(ValueError, match="features of 32 numbers a token are expected, found 5"):
        network(x_t, FLOW.label(t), told(*WORDS, width=5), mask=WHOLE)
    with pytest.raises(ValueError, match="found no prompt"):
        network(x_t, FLOW.label(t), replace(told(*WORDS), prompt=None), mask=WHOLE)
