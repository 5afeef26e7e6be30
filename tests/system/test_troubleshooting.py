"""What docs/troubleshooting.md quotes is said somewhere in the code, and what it names is there to be set."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from tests.system.server import ROOT
from wm_lightning.config import CONFIG_DIR, compose

PAGES = [ROOT / "docs/troubleshooting.md", ROOT / "docs/extending.md"]
TEXT = PAGES[0].read_text()
QUOTES = re.findall(r"^> (.+)$", TEXT, re.MULTILINE)
GAP = "…"
NODES = ("callbacks", "trainer", "data", "module", "rollout", "reward", "algorithm", "compute", "task", "metrics")
# Configs that have between them all keys the page names.
CONFIGS = (
    ["experiment=dmd_chunkwise", "data=rt1"],
    ["experiment=teacher"],
    ["experiment=wmsd_full"],
    ["experiment=vid2world"],
    ["task=rollout"],
    ["task=bench"],
)


@cache
def said() -> tuple[str, ...]:
    """All texts of the package, with a gap for every value that is put in."""
    found: list[str] = []
    for path in (ROOT / "wm_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr | ast.Constant | ast.BinOp):
                found.append(re.sub(r"%[-\d.]*[a-z]", GAP, written(node)))
    return tuple(text for text in found if text.strip(GAP + " "))


def written(node: ast.AST) -> str:
    """The text of a literal; nothing of other constants."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) if isinstance(part, ast.Constant) else _named(part) for part in node.values)
    return written(node.left) + written(node.right) if isinstance(node, ast.BinOp) else ""


def _named(part: ast.AST) -> str:
    """A value put in; `{value=}` is one of these with its name before it, which Python made a constant already."""
    return GAP if isinstance(part, ast.FormattedValue) else ""


def parts(quote: str) -> list[str]:
    return [part for piece in quote.split(GAP) if (part := piece.strip()) and len(part) > 1]


def stands_in(pieces: list[str], text: str) -> bool:
    """Whether the pieces occur in the text, in this order."""
    place = 0
    for piece in pieces:
        if (place := text.find(piece, place)) < 0:
            return False
        place += len(piece)
    return True


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_is_the_codes_own(quote: str) -> None:
    pieces = parts(quote)
    assert max(map(len, pieces)) >= 12, "too little is quoted to be found in a log"
    assert any(stands_in(pieces, text) for text in said()), f"nothing in the code says {quote!r}"


def test_the_page_quotes_enough_and_the_check_can_fail() -> None:
    assert len(QUOTES) > 25 and len(set(QUOTES)) == len(QUOTES)
    assert not any(stands_in(parts("… was never told … of anything"), text) for text in said())


@pytest.fixture(scope="module")
def configs() -> list[DictConfig]:
    return [compose(words) for words in CONFIGS]


def settings(page: Path) -> list[tuple[str, str]]:
    """Keys with the values given to them, and keys alone, as the page has them in code between backticks."""
    code = [word for span in re.findall(r"`([^`]+)`", without_blocks(page.read_text())) for word in span.split()]
    pairs = [re.fullmatch(r"'?([a-z_]+(?:[.@][a-z_]+)*)=([^=]*?)'?", word) for word in code]
    dotted = [re.fullmatch(rf"((?:{'|'.join(NODES)})\.[a-z_.]+)", word) for word in code]
    return [(m[1], m[2]) for m in pairs if m] + [(m[1], "") for m in dotted if m and not m[1].endswith(".py")]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def has(config: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(config, DictConfig) or part not in config:
            return False
        config = config._get_node(part)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_exists(page: Path, configs: list[DictConfig]) -> None:
    found = settings(page)
    assert len(found) > (30 if page == PAGES[0] else 2)
    for key, value in found:
        group = CONFIG_DIR / key
        grid = ROOT / "sweeps" / key
        if group.is_dir() or grid.is_dir():
            there = {path.stem for folder in (group, grid) if folder.is_dir() for path in folder.glob("*.yaml")}
            assert not value or value in there or value in ABSENT, f"{page.name}: {key}={value} does not exist"
        else:
            assert any(has(config, key) for config in configs), f"{page.name}: {key} is no setting"


# Named as what there is not, and as examples that the page itself adds.
ABSENT = ("fsdp", "arrays", "mean_net", "stillness")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", without_blocks(page.read_text()))
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), f"{page.name}: {link}"
        headings = {slug(line) for line in re.findall(r"^#+ (.+)$", without_blocks(target.read_text()), re.MULTILINE)}
        assert not anchor or anchor in headings, f"{page.name}: {link}"


def slug(heading: str) -> str:
    """A heading's anchor as pages on the web make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    for name in re.findall(r"`((?:[\w]+/)+[\w]+\.(?:py|yaml|md))`(?!:)", page.read_text()):
        assert any((folder / name).is_file() for folder in (ROOT, ROOT / "wm_lightning")), f"{page.name}: {name}"
