"""Pickles of arrays: what NumPy writes is read back, and nothing that a pickle brings gets hold of anything."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from wm_lightning.data.formats.safe_pickle import read_arrays
from wm_lightning.data.formats.video_files import BadFile


def arrays_of_many_kinds() -> dict[str, np.ndarray]:
    grid = np.arange(12.0).reshape(3, 4)
    return {
        "plain": grid, "fortran": np.asfortranarray(grid), "part": grid[::2, 1:], "empty": np.zeros((0, 2)),
        "big": grid.astype(">f4"), "texts": np.array(["left", "right"]), "flags": grid > 3, "one": np.array(3.5),
    }  # fmt: skip


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_a_pickle_come_back_as_they_were(tmp_path: Path, protocol: int) -> None:
    arrays = arrays_of_many_kinds()
    scalars = [np.float64(0.5), np.int16(-3), np.str_("yaw"), np.bool_(True)]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([arrays, arrays, scalars], protocol=protocol))
    first, second, numbers = read_arrays(tmp_path / "a.pkl")
    assert first is second and numbers == scalars and [type(n) for n in numbers] == [type(n) for n in scalars]
    for name, array in arrays.items():
        assert np.array_equal(first[name], array) and first[name].dtype == array.dtype, name


FUNCTION = b"cnumpy._core.multiarray\n_reconstruct\n"  # a function, as a pickle names it
TYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR"  # numpy.dtype("f8")
HARMFUL = {
    "a function itself": FUNCTION + b".",
    "a type itself": TYPE + b".",
    "attributes of a function": FUNCTION + b"N}X\x0c\x00\x00\x00__defaults__(K\x01ts\x86b.",
    "attributes of what stands for it": FUNCTION + b"N}X\x04\x00\x00\x00_runK\x01s\x86b.",
    "the dict of a function": FUNCTION + b"}X\x01\x00\x00\x00aK\x01sb.",
    "a structured type": TYPE + b"(K\x03X\x01\x00\x00\x00<N(X\x01\x00\x00\x00at}NNtb.",
    "a class to be made": b"cnumpy\nndarray\n)\x81.",
    "objects": b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.",
    "another codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
    "a list of itself": b"]q\x00h\x00a.",
}


@pytest.mark.parametrize("name", HARMFUL)
def test_a_pickle_gets_no_hold_of_what_rebuilds_arrays(tmp_path: Path, name: str) -> None:
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x02" + HARMFUL[name])
    with pytest.raises(BadFile, match="cannot be read as a pickle of arrays"):
        read_arrays(tmp_path / "evil.pkl")
    before = np.arange(3.0)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(before))
    assert np.array_equal(read_arrays(tmp_path / "plain.pkl"), before)
