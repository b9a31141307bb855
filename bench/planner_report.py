"""Writes docs/benchmarks.md from the figures of bench/planner_benchmark.py. Needs no package and no network."""

import os
import sys

import planner_goals
import planner_tables as tables

SECTIONS = (
    (
        "stale",
        "full",
        "Full plans",
        "Planned from nothing on the window before, while its loads are fresh; moves are counted from the initial "
        "placement. The next window is 10 % of the way to another distribution. `incremental`, where there is no "
        "redundancy: planned from the initial placement, as Swift does.",
    ),
    (
        "stale",
        "incremental",
        "From a placement gone stale",
        "Planned from the placement that vLLM's policy made of the window before, 10 % of the way back; the same for "
        "every policy. `no new plan` is that placement itself. The next window is another 10 % further.",
    ),
    (
        "switch",
        "incremental",
        "After a domain switch",
        "Planned from the placement that vLLM's policy made of an independent distribution. The next window is another "
        "sample of the new one.",
    ),
    (
        "recorded",
        "full",
        "Recorded loads, full plans",
        "Loads of real models. The next window is the one that follows in the recording, where there is one.",
    ),
    ("recorded", "incremental", "Recorded loads, from a placement gone stale", "As above, on consecutive windows."),
    (
        "recorded switch",
        "incremental",
        "Recorded loads, after a domain switch",
        "Every window is another text domain. A line gives the mean over all steps from one domain to the following, "
        "but the longest time and the worst layer.",
    ),
)
NOT_IDLE = 0.1  # Cores that other programs use.
INTRODUCTION = """\
# Planner benchmark

Our planner beside the policies of vLLM, SGLang and vllm-ascend, which run from their published packages: the same
loads, one run, one core, one scorer. This page is written whole by `{command}`; to change it, edit
bench/planner_report.py.

[Goals](#goals) · [in short](#in-short) · [following the traffic](#following-the-traffic) ·
[split](#split-of-tokens-over-replicas) · [after the plan](#after-the-plan) · [instructions](#instructions) ·
[full plans](#full-plans) · [gone stale](#from-a-placement-gone-stale) · [domain switch](#after-a-domain-switch) ·
[recorded loads](#recorded-loads-full-plans)
"""
GOALS = """\
A goal holds for all seeds and both distributions: the worst case of all is shown, and how many there are. `288/32` is
288 slots on 32 ranks. EPLB is vLLM's policy in the same run; the bound is explained below.
"""
READING = """\
## How to read the tables

The loads come from bench/generate_loads.py: the hottest expert of a layer carries 6.5 times the mean, as in
DeepSeek-V3, by a `zipf` or a `lognormal` distribution; a window has 32,768,000 tokens a layer and the sampling noise of
a real counter. A cell has one value for each seed, in the order 1, 2, 3, or a single one where they are equal.

- time: planning alone, all layers, one thread, the best of several runs: of ours {our_runs} times 3 to 15, of a peer up
  to {repeats} within {enough_seconds:g} s. `x fastest peer` is the time of the fastest peer policy over this one's,
  `x vLLM` the time of vLLM's policy over this one's, means over the seeds.
- imbalance: largest / mean rank load, mean over layers; `worst layer` is the largest of a layer. Every replica of an
  expert gets the same part of its load.
- above bound: the largest rank load above what no placement can be below, mean over layers. That is the mean rank load,
  or the largest part of an expert when every redundant slot goes to the expert with the largest part; without
  redundancy also the hottest expert together with the lightest ones, which must fill its rank.
- split: imbalance if the replicas get the shares that level the window planned for, by
  `swiftbalancer plan --dispatch split` for every policy's placement alike.
- next window; next, split: the same placement, and the same shares, on the next window.
- moves a layer: experts that a rank gains, mean over layers. `at most N` is `--max-moves-per-layer N`, `at most 0.9
  of Swift's in all` is `--max-moves-per-rebalance` with that part of the moves of Swift's plan.
- duplicates: slots whose expert another slot of the same rank holds, over all layers.

A peer that fails, or takes more than {limit:g} s for one case, is listed with its error.
"""
REPLAY = """\
`swiftbalancer replay` draws steps of 4,096 tokens from a series of text domains, 3,000 steps each, and serves them
under several schedules ([adaptation](adaptation.md)): ours, and EPLB every 650 steps (vllm-ascend), every 1,000
(SGLang) and every 3,000 on the last 1,000 (vLLM). The excess is the imbalance, under planned shares, above that of the
best plan in hindsight, averaged over the 3,000 steps after a switch. Plans of the other schedules are served at once,
and their copies cost nothing. `false alarms`: changes seen in 10,000 steps without any.
"""
SPLIT = """\
bench/split_bench.cpp: a placement made for one load meets another, 0, 10 or 100 % of the way to another distribution,
or the next window of a recording. Time of one layer on one thread; imbalance with even shares, with ours, and with the
exact optimum by maximum flow.
"""
AFTER = """\
bench/prepare_bench.cpp: sources, send and receive lists, maps and tables of all 58 layers, for one rank of 32.
"""
INSTRUCTIONS = """\
Counted by callgrind ({valgrind}), mean over the calls of one run of a benchmark program. One binary gives the same
counts on every run, so that a change of the code shows.
"""


def write(path, text):
    """Writes a file by a temporary one and a rename."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def header(report):
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    facts = {
        "date": report["date"],
        "command": f"`{report['command']}`, {report['seconds']} s",
        **report["machine"],
        "packages": versions,
        "alike for all": f"all times on core {report['core']}, one thread, nothing of this benchmark beside it; other "
        f"programs used {report['others']:.2f} cores on average meanwhile"
        + (" (**not idle: times may be too long**)" if report["others"] > NOT_IDLE else ""),
    }
    return ["| | |", "|---|---|", *[f"| {name} | {text} |" for name, text in facts.items()]]


def page(report):
    """docs/benchmarks.md as text."""
    results = report["results"]

    def of(series, mode):
        return [result for result in results if (result["series"], result["mode"]) == (series, mode)]

    lines = [*INTRODUCTION.format(command=report["command"]).splitlines(), "", *header(report)]
    lines += ["", "## Goals", "", *GOALS.splitlines(), ""]
    lines += [*planner_goals.table(report), ""]
    lines += [*READING.format(**report).splitlines(), "", "## In short", ""]
    lines += [
        "Full plans, mean over both distributions and all seeds:",
        "",
        *tables.summary_of_full(of("stale", "full")),
        "",
    ]
    lines += [
        "From a placement gone stale: imbalance, moves a layer and time, mean over both distributions and all seeds:",
        "",
    ]
    lines += [*tables.summary_of_incremental(of("stale", "incremental")), ""]
    lines += ["After a domain switch:", "", *tables.summary_of_incremental(of("switch", "incremental")), ""]
    lines += ["![Moves against imbalance](planner_trade_off.png)", "", "## Following the traffic", ""]
    lines += [*REPLAY.splitlines(), "", *tables.replay_table(report["replay"]), ""]
    counters = (
        ("even", "even"),
        ("split", "split"),
        ("exact", "exact"),
        ("worst_gap_percent", "worst gap to exact, %"),
    )
    split = tables.times_table(report["times"], "split_bench", counters)
    lines += ["## Split of tokens over replicas", "", *SPLIT.splitlines(), "", *split, ""]
    after = tables.times_table(report["times"], "prepare_bench", (("moves_per_layer", "moves a layer"),))
    lines += ["## After the plan", "", *AFTER.splitlines(), "", *after, ""]
    instructions = tables.instructions_table(report["instructions"])
    lines += ["## Instructions", "", *INSTRUCTIONS.format(**report).splitlines(), "", *instructions]
    for series, mode, title, text in SECTIONS:
        chosen = of(series, mode)
        if not chosen:
            continue
        lines += ["", f"## {title}", "", text]
        for (shape, loads), cases in tables.grouped(
            chosen, lambda result: (tables.shape_of(result), result["loads"])
        ).items():
            lines += ["", f"### {tables.title_of(shape)}, {loads}", ""]
            lines += tables.table(cases, averaged=series == "recorded switch")
    if report["skipped"]:
        lines += ["", "## Recorded loads left out", ""]
        lines += [f"- {reason}" for reason in report["skipped"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import json

    if len(sys.argv) != 3:
        sys.exit("usage: planner_report.py FIGURES.json PAGE.md")
    with open(sys.argv[1], encoding="utf-8") as figures:
        write(sys.argv[2], page(json.load(figures)))
