"""Plots of runs: drawn by matplotlib, inline as SVG that follows the page's colours, or as files for a paper."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from whispertune.errors import RunFolderError
from whispertune.report.runs import Row
from whispertune.system.console import printable
from whispertune.system.counts import counted
from whispertune.system.files import replacing_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 4.6, 2.7
"""Inches; small enough that labels stay readable on a phone."""
MOST_POINTS = 600
"""Most points of a curve; longer ones are drawn as means over neighbouring updates."""
SMOOTHED = 40
"""Points of a smoothed curve."""
FORMATS = ("svg", "png", "pdf")
INK, SOFT, LINE = "#1d2327", "#667077", "#d9dee2"
COLOURS = ("#2f6f9f", "#c2571a", "#3b8132", "#8e4fb0", "#a8791b", "#b3261e", "#1b8a8a", "#5b5b5b")
"""Distinguishable without red-green vision; beyond eight runs, lines also differ in their dashes."""
DASHES = ("-", "--", "-.", ":")
ON_THE_PAGE = {INK: "--ink", SOFT: "--soft", LINE: "--line"} | {
    colour: f"--series-{number}" for number, colour in enumerate(COLOURS)
}
"""The page's variables that replace these colours, so that plots follow its dark mode."""
SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "text.parse_math": False,
    "svg.fonttype": "none", "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": LINE, "axes.grid": True, "axes.grid.axis": "y",
    "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 8, "lines.linewidth": 1.5,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot: its file name, its title, and the same content in words for screen readers."""

    name: str
    title: str
    alt: str
    draw: Callable[[Axes], None]

    def svg(self) -> str:
        """An `svg` element whose colours are the page's; its ids are its own."""
        with _drawn(self) as figure:
            content = io.StringIO()
            figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = content.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
        text = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', text)
        text = re.sub(r'(xlink:href="#|url\(#)', rf"\1{self.name}-", text)
        text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)
        text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text)
        for colour, variable in ON_THE_PAGE.items():
            text = text.replace(colour, f"var({variable})")
        text = re.sub(r"font: ([0-9.]+)px '?DejaVu Sans'?[^;\"]*", r"font: \1px var(--font)", text)
        return text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)

    def paths(self, folder: Path) -> list[Path]:
        """The files that `save` writes.

        Raises:
            RunFolderError: if one exists that is not a plot of a report.
        """
        paths = [folder / f"{self.name}.{ending}" for ending in FORMATS]
        for path in paths:
            ours = path.is_file() and not path.is_symlink() and WRITTEN_BY.encode() in path.read_bytes()
            if os.path.lexists(path) and not ours:
                raise RunFolderError(
                    f"--plots: {path} would be overwritten, but `whispertune report` did not write it; choose another "
                    "folder, or move it away"
                )
        return paths

    def save(self, folder: Path) -> list[Path]:
        """Write the plot as SVG, PNG and PDF; raises RunFolderError as `paths`."""
        paths = self.paths(folder)
        with _drawn(self) as figure:
            for path in paths:
                with replacing_file(path) as temporary:
                    figure.savefig(temporary, format=path.suffix[1:], dpi=300, metadata=_METADATA[path.suffix])
        return paths


WRITTEN_BY = "whispertune report"
"""In the metadata of every plot."""
_METADATA: dict[str, dict[str, str | None]] = {
    ".svg": {"Creator": WRITTEN_BY, "Date": None},
    ".png": {"Software": WRITTEN_BY},
    ".pdf": {"Creator": WRITTEN_BY, "CreationDate": None},
}


@contextmanager
def _drawn(plot: Plot) -> Iterator[Any]:
    import matplotlib as mpl  # slow to load, and only reports need it
    from matplotlib.figure import Figure

    with mpl.rc_context({**SETTINGS, "svg.hashsalt": plot.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a page is shown in the reader's fonts
        figure: Any = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        plot.draw(figure.add_subplot())
        yield figure


def binned(xs: Sequence[float], ys: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """At most so many points of a curve, each the mean over its neighbours."""
    size = -(-len(xs) // most) or 1
    parts = range(0, len(xs), size)
    return [fmean(xs[begin : begin + size]) for begin in parts], [fmean(ys[begin : begin + size]) for begin in parts]


@dataclass(frozen=True, slots=True)
class Curve:
    """The data of one run's curves: its label, its updates and validations, and the chosen step."""

    label: str
    updates: Sequence[Row]
    valid: Sequence[Row]
    chosen: int | None

    @property
    def legend(self) -> str:
        """The label as matplotlib takes it: no control characters, no underscore first, which hides a label."""
        return re.sub("^_", " _", printable(self.label))

    def of(self, field: str) -> tuple[list[float], list[float]]:
        """Steps and values of a field of the updates that were made."""
        rows = [row for row in self.updates if row.get(field) is not None and not row.get("skipped")]
        return [row["step"] for row in rows], [row[field] for row in rows]


def curves(runs: Sequence[Curve]) -> list[Plot]:
    """Loss, error rates, learning rate and gradient norm over the updates, of one run or of several."""
    return [*_rates(runs), *(plot for plot in (_loss(runs), _lr(runs), _norm(runs)) if plot)]


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}


def _finish(ax: Axes, ylabel: str, runs: int) -> None:
    ax.set_xlabel("updates")
    ax.set_ylabel(ylabel)
    ax.margins(x=0.02)
    ax.locator_params(axis="x", integer=True)
    if runs > 1 or ax.get_legend_handles_labels()[1]:
        ax.legend()


def _rates(runs: Sequence[Curve]) -> Iterator[Plot]:
    every = [row for run in runs for row in run.valid]
    for rate in ("wer", "cer"):
        if not any(rate in row for row in every):
            continue

        def draw(ax: Axes, rate: str = rate) -> None:
            for number, run in enumerate(runs):
                rows = [row for row in run.valid if rate in row]
                steps, values = [row["step"] for row in rows], [100 * row[rate] for row in rows]
                label = run.legend if runs[1:] else None
                ax.plot(steps, values, marker="o", markersize=3, label=label, **_style(number))
                bounds = [row.get(f"{rate}_interval", (row[rate], row[rate])) for row in rows]
                if not runs[1:]:
                    low, high = zip(*bounds, strict=True)
                    ax.fill_between(
                        steps, [100 * value for value in low], [100 * value for value in high],
                        color=COLOURS[0], alpha=0.15, linewidth=0, label="95 % interval",
                    )  # fmt: skip
                for row in rows:
                    if row["step"] == run.chosen:
                        label = None if runs[1:] else "chosen"  # named once
                        ax.plot(
                            row["step"], 100 * row[rate], marker="o", markersize=9, markerfacecolor="none",
                            markeredgecolor=COLOURS[1] if label else COLOURS[number % len(COLOURS)],
                            linestyle="none", label=label,
                        )  # fmt: skip
            ax.set_ylim(bottom=0)
            _finish(ax, f"valid {rate.upper()}, %", len(runs))

        alt = "; ".join(
            (f"{run.label}: " if runs[1:] else "")
            + ", ".join(f"{100 * row[rate]:.1f} % at update {row['step']}" for row in _few(run.valid) if rate in row)
            for run in runs
        )
        yield Plot(f"valid-{rate}", f"{rate.upper()} on valid, normalised", f"{rate.upper()} on valid: {alt}", draw)


def _few(rows: Sequence[Row], most: int = 8) -> Sequence[Row]:
    """Some of the rows, the first and the last among them, for a text."""
    if len(rows) <= most:
        return rows
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]


def _loss(runs: Sequence[Curve]) -> Plot | None:
    if not any(run.of("loss")[0] for run in runs):
        return None

    def draw(ax: Axes) -> None:
        for number, run in enumerate(runs):
            steps, losses = run.of("loss")
            if not runs[1:]:
                ax.plot(*binned(steps, losses, MOST_POINTS), color=COLOURS[0], alpha=0.3, linewidth=0.8)
            label = run.legend if runs[1:] else "training" + ("" if len(steps) <= SMOOTHED else ", smoothed")
            ax.plot(*binned(steps, losses, SMOOTHED), label=label, **_style(number))
            if not runs[1:] and run.valid:
                valid = [row for row in run.valid if row.get("loss") is not None]
                ax.plot(
                    [row["step"] for row in valid], [row["loss"] for row in valid], marker="o", markersize=3,
                    color=COLOURS[1], linestyle="--", label="valid",
                )  # fmt: skip
        _finish(ax, "loss, nats a token", len(runs))

    alt = "; ".join(
        (f"{run.label}: " if runs[1:] else "")
        + f"from {losses[0]:.3f} to {losses[-1]:.3f} in {counted(len(losses), 'update')}"
        for run in runs
        if (losses := run.of("loss")[1])
    )
    return Plot("loss", "Loss", f"Training loss {alt}", draw)


def _lr(runs: Sequence[Curve]) -> Plot | None:
    return _plain(runs, "lr", "learning-rate", "Learning rate", "learning rate")


def _norm(runs: Sequence[Curve]) -> Plot | None:
    return _plain(runs, "grad_norm", "gradient-norm", "Gradient norm, before clipping", "gradient norm")


def _plain(runs: Sequence[Curve], field: str, name: str, title: str, label: str) -> Plot | None:
    if not any(run.of(field)[0] for run in runs):
        return None

    def draw(ax: Axes) -> None:
        for number, run in enumerate(runs):
            points = binned(*run.of(field), MOST_POINTS if field == "lr" or not runs[1:] else SMOOTHED)
            ax.plot(*points, label=run.legend if runs[1:] else None, linewidth=1, **_style(number))
        ax.set_ylim(bottom=0)
        _finish(ax, label, len(runs))

    alt = "; ".join(
        (f"{run.label}: " if runs[1:] else "") + f"at most {max(values):.3g}, at the end {values[-1]:.3g}"
        for run in runs
        if (values := run.of(field)[1])
    )
    return Plot(name, title, f"{title}: {alt}", draw)


def bars(name: str, title: str, groups: Sequence[tuple[str, Sequence[float]]], series: Sequence[str]) -> Plot:
    """Bars side by side. groups: label, and one value a series, in percent."""

    def draw(ax: Axes) -> None:
        width = 0.8 / len(series)
        for number, label in enumerate(series):
            places = [place + (number - (len(series) - 1) / 2) * width for place in range(len(groups))]
            colour = COLOURS[1] if number == 0 and len(series) == 2 else COLOURS[number % len(COLOURS)]
            colour = COLOURS[0] if number == 1 and len(series) == 2 else colour
            hatch = "" if number else "////"
            ax.bar(
                places, [values[number] for _, values in groups], width * 0.92, label=label,
                color="none" if hatch else colour, edgecolor=colour, hatch=hatch, linewidth=0.8,
            )  # fmt: skip
        ax.set_xticks(range(len(groups)), [label for label, _ in groups], rotation=30 if len(groups) > 4 else 0)
        ax.set_ylabel("%")
        ax.legend()

    alt = "; ".join(
        f"{label}: " + ", ".join(f"{one} {value:.1f} %" for one, value in zip(series, values, strict=True))
        for label, values in groups
    )
    return Plot(name, title, f"{title}: {alt}", draw)
