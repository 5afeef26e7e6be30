"""The list of clips of a protocol: the same everywhere, distinct, spread over episodes, and checked when read."""

import pickle
from pathlib import Path

import pytest

from wm_lightning.data.eval_index import Entry, index_hash, make_index, read_index, windows_of, write_index


class Episodes:
    """Readers say how long their named episodes are."""

    spec, action_shift = None, 1

    def __init__(self, lengths: dict[str, int]) -> None:
        self.names, self.lengths = list(lengths), list(lengths.values())

    def __len__(self) -> int:
        return len(self.names)

    def length(self, episode: int) -> int:
        return self.lengths[episode]

    def name(self, episode: int) -> str:
        return self.names[episode]

    def read(self, episode: int, start: int, stop: int) -> None:
        raise NotImplementedError


KNOWN = [("d", 7), ("a", 0), ("c", 11)]
ASKED = {"context": 2, "frames": 4, "seed": 0}
READER = Episodes({"a": 10, "b": 4, "c": 30, "d": 12, "e": 3})


def test_clips_are_distinct_and_no_episode_comes_twice_before_all_came() -> None:
    entries = make_index(READER, clips=12, frames=4, seed=0)
    assert len({(e.episode, e.start) for e in entries}) == len(entries) == 12
    assert {e.episode for e in entries[:4]} == {"a", "b", "c", "d"}
    assert all(0 <= e.start <= READER.length(READER.names.index(e.episode)) - 4 for e in entries)
    assert len(make_index(READER, clips=999, frames=4, seed=0)) == 7 + 1 + 27 + 9


def test_the_list_is_known_for_ever_and_does_not_depend_on_the_order_of_files() -> None:
    entries = make_index(READER, clips=3, frames=4, seed=0)
    assert [(e.episode, e.start) for e in entries] == KNOWN
    turned = Episodes({name: READER.lengths[READER.names.index(name)] for name in reversed(READER.names)})
    assert make_index(turned, clips=3, frames=4, seed=0) == entries
    assert make_index(READER, clips=3, frames=4, seed=1) != entries


def test_a_list_survives_its_file_and_is_checked_against_the_data(tmp_path: Path) -> None:
    path = tmp_path / "eval_index.json"
    entries = make_index(READER, clips=5, frames=4, seed=0)
    write_index(path, entries)
    assert read_index(path, READER, **ASKED) == entries and index_hash(entries) != index_hash(entries[1:])
    windows = windows_of(READER, entries)
    assert [w.index for w in windows] == [0, 1, 2, 3, 4]
    assert [READER.names[w.episode] for w in windows] == [e.episode for e in entries]
    for wrong, said in (
        (Entry("c", 27, 4, 0), "have 30 frames"), (Entry("z", 0, 4, 0), "no such episode"),
        (Entry("c", 0, 5, 0), "all of one length"),
    ):  # fmt: skip
        write_index(path, [*entries, wrong])
        with pytest.raises(ValueError, match=said):
            read_index(path, READER, **ASKED)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="is no list of episode"):
        read_index(path, READER, **ASKED)


def test_nwms_lists_are_read_without_running_what_a_pickle_may_bring(tmp_path: Path) -> None:
    path = tmp_path / "time.pkl"
    path.write_bytes(pickle.dumps([("a", 3, -8, 8), ("c", 1, -8, 8)]))
    entries = read_index(path, READER, **ASKED)
    # The current frame is the last of two given ones.
    assert [(e.episode, e.start, e.length) for e in entries] == [("a", 2, 4), ("c", 0, 4)]
    path.write_bytes(pickle.dumps([("a", 0, -8, 8)]))
    with pytest.raises(ValueError, match="from frame -1"):
        read_index(path, READER, **ASKED)
    path.write_bytes(pickle.dumps([Path("a")]))
    with pytest.raises(ValueError, match="neither an array nor a plain value"):
        read_index(path, READER, **ASKED)


def test_episodes_that_are_too_short_are_refused_with_both_lengths() -> None:
    with pytest.raises(ValueError, match="needs 31 frames, the longest of 5 episodes has 30"):
        make_index(READER, clips=3, frames=31, seed=0)
