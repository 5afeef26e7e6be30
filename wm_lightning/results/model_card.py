"""The page that goes with shared weights (README.md of a model hub): what they are, were trained by, measured at."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wm_lightning.card import Card, mask_name
from wm_lightning.clip import ActionSpec
from wm_lightning.results.results import Results
from wm_lightning.results.table import grid, markdown

WHAT = {
    "teacher": "a teacher: it takes many steps, and students of few steps can be distilled from it",
    "student": "a student of few steps, distilled from a teacher of many",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page says beside the card: the run's `name` and `seed`, `pixels` (height, width) of a frame.

    `steps` are denoising steps per chunk of `chunk` frames, `window` how many frames are remembered (None: all).
    `results` are the run's own, with `unmeasured` the reason where there are none. `film` names the GIF beside the
    page. `license` None leaves it to whoever publishes.
    """

    card: Card
    name: str
    seed: int
    pixels: tuple[int, int]
    context: int
    steps: int
    chunk: int
    window: int | None
    versions: Mapping[str, Any]
    results: Results | None
    unmeasured: str
    film: str | None
    license: str | None

    @property
    def simulated(self) -> bool:
        """Were the data simulated?"""
        return self.card.data.startswith("simulated-")

    @property
    def frames(self) -> int:
        """Length of the example's video: that of the clips in training."""
        return max(int(self.card.trained_for.get("frames") or 0), self.context + 1)


def model_card(page: Page) -> str:
    """The whole page: YAML front matter, then Markdown."""
    film = "" if page.film is None else f"![rollouts]({page.film})\n\n*Grey borders: given frames; others are made.*"
    parts = [
        _front_matter(page), f"# {page.name}: a {page.card.kind} of {page.card.data}", _what(page), film,
        "## Use", _use(page), "## Actions", _actions(page), "## Training", _training(page), "## Measured",
        _measured(page), "## Limits", _limits(page), "## License", _license(page),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(page: Page) -> str:
    own = "# license: none was chosen; fill it in before you publish" if page.license is None else None
    tags = ["world-model", "action-conditioned", "video-generation", "diffusion", page.card.kind]
    tags += ["simulated-data"] if page.simulated else []
    lines = ["library_name: wm_lightning", own or f"license: {page.license}", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---"])


def _what(page: Page) -> str:
    height, width = page.pixels
    # Where all frames are made at once, a chunk is longer than any clip.
    chunk = min(page.chunk, page.frames - page.context)
    given = "one given frame" if page.context == 1 else f"{page.context} given frames"
    return (
        f"An action-conditioned video world model: from {given} and an action for every frame it makes RGB video of "
        f"{height} x {width} pixels, {chunk} frame{'s' * (chunk > 1)} at a time, each time in {page.steps} denoising "
        f"step{'s' * (page.steps > 1)}. This is {WHAT[page.card.kind]}."
    )


def _use(page: Page) -> str:
    height, width = page.pixels
    spec = ActionSpec.from_dict(page.card.action_spec)
    shape = f"1, {page.frames}, {spec.dim}"
    zero = all(low <= 0 <= high for low, high in zip(spec.low, spec.high, strict=True))
    actions = f"torch.zeros({shape})" if zero else f"torch.tensor(model.spec.low).expand({shape})"
    given = f"torch.zeros(1, {page.context}, 3, {height}, {width}, dtype=torch.uint8)"
    autoencoder = "" if page.card.autoencoder.get("kind", "patch") in ("patch", "pixel") else ", autoencoder=..."
    return f"""```python
import torch
from wm_lightning.pretrained import from_pretrained

model = from_pretrained("FOLDER"{autoencoder})  # or its hub id, "USER/NAME"
first = {given}  # put a picture here
actions = {actions}  # actions[:, f] leads to frame f
video = model.generate(first, actions, seed=0)  # uint8 [1, {page.frames}, 3, {height}, {width}], given frames first
```"""


def _actions(page: Page) -> str:
    spec = ActionSpec.from_dict(page.card.action_spec)
    kind = "numbers" if spec.kind == "continuous" else "choices: 1 where one is made, 0 where not"
    rows = [[f"`{n}`", f"{low:g}", f"{high:g}"] for n, low, high in zip(spec.names, spec.low, spec.high, strict=True)]
    shift = page.card.action_shift
    stored = "with the frame it leads to" if shift == 0 else f"{shift} frame{'s' * (shift > 1)} before it"
    return (
        f"{spec.dim} columns, {kind}; what lies out of its bounds is refused. `actions[:, f]` is the action that led "
        f"to frame f; in the recordings it stands {stored}.\n\n"
        + grid(["column", "lowest", "highest"], rows, left=(0,))
    )


def _training(page: Page) -> str:
    card = page.card
    versions = ", ".join(f"{name} {version}" for name, version in page.versions.items())
    said = {
        "command": f"`{card.command}`" if card.command else "not recorded",
        "commit": f"`{card.revision}`" if card.revision else "not recorded",
        "config": f"`{card.config_hash}`, seed {page.seed}",
        "data": f"{card.data} ({'simulated' if page.simulated else 'real recordings'})",
        "iterations": f"{card.iterations}",
        "masks": ", ".join(mask_name(chunk) for chunk in card.trained_for["chunks"]),
        "clips": f"{card.trained_for.get('frames') or 'not recorded'} frames, {page.context} given",
        "taught by": f"the teacher `{str(card.trained_for['teacher'])[:12]}`" if "teacher" in card.trained_for else "",
        "versions": versions or "not recorded",
    }
    return grid(["", ""], [[key, value] for key, value in said.items() if value], left=(0, 1))


def _measured(page: Page) -> str:
    if page.results is None:
        return _of_the_card(page) if page.card.metrics else f"Nothing is claimed: {page.unmeasured}."
    # The page has a title of its own, and its sections are one level up.
    body = markdown(page.results, None).split("\n\n", 1)[1].rstrip()
    row = page.results.deployed_row
    own = "" if row is None else f"This network is the row `{row.name}` at {row.steps} steps. "
    return f"{own}Measured by the run itself, with weights in bfloat16.\n\n" + re.sub(
        r"^## ", "### ", body, flags=re.MULTILINE
    )


def _of_the_card(page: Page) -> str:
    values = {name: f"{v:.4g}" if isinstance(v, float) else f"{v}" for name, v in page.card.metrics.items()}
    return (
        f"There is no table: {page.unmeasured}. The file's own card says of this network, used as it was trained:\n\n"
        + grid(["", ""], [[name, text] for name, text in values.items()], left=(0,))
    )


def _limits(page: Page) -> str:
    height, width = page.pixels
    most = page.card.trained_for.get("frames")
    lines: Sequence[str] = [
        f"It knows what its data show ({page.card.data}) and nothing else"
        + ("; they are simulated, so it says nothing about real recordings." if page.simulated else "."),
        f"Frames are {height} x {width} pixels; pictures of another size are refused.",
        f"It remembers the last {page.window} frames at most; what left its sight is made up anew."
        if page.window is not None
        else f"Videos have {most or 'as many'} frames at most, as in training.",
        "What a video's first frame was led to by is not known to it.",
        "Errors add up over a long rollout; nothing here says how long a video stays true beyond what is measured.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _license(page: Page) -> str:
    if page.license is None:
        return (
            "None was chosen. Whoever publishes this folder fills in `license:` at the top and here, in keeping with "
            "the license of the data."
        )
    return f"{page.license}."
