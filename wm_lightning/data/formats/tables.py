"""Parquet tables, and what is wrong with those that cannot be read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wm_lightning.data.formats.video_files import BadFile

# What pyarrow raises for damaged tables: its own errors, and Python's for values that are none.
DAMAGED = (OSError, pa.ArrowException, ValueError, LookupError, TypeError, ArithmeticError, MemoryError)


def read_parquet(path: Path, columns: Sequence[str]) -> pa.Table:
    """The columns of a table. Raises BadFile where it is damaged or lacks one."""
    try:
        # Pages carry checksums where their writer made some; without, damaged values would pass unseen.
        table = pq.read_table(path, columns=list(columns), page_checksum_verification=True)
    except DAMAGED as error:
        raise BadFile(path, f"cannot be read as parquet ({error})") from error
    if missing := sorted(set(columns) - set(table.column_names)):
        raise BadFile(path, f"has no column {', '.join(missing)}, only {', '.join(table.column_names)}")
    return table


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table. Raises BadFile where it is damaged or lacks a column."""
    table = read_parquet(path, columns)
    try:
        return table.to_pylist()
    except DAMAGED as error:
        raise BadFile(path, f"has values that are none of their type ({error})") from error
