"""Lets a torchvision wheel that was built for CUDA be imported beside a torch without CUDA.

timm and torchmetrics import torchvision, and PyPI's wheel registers two operators in a library that
needs CUDA's own libraries. Without them `import torchvision`, and with it `import lightning`, ends
in "operator torchvision::nms does not exist". Declaring the two operators is all the import needs;
calling them still fails, and nothing here calls them.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# A library's declarations last as long as the object that made them.
_kept: list[Any] = []


class _BeforeTorchvision(MetaPathFinder):
    """Runs once, when torchvision is about to be imported; finding it is left to the usual finders."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.origin is not None:
            _declare_operators(Path(spec.origin).parent)
        return spec


def install() -> None:
    """Takes effect for the first import of torchvision after it; costs nothing where there is none."""
    waiting = any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not waiting:
        sys.meta_path.insert(0, _BeforeTorchvision())


def _declare_operators(package: Path) -> None:
    import torch  # noqa: PLC0415  whoever imports torchvision has torch loaded anyway

    if torch.version.cuda or torch.version.hip:
        return  # the wheel's own library loads
    if any(_loads(library) for library in package.glob("_C*.so")):
        return  # a torchvision built for the CPU
    declarations = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        declarations.define(name + _SIGNATURE)
    _kept.append(declarations)


def _loads(library: Path) -> bool:
    import torch  # noqa: PLC0415

    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True
