"""The table of an action-control test, and what it says in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from wm_lightning.results.table import grid

UNSEEN = "not seen by the measure"


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints the table with the verdict below."""
    head, lines = _table(result)
    shown = Table(title=_caption(result).replace("**", "").replace("`", ""))
    for place, column in enumerate(head):
        shown.add_column(column, justify="left" if place in (0, len(head) - 1) else "right")
    for line in lines:
        shown.add_row(*line)
    console.print(shown)
    console.print(result["verdict"])


def markdown(result: Mapping[str, Any]) -> str:
    """Caption, table, what its columns mean, all that is done otherwise, and the verdict."""
    head, lines = _table(result)
    whole = grid(head, lines, left=(0, len(head) - 1))
    return "\n\n".join([_caption(result), whole, _notes(result), f"**{result['verdict']}**"]) + "\n"


def _table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Every variant: motion beyond the neutral action per frame, what is expected of it, and the verdict."""
    truth = "simulator" if result["expected_from"] == "simulator" else "expected"
    head = ["variant", "motion x, y", f"{truth} x, y", "gain", "sign", "95 %", "grey", "verdict"]
    lines = [_line(row) for row in result["variants"]]
    return head, lines if result["rest"]["motion"] is None else [_rest(result["rest"]), *lines]


def _caption(result: Mapping[str, Any]) -> str:
    kind = "simulated" if result["simulated"] else "real"
    return (
        f"**{result['protocol']}**, {result['data']} ({kind}) · {result['kind']} of {result['name']}, "
        f"`{result['checkpoint'][:12]}` · {result['starts']} starts, {result['context']} given + "
        f"{result['frames'] - result['context']} generated frames"
    )


def _notes(result: Mapping[str, Any]) -> str:
    told = (
        f"x (to the right) and y (down): mean motion per frame beyond that under '{result['rest']['name']}', in "
        f"{result['unit']}, measured as {result['measure']}. Sign: share of frames that moved the expected way, over "
        f"starts. Grey: mean difference, in grey levels, to the video of '{result['rest']['name']}'. "
    )
    if result["expected_from"] == "simulator":
        told += "Expected is what the simulator makes of the same action from the same frame."
    else:
        told += f"Expected by a regression on real clips, of whose motion actions explain {result['real_r2']:.2f} (R2)."
    return "  \n".join([told, *(f"Departure: {text}." for text in result["departures"])])


def verdict(words: Mapping[str, str]) -> str:
    """All variants together in a few sentences; `words` are theirs by name."""
    by_word: dict[str, list[str]] = {}
    for name, text in words.items():
        by_word.setdefault(text, []).append(name)
    told = {text: names for text, names in by_word.items() if text not in (UNSEEN, "changes nothing")}
    seen = sum(map(len, told.values()))
    steer = sum(len(names) for text, names in told.items() if text.startswith("steers"))
    if seen == 0:
        said = [f"Whether actions steer cannot be told: the measure sees none of these {len(words)} variants."]
    else:
        said = [f"Actions steer in {steer} of the {seen} variants that the measure sees."]
        said = [*said, *(f"{text.capitalize()}: {', '.join(names)}." for text, names in told.items())]
    if seen > steer:
        said.insert(0, "ACTIONS DO NOT STEER as they should.")
    if "changes nothing" in by_word:
        said.append(f"Not a pixel changes under {', '.join(by_word['changes nothing'])}.")
    return " ".join(said)


def _rest(rest: Mapping[str, Any]) -> list[str]:
    said = f"moves {rest['size']:.3g} a frame"
    said += "" if rest["expected_size"] is None else f", {rest['expected_size']:.3g} expected"
    return [rest["name"], _pair(rest["motion"]), "", "", "", "", "", said]


def _line(row: Mapping[str, Any]) -> list[str]:
    changed = "" if row["changed"] is None else f"{row['changed']:.2f}"
    if row["motion"] is None:
        return [row["name"], UNSEEN, "", "", "", "", changed, "" if row["verdict"] == UNSEEN else row["verdict"]]
    interval = "" if row["low"] is None else f"{row['low']:.2f} .. {row['high']:.2f}"
    numbers = [_pair(row["motion"]), _pair(row["expected"]), f"{row['gain']:.2f}", f"{row['sign']:.2f}"]
    return [row["name"], *numbers, interval, changed, row["verdict"]]


def _pair(motion: Sequence[float]) -> str:
    return ", ".join(f"{value:+.4f}" for value in motion)
