"""Draws moves against imbalance, our curve and the peers' points, from the figures of bench/planner_benchmark.py.

Needs matplotlib. Every seed is drawn: a line of ours for each, a point of a peer for each. By hand, from a JSON of
figures: planner_picture.py FIGURES.json PICTURE.png.
"""

import json
import os
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import planner_goals
import planner_tables as tables
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

STYLES = {
    "vllm": ("#0072b2", "o"),
    "sglang": ("#56b4e9", "s"),
    "sglang_vec": ("#009e73", "^"),
    "ascend_default": ("#d55e00", "D"),
    "swift": ("#cc79a7", "P"),
    "flashlb": ("#e69f00", "X"),
}
OURS = "#000000"
SERIES = {"stale": "gone stale", "switch": "domain switch"}
MOVES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
EXCESS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
EXCESS_CLOSE_UP = (*EXCESS, 0.3, 3, 7, 15, 25, 30, 40)
LABEL_STEP = 0.08  # Of the height of a panel, between labels.


def panels(results):
    """(title, results) of every picture: those cases for which our planner got several budgets."""
    chosen = [
        result
        for result in results
        if result["mode"] == "incremental"
        and result["series"] in SERIES
        and not result["policy"].endswith(planner_goals.OF_SWIFT)
    ]
    groups = tables.grouped(chosen, lambda result: (result["series"], tables.shape_of(result), result["loads"]))
    for (series, shape, loads), of in groups.items():
        budgets = {result["policy"] for result in of if result["policy"].startswith("ours ")}
        if len(budgets) > 4:
            redundancy = "" if shape[2] > shape[1] else ", no redundancy"
            yield f"{SERIES[series]}, {shape[2]} slots on {shape[3]} ranks{redundancy}, {loads}", of


def excess(result):
    """What is drawn: percent above perfect balance."""
    return max(100.0 * (result["imbalance"] - 1.0), EXCESS[0])


def spread(heights):
    """Heights of labels, in the order given, moved apart where they would overlap."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    raised, lowered = list(heights), list(heights)
    for below, above in zip(order, order[1:], strict=False):
        raised[above] = max(raised[above], raised[below] + LABEL_STEP)
    for above, below in zip(reversed(order), reversed(order[:-1]), strict=False):
        lowered[below] = min(lowered[below], lowered[above] - LABEL_STEP)
    return [(a + b) / 2 for a, b in zip(raised, lowered, strict=True)]


def merged(labels):
    """Labels of points that lie on one another, together."""
    together = []
    for text, colour, moves, percent in labels:
        for other in together:
            if abs(other[2] - moves) < 0.02 * moves and abs(other[3] - percent) < 0.02 * percent:
                other[0] += (",\n" if "," in other[0] else ", ") + text
                break
        else:
            together.append([text, colour, moves, percent])
    return together


def draw_labels(axes, points):
    """A label at the right edge for each (text, colour, moves, excess), with a line to its point."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [to_axes.transform((moves, percent))[1] for _, _, moves, percent in points]
    for (text, colour, moves, percent), height in zip(points, spread(heights), strict=True):
        axes.annotate(
            text,
            xy=(moves, percent),
            xycoords="data",
            xytext=(1.015, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 3},
        )


def draw_panel(axes, title, results):
    most = 1.0
    labels = []
    for of_seed in tables.grouped(results, lambda result: result["seed"]).values():
        points = sorted(
            (result["moves"], excess(result))
            for result in of_seed
            if not planner_goals.is_peer(result["policy"]) and "error" not in result
        )
        axes.plot(*zip(*points, strict=True), "-o", color=OURS, markersize=3.5, linewidth=1.0)
    labels.append(("SwiftBalancer", OURS, *points[-1]))
    for policy, of in tables.grouped(results, lambda result: result["policy"]).items():
        if not planner_goals.is_peer(policy) or not tables.good(of):
            continue
        colour, marker = STYLES[policy]
        moves, percents = [result["moves"] for result in of], [excess(result) for result in of]
        axes.plot(moves, percents, marker, color=colour, markersize=7, markeredgecolor="white", markeredgewidth=0.6)
        labels.append((tables.NAMES[policy], colour, moves[0], percents[0]))
        most = max(most, *moves)
    axes.set_title(title, fontsize=10.5)
    axes.set_xscale("symlog", linthresh=1, base=2)
    axes.set_xlim(-0.15, 1.6 * most)
    axes.xaxis.set_major_locator(FixedLocator([moves for moves in MOVES if moves <= 1.6 * most]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(FixedLocator(EXCESS if high > 10 * low else EXCESS_CLOSE_UP))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_xlabel("moves a layer", fontsize=9)
    axes.set_ylabel("hottest rank above the mean", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)
    draw_labels(axes, merged(labels))


def draw(report, path):
    """Writes the PNG by a temporary file and a rename."""
    shown = list(panels(report["results"]))
    rows = max(1, (len(shown) + 1) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(15, 4.4 * rows), squeeze=False)
    height = 4.4 * rows
    figure.subplots_adjust(0.05, 0.55 / height, 0.855, 1 - 0.85 / height, wspace=0.54, hspace=0.34)
    for place in axes.flat[len(shown) :]:
        place.set_visible(False)
    for place, (title, results) in zip(axes.flat, shown, strict=False):
        draw_panel(place, title, results)
    figure.suptitle(
        "Moves against imbalance. Black: SwiftBalancer by budget of moves, from no new plan at 0; a line and a point "
        "for every seed",
        fontsize=12,
    )
    temporary = f"{path}.{os.getpid()}.tmp"
    figure.savefig(temporary, dpi=100, format="png")
    os.replace(temporary, path)
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: planner_picture.py FIGURES.json PICTURE.png")
    with open(sys.argv[1], encoding="utf-8") as figures:
        draw(json.load(figures), sys.argv[2])
