"""Where tables are printed."""

import os
import sys

from rich.console import Console


def console() -> Console:
    """As wide as the terminal; 160 columns in a file or pipe, where cut numbers could not be brought back.

    COLUMNS has its say over both.
    """
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
