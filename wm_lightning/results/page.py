"""A report as one HTML file that needs no other: tables, plots as SVG, rollouts as GIFs, what the configs differ in."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from wm_lightning.results.benches import Bench, bench_table
from wm_lightning.results.configs import axis_of, config_of, differences
from wm_lightning.results.plots import over_axis, over_horizon, over_steps
from wm_lightning.results.protocols import Scored, protocol_plot, protocol_table
from wm_lightning.results.report import Recipe, chosen_columns, compared, role_tables, table
from wm_lightning.results.role_runs import RoleGroup
from wm_lightning.results.seeds import Group

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d1d1f; max-width: 1300px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { padding: .25em .7em; border-bottom: 1px solid #e2e2e6; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
tr:hover td { background: #f4f6fa }
svg, img { max-width: 100%; height: auto } code { font-size: 90% } figcaption { color: #666; font-size: 13px }
"""
NOTE = (
    "Lines join means; bars are one standard deviation over seeds, whose values are the dots. Of a single seed the "
    "excess has its bootstrapped 95 % interval. Distances are on features of a fixed random network, with which no "
    "published FID or FVD can be compared."
)


@dataclass(frozen=True)
class PageSettings:
    """`axis` is a key of the configs to draw over (None: the one that differs); larger GIFs than `gif_mib` stay out."""

    axis: str | None
    gif_mib: float


def page(
    found: Sequence[Group], scored: Sequence[Sequence[Scored]], recipe: Recipe, settings: PageSettings, title: str,
    benches: Sequence[Bench] = (), roles: Sequence[RoleGroup] = (), curves: Path | None = None,
) -> str:  # fmt: skip
    """The whole file; `scored` are results of protocols, `roles` executors with a picture of their `curves`.

    Raises ValueError where groups that are compared may not be, or a run's config lacks `axis`.
    """
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{NOTE}</p>"]
    if recipe.compare and found:
        columns = chosen_columns(found[0], recipe.columns)
        parts += [_marked(compared(found, recipe)), over_axis(found, columns, axis_of(found, settings.axis))]
    for group in found:
        if not recipe.compare:
            plot = over_steps(group, chosen_columns(group, recipe.columns))
            parts += [_marked(table(group, recipe)), plot or ""]
        parts.append(_by_frame(group))
        parts.append(_films(group, settings.gif_mib))
    parts += [_marked(text) for text in role_tables(roles, recipe)]
    parts.append("" if curves is None else f"<figure>{_picture(curves, 'png')}</figure>")
    parts += [_films(group, settings.gif_mib) for group in roles]
    for together in scored:
        parts += [_marked(protocol_table(together)), protocol_plot(together)]
    parts += [_marked(bench_table(benches))] if benches else []
    parts.append(_differences(found))
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return (
        f"<!doctype html>\n<html lang=en><head>{head}</head><body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _marked(text: str) -> str:
    # No raw HTML: names in results are anybody's.
    return MarkdownIt("commonmark", {"html": False}).enable("table").render(text)


def _by_frame(group: Group) -> str:
    """Every measure by generated frame, where the results have that."""
    plot = over_horizon(group)
    said = f"{group.label}, by generated frame (0: the first after the given ones)"
    return f"<figure>{plot}<figcaption>{escape(said)}</figcaption></figure>" if plot else ""


def _films(group: Group | RoleGroup, most_mib: float) -> str:
    """The rollouts of the group's first run that kept some."""
    for run in group.runs:
        path = run.path.parent / "rollouts.gif"
        if path.is_file():
            said = f"{group.label}, {group.first.data} data ({group.first.world}), seed {run.results.seed}"
            return f"<figure>{_film(path, most_mib)}<figcaption>{escape(said)}</figcaption></figure>"
    return ""


def _film(path: Path, most_mib: float) -> str:
    size = path.stat().st_size / 2**20
    if size > most_mib:
        name = escape(path.as_posix())
        return f"<p>{name} has {size:.1f} MiB, more than task.gif_mib={most_mib:g}, and stands apart.</p>"
    return _picture(path, "gif")


def _picture(path: Path, kind: str) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{path.stem}" src="data:image/{kind};base64,{content}">'


def _differences(found: Sequence[Group]) -> str:
    if len(found) < 2:
        return ""
    entries = differences(found)
    if not entries:
        known = all(config_of(group.runs[0]) is not None for group in found)
        why = "None: the configs are equal." if known else "Not known: a run has no config.yaml beside its results."
        return f"<h2>Configs that differ</h2><p>{why}</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in ("key", *(group.label for group in found)))
    lines = [
        f"<tr><td><code>{escape(entry.key)}</code>{f' and {entry.others} more' if entry.others else ''}</td>"
        + "".join(f"<td>{escape(str(value))}</td>" for value in entry.values)
        + "</tr>"
        for entry in entries
    ]
    return f"<h2>Configs that differ</h2><table><tr>{head}</tr>{''.join(lines)}</table>"
