"""Policies in the true world and in world models: the table, what it says in words, and a scatter plot."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from wm_lightning.results.curves import PALETTE
from wm_lightning.results.table import grid

UNKNOWN = "–"
Head = list[str]
Lines = list[list[str]]


def goal(hold: int) -> str:
    """When an episode succeeded."""
    return f"the named block is seen in the zone of its colour in the last {hold} frames"


def caption(result: Mapping[str, Any]) -> str:
    """Who was tried where."""
    kind = "simulated" if result["simulated"] else "real"
    models = ", ".join(model["name"] for model in result["models"])
    return (
        f"**{result['protocol']}**, {result['data']} ({kind}) · {len(result['real'])} policies, {result['starts']} "
        f"starts each, {result['horizon']} frames in decisions of {result['decision']} · {models}"
    )


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints both tables and the verdict."""
    for head, lines in (rates_table(result), ranks_table(result)):
        shown = Table(title=caption(result).replace("*", ""))
        for place, column in enumerate(head):
            shown.add_column(column, justify="left" if place == 0 else "right")
        for line in lines:
            shown.add_row(*line)
        console.print(shown)
    for sentence in verdict(result):
        console.print(sentence)


def markdown(result: Mapping[str, Any]) -> str:
    """Caption, verdict, rates, ranks, judge, times, and all that is done otherwise."""
    parts = [caption(result), "  \n".join(f"**{sentence}**" for sentence in verdict(result))]
    for head, lines in (rates_table(result), ranks_table(result), judge_table(result), times_table(result)):
        parts.append(grid(head, lines, left=(0,)))
    return "\n\n".join([*parts, _notes(result)]) + "\n"


def rates_table(result: Mapping[str, Any]) -> tuple[Head, Lines]:
    """Success of every policy in every world, with Wilson's interval."""
    models = result["models"]
    lines = [
        [name, _rate(row), *(_rate(model["policies"][name]) for model in models)]
        for name, row in result["real"].items()
    ]
    return ["policy", "simulator", *(model["name"] for model in models)], lines


def ranks_table(result: Mapping[str, Any]) -> tuple[Head, Lines]:
    """How every model's rates go with the simulator's, and with the first model's."""
    head = ["against", "Pearson (p)", "Spearman (p)", "MMRV", "mean gap", "by block: Pearson (p)", "Spearman (p)"]
    lines = [[f"simulator: {model['name']}", *_ranks(model)] for model in result["models"]]
    first = result["models"][0]["name"]
    lines += [
        [f"{first}: {model['name']}", *_ranks(model["with_first"])]
        for model in result["models"] if model["with_first"] is not None
    ]  # fmt: skip
    return head, lines


def judge_table(result: Mapping[str, Any]) -> tuple[Head, Lines]:
    """The judge of pixels against the simulator's state."""
    head = ["judge of", "against the state of", "right yes", "wrong yes", "wrong no", "right no", "agreement", "kappa"]
    lines = [["simulator's frames", "the same episodes", *_confusion(result["judge"])]]
    for model in result["models"]:
        lines.append([model["name"], "the simulator under the same actions", *_confusion(model["same_actions"])])
        lines.append([model["name"], "the same policy in the simulator", *_confusion(model["same_policy"])])
    return head, lines


def times_table(result: Mapping[str, Any]) -> tuple[Head, Lines]:
    """Seconds that each world took for all episodes of a policy, without the policy's own."""
    models = result["models"]
    head = ["seconds", "policy itself", "simulator", *(model["name"] for model in models)]
    lines = [
        [name, f"{row['policy_seconds']:.2f}", f"{row['world_seconds']:.2f}",
         *(f"{model['policies'][name]['world_seconds']:.2f}" for model in models)]
        for name, row in result["real"].items()
    ]  # fmt: skip
    total = sum(row["world_seconds"] for row in result["real"].values())
    lines.append(["all", "", f"{total:.2f}", *(f"{model['seconds']:.2f}" for model in models)])
    lines.append(["times faster", "", "", *(f"{model['times_faster_than_first']:.2f}×" for model in models)])
    return head, lines


def verdict(result: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers say of every model, in words."""
    first = result["models"][0]
    for model in result["models"]:
        found = model["spearman"]
        if found["value"] is None:
            yield f"{model['name']}: no order of policies can be told, for all have the same rate on one side."
            continue
        sure = "surely" if found["p"] <= 0.05 else "not surely"
        said = (
            f"{model['name']} ranks {found['n']} policies with Spearman's {found['value']:.2f} ({sure} beyond chance, "
            f"p = {found['p']:.3g}), MMRV {model['mmrv']:.3f}"
        )
        if model is not first:
            said += f", {model['times_faster_than_first']:.1f} times as fast as {first['name']}"
        yield said + "."


def scatter(path: Path, result: Mapping[str, Any]) -> None:
    """Success in each model over success in the simulator, a dot a policy, as PNG."""
    models = result["models"]
    figure = Figure(figsize=(4.6 * len(models), 4.8), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for place, model in enumerate(models):
        _panel(figure.add_subplot(1, len(models), place + 1), result["real"], model, PALETTE[place % len(PALETTE)])
    figure.suptitle(f"{result['data']}, {result['starts']} starts, {result['horizon']} frames", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _panel(axes: Axes, real: Mapping[str, Any], model: Mapping[str, Any], colour: str) -> None:
    axes.plot((0, 1), (0, 1), color="#b9b9be", linewidth=0.8, zorder=0)
    for name, row in real.items():
        other = model["policies"][name]
        spread = [[[row["rate"] - row["low"]], [row["high"] - row["rate"]]],
                  [[other["rate"] - other["low"]], [other["high"] - other["rate"]]]]  # fmt: skip
        axes.errorbar(
            row["rate"], other["rate"], xerr=spread[0], yerr=spread[1], fmt="o", color=colour, markersize=4,
            elinewidth=0.6, alpha=0.85,
        )  # fmt: skip
        axes.annotate(name, (row["rate"], other["rate"]), xytext=(5, 4), textcoords="offset points", fontsize=7)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set_title(f"{model['name']}\nPearson {_correlation(model['pearson'])}", fontsize=9, loc="left")
    axes.set_xlabel("success in the simulator", fontsize=8)
    axes.set_ylabel("success in the model", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _notes(result: Mapping[str, Any]) -> str:
    told = [
        f"Success: {result['goal']}, by the same judge of pixels in every world; intervals are Wilson's (95 %). p: "
        f"two-sided, by permutation of policies (all orders up to seven policies, else {result['draws']} drawn).",
        "MMRV: mean over policies of the largest difference in the simulator that the model orders the other way "
        "(SIMPLER, 2405.05941); less is better. By block: every policy counts once for each block.",
        *(f"Departure: {text}." for text in result["departures"]),
        f"{result['machine']}, revision {result['revision'][:12]}, config {result['config_hash'][:12]}, checkpoints "
        + ", ".join(f"{model['name']} `{model['checkpoint'][:12]}`" for model in result["models"])
        + ".",
    ]
    return "  \n".join(told)


def _rate(row: Mapping[str, Any]) -> str:
    return f"{row['rate']:.2f} ({row['low']:.2f}..{row['high']:.2f})"


def _ranks(found: Mapping[str, Any]) -> Sequence[str]:
    own, points = ([_correlation(one[name]) for name in ("pearson", "spearman")] for one in (found, found["points"]))
    return [*own, f"{found['mmrv']:.3f}", f"{found['mean_gap']:.3f}", *points]


def _correlation(found: Mapping[str, Any]) -> str:
    return UNKNOWN if found["value"] is None else f"{found['value']:.2f} ({found['p']:.2g}, n={found['n']})"


def _confusion(found: Mapping[str, Any]) -> list[str]:
    kappa = UNKNOWN if found["kappa"] is None else f"{found['kappa']:.2f}"
    counts = [str(found[name]) for name in ("true_yes", "false_yes", "false_no", "true_no")]
    return [*counts, f"{found['agreement']:.2f}", kappa]
