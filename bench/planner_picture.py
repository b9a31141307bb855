"""Draws moves against imbalance, our curve and the peers' points, from the figures of bench/planner_comparison.py.

Needs matplotlib. Every seed is drawn: a line of ours for each, a point of a peer for each.
"""

import matplotlib

matplotlib.use("Agg")
import os

import matplotlib.pyplot as plt
import planner_report

COLOURS = {"vllm": "C0", "sglang": "C1", "sglang_vec": "C2", "ascend_default": "C3", "swift": "C4", "flashlb": "C5"}


def panels(results):
    """(title, results) of every picture: those cases for which our planner got several budgets."""
    chosen = [
        result for result in results if result["mode"] == "incremental" and result["series"] in ("stale", "switch")
    ]
    groups = planner_report.grouped(
        chosen, lambda result: (result["series"], planner_report.shape_of(result), result["loads"])
    )
    for (series, shape, loads), of in groups.items():
        budgets = {result["policy"] for result in of if result["policy"].startswith("ours ")}
        if len(budgets) > 3:
            before = "gone stale" if series == "stale" else "domain switch"
            yield f"{before}, {shape[2]} slots, {shape[3]} ranks, {loads}", of


def draw_panel(axes, title, results):
    drawn = set()

    def label(text):
        return None if text in drawn or drawn.add(text) else text

    for of_seed in planner_report.grouped(results, lambda result: result["seed"]).values():
        points = [
            (result["moves"], result["imbalance"])
            for result in of_seed
            if not planner_report.is_peer(result["policy"]) and "error" not in result
        ]
        axes.plot(*zip(*sorted(points), strict=True), "-o", color="black", markersize=3, label=label("SwiftBalancer"))
        for result in of_seed:
            policy = result["policy"]
            if planner_report.is_peer(policy) and "error" not in result:
                name = planner_report.NAMES[policy]
                axes.plot(result["moves"], result["imbalance"], "x", color=COLOURS[policy], label=label(name))
    axes.set_title(title, fontsize=9)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("moves a layer")
    axes.set_ylabel("imbalance, largest / mean rank load")
    axes.grid(alpha=0.3)


def draw(report, path):
    """Writes the PNG by a temporary file and a rename."""
    shown = list(panels(report["results"]))
    rows = max(1, (len(shown) + 1) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(11, 4.2 * rows), squeeze=False)
    for place in axes.flat[len(shown) :]:
        place.set_visible(False)
    for place, (title, results) in zip(axes.flat, shown, strict=False):
        draw_panel(place, title, results)
    if shown:
        axes.flat[0].legend(fontsize=8)
    figure.suptitle("Moves against imbalance: every seed", fontsize=11)
    figure.tight_layout()
    temporary = f"{path}.{os.getpid()}.tmp"
    figure.savefig(temporary, dpi=110, format="png")
    os.replace(temporary, path)
    plt.close(figure)
