"""A causal video UNet sees no future, and remembering changes its cost, never its results."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import other_action
from tests.networks.tiny_unet import BATCH, SHAPE, inputs, tiny_unet
from wm_lightning.clip import Condition, Start
from wm_lightning.networks.conditioning import ActionScales
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask, TeacherForcingMask
from wm_lightning.networks.rerun import Rerun
from wm_lightning.networks.state import State, empty_state, evict
from wm_lightning.networks.video_unet import VideoUNet
from wm_lightning.noising import DynamicRescale, RectifiedFlow, ScaledLinearDiffusion
from wm_lightning.sampling.guidance import Guidance
from wm_lightning.sampling.rollout import Commit, Plan, SeededNoise, rollout
from wm_lightning.sampling.samplers import DDIMSampler, StepList

FRAMES = 7
FRAMEWISE = FrameMask(1)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
KINDS: list[dict[str, Any]] = [
    {}, {"norm_scope": "cumulative"}, {"pad": "replicate"}, {"tokens": None, "start": False, "rate": None},
    {"patch": 2, "multipliers": [1, 1]}, {"action_kind": "table"},
]  # fmt: skip


@torch.no_grad()
def full(network: VideoUNet, frames: int = FRAMES, mask: FrameMask = FRAMEWISE, **changed: Any) -> Tensor:
    x_t, label, given = inputs(frames, dtype=network.stem.weight.dtype)
    return network(changed.get("x_t", x_t), changed.get("label", label), changed.get("given", given), mask=mask)[0]


@torch.no_grad()
def rolled(
    network: VideoUNet, frames: int = FRAMES, *, window: int | None = None, sink: int = 0, step: int = 1
) -> Tensor:
    """Predictions of frame after frame behind a rolling state."""
    x_t, label, given = inputs(frames, dtype=network.stem.weight.dtype)
    state, made = empty_state(BATCH), []
    for first in range(0, frames, step):
        last = min(first + step, frames)
        state = evict(state, window=window, sink=sink, incoming=last - first)
        part = x_t[:, first:last], label[:, first:last], given.frames(first, last)
        prediction, state = network(*part, state, mask=FRAMEWISE)
        made.append(prediction)
    return torch.cat(made, dim=1)


def changes(frame: int) -> dict[str, dict[str, Any]]:
    """Another frame, level or action at one place."""
    x_t, label, given = inputs(FRAMES)
    x_t[:, frame] += 1
    label[:, frame] += 5
    return {"frame": {"x_t": x_t}, "level": {"label": label}, "action": {"given": other_action(given, frame)}}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("what", ["frame", "level", "action"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_future_changes_nothing_and_the_present_does(kind: dict[str, Any], what: str, training: bool) -> None:
    network, frame = tiny_unet(**kind).train(training), 3
    before, after = full(network), full(network, **changes(frame)[what])
    torch.testing.assert_close(after[:, :frame], before[:, :frame], atol=1e-6, rtol=0)
    assert (after[:, frame] - before[:, frame]).abs().max() > 1e-3
    assert (after[:, frame + 1 :] - before[:, frame + 1 :]).abs().max() > 1e-3, "and the frames after it hear of it"


def test_no_gradient_flows_to_the_future() -> None:
    x_t, label, given = inputs(FRAMES)
    x_t.requires_grad_()
    made, _ = tiny_unet()(x_t, label, given, mask=FRAMEWISE)
    [gradient] = torch.autograd.grad(made[:, 3].square().sum(), x_t)
    assert float(gradient[:, 4:].abs().max()) == 0 and (gradient[:, :4].abs().amax((2, 3, 4)) > 0).all()


def test_norms_over_the_clip_leak_the_future() -> None:
    """What pretrained networks do, and the official causal one kept: refused where causality is asked for."""
    network = tiny_unet(norm_scope="clip")
    before, after = full(network), full(network, **changes(5)["frame"])
    assert (after[:, :5] - before[:, :5]).abs().max() > 1e-3
    assert (full(network, 4) - before[:, :4]).abs().max() > 1e-3, "a prefix is another clip"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_prefix_is_computed_as_in_the_whole(kind: dict[str, Any]) -> None:
    network = tiny_unet(**kind)
    x_t, label, given = inputs(FRAMES)
    prefix = full(network, x_t=x_t[:, :4], label=label[:, :4], given=given.frames(0, 4))
    torch.testing.assert_close(prefix, full(network)[:, :4], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_cached_equals_full_forward(kind: dict[str, Any], step: int, dtype: torch.dtype) -> None:
    network = tiny_unet(dtype=dtype, **kind)
    expected = full(network)
    assert expected.std() > 0.1
    torch.testing.assert_close(rolled(network, step=step), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("kind", [{}, {"norm_scope": "cumulative"}], ids=str)
def test_a_window_bounds_attention_and_leaves_convolutions_alone(kind: dict[str, Any], window: int) -> None:
    network = tiny_unet(**kind)
    banded = full(network, mask=FrameMask(1, window=window))
    torch.testing.assert_close(rolled(network, window=window), banded, atol=1e-5, rtol=0)
    assert (banded - full(network)).abs().max() > 1e-3


def test_rerunning_a_window_is_another_function_until_frames_are_dropped() -> None:
    network = tiny_unet()
    again: Any = Rerun(network)
    again.stem = network.stem
    torch.testing.assert_close(rolled(again), rolled(network), atol=1e-5, rtol=0)
    assert (rolled(again, window=3)[:, -1] - rolled(network, window=3)[:, -1]).abs().max() > 1e-3


def test_a_past_is_not_altered_and_takes_gradient_off() -> None:
    network = tiny_unet()
    x_t, label, given = inputs(FRAMES)
    _, state = network(x_t[:, :3], label[:, :3], given.frames(0, 3), mask=FRAMEWISE)
    copy = {name: value.clone() for name, value in {**state.memory, **state.last}.items()}
    network(x_t[:, 3:], label[:, 3:], given.frames(3, FRAMES), state, mask=FRAMEWISE)
    assert all(torch.equal(copy[name], value) for name, value in {**state.memory, **state.last}.items())
    assert not any(value.requires_grad for value in copy.values())
    assert all(value.shape[1] == 3 for value in state.memory.values()) and state.last


@pytest.mark.parametrize("kind", [{}, {"norm_scope": "cumulative"}, {"pad": "replicate"}], ids=str)
def test_one_slot_starts_again_alone(kind: dict[str, Any]) -> None:
    network = tiny_unet(**kind)
    x_t, label, given = inputs(FRAMES)

    def on(state: State, first: int, last: int) -> tuple[Tensor, State]:
        return network(x_t[:, first:last], label[:, first:last], given.frames(first, last), state, mask=FRAMEWISE)

    with torch.no_grad():
        _, state = on(empty_state(BATCH), 0, 3)
        expected, _ = on(state, 3, FRAMES)
        fresh, _ = on(empty_state(BATCH), 3, FRAMES)
        state = state.reset(torch.tensor([False, True]))
        one, state = on(state, 3, 4)
        rest, _ = on(state, 4, FRAMES)
    mixed = torch.cat([one, rest], dim=1)
    torch.testing.assert_close(mixed[0], expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[1], fresh[1], atol=1e-5, rtol=0)
    assert (expected[1] - fresh[1]).abs().max() > 1e-3


def test_gradient_checkpointing_changes_no_gradient() -> None:
    x_t, label, given = inputs(4)
    gradients = []
    for saving in (False, True):
        network = tiny_unet(gradient_checkpointing=saving)
        network(x_t, label, given, mask=FRAMEWISE)[0].square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_frames_are_given_their_own_image_tokens() -> None:
    network, (_, _, given) = tiny_unet(), inputs(5)
    assert given.start is not None and given.start.image is not None
    image = given.start.image.clone()
    image[:, 16:32] += 1  # the group of frame 1
    other = replace(given, start=replace(given.start, image=image))
    difference = (full(network, 5) - full(network, 5, given=other)).abs().amax((0, 2, 3, 4))
    assert difference[0] == 0 and (difference[1:] > 1e-4).all()
    image = given.start.image.clone()
    image[:, 32:] += 1  # the last group: of frame 2 and of all beyond it
    last = full(network, 5, given=replace(given, start=replace(given.start, image=image)))
    difference = (full(network, 5) - last).abs().amax((0, 2, 3, 4))
    assert (difference[:2] == 0).all() and (difference[2:] > 1e-4).all()


def test_tokens_by_the_length_of_the_clip_leave_nothing_to_remember() -> None:
    """The official ones: each frame its own where there are as many frames as groups, else all of them."""
    network, (x_t, label, given) = tiny_unet(image_groups="official"), inputs(3)
    assert (full(network, 3)[:, :2] - full(network, 2)).abs().max() > 1e-4, "a prefix has other tokens"
    assert not network.remembers and tiny_unet(image_groups="official", tokens=None).remembers
    _, past = network(x_t, label, given, mask=FRAMEWISE)
    with pytest.raises(ValueError, match="nothing to remember: use Rerun"):
        network(x_t, label, given, past, mask=FRAMEWISE)


def test_image_tokens_come_in_groups_of_the_size_that_makes_them() -> None:
    network, given = tiny_unet(), inputs(2)[2]
    assert given.start is not None and given.start.image is not None
    tokens = given.start.image
    own = network._image_tokens(tokens, torch.zeros(2, dtype=torch.long), 3)
    assert torch.equal(own, tokens.unflatten(1, (3, 16)))
    network.group = 8
    assert torch.equal(
        network._image_tokens(tokens, torch.ones(2, dtype=torch.long), 2), tokens.unflatten(1, (6, 8))[:, 1:3]
    )
    network.group = 5
    with pytest.raises(ValueError, match="48 image tokens are no groups of 5"):
        network._image_tokens(tokens, torch.zeros(2, dtype=torch.long), 3)
    every = tiny_unet(image_groups="all")._image_tokens(tokens[:, :7], torch.zeros(2, dtype=torch.long), 3)
    assert torch.equal(every, tokens[:, None, :7].expand(-1, 3, -1, -1))


def test_dropped_is_not_no_action() -> None:
    network, (_, _, given) = tiny_unet(), inputs(FRAMES)
    assert network.action is not None
    embedded = network.action(given.null())
    assert float(embedded.abs().max()) == 0
    none = replace(given, state=torch.ones_like(given.state))
    assert (network.action(none).std(dim=1) == 0).all() and float(network.action(none).abs().max()) > 1e-3
    assert torch.equal(full(network, given=given.null([2])), full(network, given=other_action(given, 2).null([2])))


def test_a_bidirectional_network_is_run_again_and_remembers_nothing() -> None:
    network = tiny_unet(causal=False, norm_scope="clip")
    denoiser = Denoiser(network, RectifiedFlow(prediction="velocity", loss_sigma_floor=0.05, label_scale=1.0))
    x_t, label, given = inputs(FRAMES)
    mask = FrameMask(None)
    with torch.no_grad():
        past = denoiser.remember(x_t[:, :1], label[:, :1], given.frames(0, 1), None, mask)
        made, _ = denoiser.predict(x_t[:, 1:], label[:, 1:], given.frames(1, FRAMES), past, mask)
    torch.testing.assert_close(made, full(network, mask=mask)[:, 1:])


def test_teacher_forcing_is_refused_for_convolutions_would_see_ahead() -> None:
    """A clean copy ends with frames that lie ahead of the noisy first one, and convolutions know no mask."""
    network, (x_t, label, given) = tiny_unet(), inputs(FRAMES)
    with torch.no_grad():
        _, past = network(x_t, 0 * label, given, mask=FRAMEWISE)
    assert not network.teacher_forcing
    with pytest.raises(ValueError, match="no teacher forcing with convolutions along time"):
        network(x_t, label, given, past, mask=TeacherForcingMask(1))


def test_what_cannot_be_is_refused() -> None:
    x_t, label, given = inputs(2)
    with pytest.raises(ValueError, match="framewise"):
        tiny_unet()(x_t, label, given, mask=FrameMask(None))
    with pytest.raises(ValueError, match="bidirectional"):
        tiny_unet(causal=False)(x_t, label, given, mask=FRAMEWISE)
    with pytest.raises(ValueError, match="begun"):
        tiny_unet()(x_t, label, Condition(given.actions, given.state), mask=FRAMEWISE)
    with pytest.raises(ValueError, match="Rerun"):
        network = tiny_unet(norm_scope="clip")
        network(x_t, label, given, network(x_t, label, given, mask=FRAMEWISE)[1], mask=FRAMEWISE)
    with pytest.raises(ValueError, match="multiples of 2"):
        tiny_unet(height=7)


def test_tokens_are_asked_for_by_name() -> None:
    x_t, label, given = inputs(2)
    assert given.start is not None
    for lacking in ({"image": None}, {"text": None}):
        condition = replace(given, start=replace(given.start, **lacking))
        with pytest.raises(ValueError, match=r"network\.tokens=6, and the start has none; encoders=openclip"):
            tiny_unet()(x_t, label, condition, mask=FRAMEWISE)


def test_the_start_is_the_first_given_frame_and_is_kept() -> None:
    network, (x_t, _, given) = tiny_unet(tokens=None), inputs(3)
    bare = Condition(given.actions, given.state)
    begun = network.begun(x_t, bare)
    assert begun.start is not None and torch.equal(begun.start.latent, x_t[:, :1])
    assert network.begun(x_t + 1, begun) is begun
    nothing = network.begun(x_t[:, :0], bare)
    assert nothing.start is not None and nothing.start.latent.shape == (BATCH, 1, *SHAPE)
    assert tiny_unet(start=False).begun(x_t, bare) is bare
    joined = Condition.cat([begun, begun])
    assert joined.start is not None and len(joined.start.latent) == 2 * BATCH
    assert isinstance(begun[:1].start, Start) and len(begun[:1].start.latent) == 1


@torch.no_grad()
def test_the_bypass_adds_frame_and_start_weighed_by_the_level() -> None:
    network, (x_t, label, given) = tiny_unet(tokens=None, rate=None), inputs(FRAMES)
    assert network.bypass is not None and given.start is not None
    network.bypass.weigh.weight.zero_()
    network.bypass.weigh.bias.copy_(torch.tensor([2.0] * SHAPE[0] + [-1.0] * SHAPE[0]))
    without = tiny_unet(tokens=None, rate=None, bypass=False)
    without.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("bypass")})
    made, bare = (net(x_t, label, given, mask=FRAMEWISE)[0] for net in (network, without))
    torch.testing.assert_close(made - bare, 2 * x_t - given.start.latent, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("drop", ["newest", "all"])
@pytest.mark.parametrize("kind", [{}, {"norm_scope": "cumulative"}], ids=str)
def test_a_guided_rollout_remembers_as_one_that_runs_all_again(kind: dict[str, Any], drop: str) -> None:
    """Both branches, faint history and eta = 1 included; a window that holds every frame is none."""
    network, (x_t, _, given) = tiny_unet(dtype=torch.float64, **kind), inputs(5, dtype=torch.float64)
    path = ScaledLinearDiffusion(
        prediction="v", loss_sigma_floor=0.05, steps=1000, start=0.00085, end=0.012, zero_terminal_snr=True,
        rescale=DynamicRescale(floor=0.7, steps=400),
    )  # fmt: skip
    plan = Plan(1, FRAMEWISE, None, 0, Commit("noised", 0.04), Guidance(2.5, drop, 0.7, "new"))
    sampler = DDIMSampler(StepList("uniform", 2), eta=1.0)

    def made(plan: Plan) -> Tensor:
        def noise(*asked: Any) -> Tensor:
            return SeededNoise(0, "test", (4, 9))(*asked).double()

        return rollout(Denoiser(network, path), sampler, x_t[:, :2], given, plan, noise)

    cached = made(plan)
    torch.testing.assert_close(cached, made(replace(plan, rerun=True)), atol=1e-9, rtol=0)
    assert torch.equal(cached, made(plan)) and torch.equal(cached, made(replace(plan, window=5)))
    assert torch.equal(cached[:, :2], x_t[:, :2])
    assert (cached - made(replace(plan, guidance=None)))[:, 2:].abs().max() > 1e-3
    given = other_action(given, 3)
    changed = made(plan)
    assert torch.equal(changed[:, :3], cached[:, :3]), "what comes later moves nothing before it"
    assert (changed[:, 3] - cached[:, 3]).abs().max() > 1e-6


def test_actions_multiply_channels_and_nothing_at_first() -> None:
    torch.manual_seed(0)
    scales = ActionScales(8, {"down.0.res": 4, "up.1.res": 6})
    told = torch.randn(2, 3, 8)
    assert all(bool((value == 1).all()) for value in scales(told).values())
    assert {name: tuple(value.shape) for name, value in scales(told).items()} == {
        "down.0.res": (2, 3, 4, 1, 1), "up.1.res": (2, 3, 6, 1, 1),
    }  # fmt: skip
    network, (x, label, given) = tiny_unet(tokens=None, rate=None), inputs(frames=2)
    assert network.action_scales is not None
    with torch.no_grad():
        before = network(x, label, given, mask=FrameMask(1))[0]
        for parameter in network.action_scales.parameters():
            parameter.zero_()
        after = network(x, label, given, mask=FrameMask(1))[0]
    plain = tiny_unet(tokens=None, rate=None, action_scales=False)
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("action_scales")})
    with torch.no_grad():
        torch.testing.assert_close(after, plain(x, label, given, mask=FrameMask(1))[0])
    assert float((before - after).abs().max()) > 1e-3, "no block is multiplied"
