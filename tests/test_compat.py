"""compat=official: what it restores of Vid2World's code, each against the formula, and nothing else."""

import pytest
import torch
from hydra.utils import instantiate

from tests.networks.tiny import randn
from tests.networks.tiny_unet import tiny_unet
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.config_errors import ConfigError
from wm_lightning.config_record import flat, plain
from wm_lightning.networks.causal import Transfer, extrapolative
from wm_lightning.networks.video_unet import Head
from wm_lightning.noising import DynamicRescale, RectifiedFlow, ScaledLinearDiffusion
from wm_lightning.sampling.guidance import Guidance
from wm_lightning.sampling.rollout import Commit

OFFICIAL = {
    "network.norm_scope": ("frame", "clip"), "network.head_height_causal": (False, True),
    "network.image_groups": ("frame", "official"), "rollout.rerun": (False, True),
    "rollout.commit.rescaled": (True, False), "rollout.guidance.scope": ("new", "window"),
    "data.first_action": ("stored", "none"),
}  # fmt: skip
# The same values where a module refers to them.
FOLLOWS = {"module.network.": "network.", "module.plan.": "rollout.", "module.start.module.network.": "network.",
           "module.start.module.plan.": "rollout."}  # fmt: skip


# Networks of the published size have none of these anyway, and their history is noised.
NARROW: dict[str, tuple[object, object]] = {
    "network.bypass": (True, False), "network.action_scales": (True, False),
    "rollout.commit.mode": ("clean", "noised"), "rollout.commit.t": (0.0, 0.04),
}  # fmt: skip


@pytest.mark.parametrize(("more", "narrow"), [([], NARROW), (["size=paper", "data=rt1"], {})], ids=str)
def test_exactly_these_keys_change(more: list[str], narrow: dict[str, tuple[object, object]]) -> None:
    configs = [compose(["experiment=vid2world", *more, *words]) for words in ([], ["compat=official"])]
    for config in configs:
        check(config)
    before, after = (flat(plain(config)) for config in configs)
    changed = {key: (before[key], after[key]) for key in before if key != "run_dir" and before[key] != after[key]}
    expected = OFFICIAL | narrow
    for place, root in FOLLOWS.items():
        own = (OFFICIAL | narrow).items()
        expected |= {place + key.removeprefix(root): value for key, value in own if key.startswith(root)}
    expected["module.transfer.head_height"] = (False, True)
    assert changed == expected and before.keys() == after.keys()


@pytest.mark.parametrize("name", ["vid2world", "vid2world_nag", "vid2world_scratch"])
def test_its_rollout_can_be_built_for_every_published_kind(name: str) -> None:
    plan = instantiate(compose([f"experiment={name}", "compat=official"]).rollout, _convert_="all")
    assert plan.rerun and plan.guidance == Guidance(1.0 if name == "vid2world_nag" else 2.5, "newest", 0.7, "window")


def test_without_guidance_there_is_none_to_change() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.guidance has no _target_; .*rollout\.guidance=null"):
        check(compose(["experiment=vid2world_dmd", "compat=official"]))
    check(compose(["experiment=vid2world_dmd", "compat=official", "rollout.guidance=null"]))


def test_its_base_is_still_bidirectional_with_a_head_of_every_row() -> None:
    config = compose(["experiment=vid2world", "compat=official"])
    first = config.module.start.network
    assert (first.causal, first.norm_scope, first.head_height_causal) == (False, "clip", False)
    assert (config.rollout.window, config.rollout.commit.t) == (10, 0.04)


def test_unscaled_history_is_noised_by_the_schedule_alone() -> None:
    """Index 39: h = sqrt(cumulative alpha) z + sqrt(1 - cumulative alpha) e, where training shows 0.971 z."""
    path = ScaledLinearDiffusion(
        prediction="v", loss_sigma_floor=0.05, steps=1000, start=0.00085, end=0.012, zero_terminal_snr=True,
        rescale=DynamicRescale(floor=0.7, steps=400),
    )  # fmt: skip
    z, noise = (randn(2, 3, 4, 4, 4, seed=seed, dtype=torch.float64) for seed in (0, 1))
    cumulative = path.alphas_cumprod[1:][39]
    formula = cumulative.sqrt() * z + (1 - cumulative).sqrt() * noise
    shown, t = Commit("noised", 0.04, rescaled=False).inputs(path, z, lambda: noise)
    torch.testing.assert_close(shown, formula, atol=1e-12, rtol=0)
    assert bool((path.label(t) == 39).all())
    trained, _ = Commit("noised", 0.04).inputs(path, z, lambda: noise)
    factor = 1 - 0.3 * 39 / 399
    torch.testing.assert_close(trained, formula - (1 - factor) * cumulative.sqrt() * z, atol=1e-12, rtol=0)
    # A path that shrinks nothing is the same either way.
    flow = RectifiedFlow(prediction="velocity", loss_sigma_floor=0.05, label_scale=1.0)
    both = [Commit("noised", 0.04, rescaled=scaled).inputs(flow, z, lambda: noise)[0] for scaled in (True, False)]
    assert torch.equal(*both)


@pytest.mark.parametrize("causal", [True, False])
def test_a_head_that_is_causal_in_height_sees_no_row_below(causal: bool) -> None:
    head = Head(4, 3, groups=1, height_causal=causal)
    torch.nn.init.normal_(head.conv.weight)
    # Without the norm, which mixes all rows.
    head.norm = torch.nn.Identity()  # type: ignore[assignment]
    x, row = randn(1, 4, 8, 5, seed=0), 4
    other = x.clone()
    other[:, :, row] += 1
    change = (head(other) - head(x)).abs().amax((0, 1, 3))
    seen = [place for place, value in enumerate(change.tolist()) if value > 1e-6]
    assert seen == ([4, 5, 6] if causal else [3, 4, 5])


def test_the_heads_rows_are_transferred_as_frames_are() -> None:
    weights = tiny_unet(causal=False).state_dict()
    plain_way, official = (Transfer("extrapolative", 2, head_height=head).weights(weights) for head in (False, True))
    assert [name for name in weights if not torch.equal(plain_way[name], official[name])] == ["head.conv.weight"]
    theirs = weights["head.conv.weight"]
    assert torch.equal(official["head.conv.weight"], extrapolative(theirs, 2))
    # Exact where the image is affine in height.
    rows = torch.arange(8.0)[None, None, :, None].expand(1, theirs.shape[1], 8, 6) * 0.1 + 0.3
    centred = torch.nn.functional.conv2d(rows, theirs)
    causal = torch.nn.functional.conv2d(rows, official["head.conv.weight"])
    # Of the row r the one reads r..r+2 about r+1, the other r..r+2 for r+2.
    torch.testing.assert_close(causal[:, :, :-1], centred[:, :, 1:], atol=1e-5, rtol=1e-4)
