"""Every module imports only from its own layer and from those below."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wm_lightning"
# Bottom first; the longest name that fits a module decides.
LAYERS = (
    (
        "__version__",
        "torchvision_hook",
        "card",
        "clip",
        "noise_tables",
        "noising",
        "randomness",
        "compute",
        "environment",
        "plain_files",
    )
    + ("config", "config_check", "config_errors", "config_foreign", "config_help", "config_overrides", "config_record"),
    ("networks", "objectives"),
    (
        "data.formats",
        "checkpoints",
        "adapted_checkpoints",
        "checkpoint_io",
        "rewards",
        "metrics",
        "sampling",
        "results",
        "launchers",
    ),
    ("data", "worlds"),
    ("modules", "envs", "callbacks"),
    ("play",),
    ("tasks", "pretrained"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
TORCHLESS = (
    "config",
    "config_errors",
    "config_foreign",
    "config_help",
    "config_record",
    "config_overrides",
    "torchvision_hook",
)


def layer(module: str) -> int:
    """Rank of `wm_lightning.<module>`. Raises KeyError for a module that no layer names."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in RANK:
            return RANK[name]
    raise KeyError(f"{module} stands in no layer of {Path(__file__).name}")


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Full dotted names that a file imports, those inside functions too unless `top_only`."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> list[str]:
    names = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(name.parts).removesuffix(".__init__") for name in names if name.parts != ("__init__",))


@pytest.mark.parametrize("module", modules())
def test_imports_come_from_below(module: str) -> None:
    path = PACKAGE / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    above = [
        name
        for name in imports(path)
        if name.startswith("wm_lightning.") and layer(name.removeprefix("wm_lightning.")) > layer(module)
    ]
    assert not above, f"{module} imports {', '.join(above)} from a layer above its own"


@pytest.mark.parametrize("path", [ROOT / "run.py", PACKAGE / "__init__.py", *(PACKAGE / f"{n}.py" for n in TORCHLESS)])
def test_the_command_line_loads_no_torch(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports(path, top_only=True)} & {"torch", "lightning", "numpy"}
    assert not heavy, f"{path.name} imports {', '.join(heavy)}, which --help and --cfg would wait for"


def test_packages_hold_no_code_in_their_init() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            body = ast.parse(path.read_text()).body
            assert len(body) <= 1 and all(isinstance(node, ast.Expr) for node in body), f"{path} holds code"


def test_the_check_can_fail() -> None:
    assert layer("networks.video_dit") < layer("modules.dmd") < layer("tasks.train")
    assert layer("data.formats.rt1") < layer("data.windows")
    with pytest.raises(KeyError):
        layer("utils")
