"""Writes docs/benchmarks.md from the figures of bench/planner_comparison.py. Needs no package and no network."""

import os
import sys

NAMES = {
    "vllm": "vLLM",
    "sglang": "SGLang deepseek",
    "sglang_vec": "SGLang deepseek_vec",
    "ascend_default": "vllm-ascend default",
    "swift": "vllm-ascend Swift",
    "flashlb": "vllm-ascend FlashLB",
    "ours": "**SwiftBalancer**",
    "stay": "no new plan",
}
COLUMNS = (
    ("ms", "time, ms"),
    ("imbalance", "imbalance"),
    ("worst_layer", "worst layer"),
    ("split", "split"),
    ("next", "next window"),
    ("next_split", "next, split"),
    ("moves", "moves a layer"),
    ("duplicates", "duplicates"),
)
SECTIONS = (
    (
        "stale",
        "full",
        "Full plans",
        "Planned from the initial placement. The next window is another 10 % of the way to another distribution.",
    ),
    (
        "stale",
        "incremental",
        "From a placement gone stale",
        "Planned from the placement that vLLM's policy made of the window before, 10 % of the way back; the same for "
        "every policy. `no new plan` is that placement itself.",
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
        "Every window is another text domain; a line gives the mean over all steps from one domain to the following.",
    ),
)
INTRODUCTION = """\
# Planner benchmark

Our planner beside the policies of vLLM, SGLang and vllm-ascend, which run from their published packages: the same loads,
one run, one core. This page is written whole by `{command}`; edit bench/planner_report.py instead.

| | |
|---|---|
| date | {date} |
| machine | {machine}; everything ran on core {core}, the whole run took {seconds} s |
| packages | {versions} |

The loads come from bench/generate_loads.py: the hottest expert of a layer carries 6.5 times the mean, as in DeepSeek-V3,
by a `zipf` or a `lognormal` distribution; a window has 32,768,000 tokens a layer and the sampling noise of a real
counter. A cell has one value for each seed, in order: 1, 2, 3.

- time: planning alone, all layers, the best of several runs. `x fastest peer` is the time of the fastest peer policy
  over this one's, `x vLLM` the time of vLLM's policy over this one's.
- imbalance: largest / mean rank load, mean over layers; `worst layer` is the largest of a layer. One scorer
  (bench/placement_scores.py) judges all placements; every replica of an expert gets the same part of its load.
- split: imbalance if the replicas get the shares that level the window planned for, by
  `swiftbalancer plan --dispatch split` for every policy's placement alike.
- next window; next, split: the same placement, and the same shares, on the next window.
- moves a layer: experts that a rank gains, mean over layers. `at most N` is `--max-moves-per-layer N`.
- duplicates: slots whose expert another slot of the same rank holds, over all layers.

A peer that fails, or takes more than {limit:g} s for one case, is listed with its error.
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


def name_of(policy):
    base, _, budget = policy.partition(" ")
    return NAMES[base] + (f", at most {budget}" if budget else "")


def is_peer(policy):
    return policy.split()[0] not in ("ours", "stay")


def mean(values):
    return sum(values) / len(values)


def grouped(results, key):
    """Lists of results by key(result), in the order of their first appearance."""
    groups = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def number(column, value):
    if column == "ms":
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"
    if column == "moves":
        return f"{value:.1f}"
    return str(value) if column == "duplicates" else f"{value:.4f}"


def cell(column, results, averaged):
    values = [result[column] for result in results]
    if any(value is None for value in values):
        return "-"
    if averaged and column != "duplicates":
        values = [mean(values)]
    if averaged and column == "duplicates":
        values = [sum(values)]
    return " · ".join(number(column, value) for value in values)


def mean_time(results):
    return mean([result["ms"] for result in results])


def faster(reference, results):
    """How many times as fast as a time in ms; '-' where there is nothing to compare."""
    return "-" if reference is None or mean_time(results) == 0 else f"{reference / mean_time(results):.3g}"


def good(results):
    return bool(results) and not any("error" in result for result in results)


def fastest_peer(policies):
    """(policy, mean ms) of the fastest peer that planned in every case, or None."""
    times = {policy: mean_time(of) for policy, of in policies.items() if is_peer(policy) and good(of)}
    return min(times.items(), key=lambda item: item[1]) if times else None


def table(results, averaged=False):
    """Lines of the table of one shape and one kind of loads."""
    policies = grouped(results, lambda result: result["policy"])
    fastest = fastest_peer(policies)
    vllm = mean_time(policies["vllm"]) if good(policies.get("vllm")) else None
    heads = [title for _, title in COLUMNS]
    heads[1:1] = ["x fastest peer", "x vLLM"]
    lines = ["| policy | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for policy, of in policies.items():
        errors = [result["error"] for result in of if "error" in result]
        if errors:
            text = errors[0].replace("|", "\\|")
            lines.append(
                f"| {name_of(policy)} | failed in {len(errors)} of {len(of)}: {text} |" + " |" * (len(heads) - 1)
            )
            continue
        cells = [cell(column, of, averaged) for column, _ in COLUMNS]
        if policy == "stay":
            cells[0] = "-"
        cells[1:1] = [faster(fastest and fastest[1], of), faster(vllm, of)]
        lines.append(f"| {name_of(policy)} | " + " | ".join(cells) + " |")
    return lines


def shape_of(result):
    return result["layers"], result["experts"], result["slots"], result["ranks"]


def title_of(shape):
    layers, experts, slots, ranks = shape
    return f"{slots} slots on {ranks} ranks ({layers} layers, {experts} experts)"


def summary(results):
    """Full plans, mean over all seeds and both distributions: ours beside the fastest and the best peer."""
    chosen = [result for result in results if result["series"] == "stale" and result["mode"] == "full"]
    lines = [
        "| shape | time, ms | x fastest peer | x vLLM | imbalance | worst layer | most balanced peer |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for shape, of_shape in grouped(chosen, shape_of).items():
        policies = grouped(of_shape, lambda result: result["policy"])
        ours = policies["ours"]
        peers = {policy: of for policy, of in policies.items() if is_peer(policy) and good(of)}
        fastest = fastest_peer(policies)
        vllm = mean_time(peers["vllm"]) if "vllm" in peers else None
        best = "-"
        if peers:
            balance = {policy: mean([result["imbalance"] for result in of]) for policy, of in peers.items()}
            policy = min(balance, key=balance.get)
            best = f"{balance[policy]:.4f} in {number('ms', mean_time(peers[policy]))} ms, {name_of(policy)}"
        ratio = f"{faster(fastest[1], ours)} ({name_of(fastest[0])})" if fastest else "-"
        worst = max(result["worst_layer"] for result in ours)
        lines.append(
            f"| {title_of(shape)} | {number('ms', mean_time(ours))} | {ratio} | {faster(vllm, ours)} | "
            f"{mean([result['imbalance'] for result in ours]):.4f} | {worst:.4f} | {best} |"
        )
    return lines


def page(report):
    """docs/benchmarks.md as text."""
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    facts = {key: report[key] for key in ("command", "date", "machine", "core", "seconds", "limit")}
    lines = INTRODUCTION.format(versions=versions, **facts).splitlines()
    lines += ["", "## Full plans in short", "", "Mean over both distributions and all seeds.", ""]
    lines += summary(report["results"])
    lines += ["", "![Moves against imbalance](planner_trade_off.png)"]
    for series, mode, title, text in SECTIONS:
        chosen = [result for result in report["results"] if (result["series"], result["mode"]) == (series, mode)]
        if not chosen:
            continue
        lines += ["", f"## {title}", "", text]
        for (shape, loads), of in grouped(chosen, lambda result: (shape_of(result), result["loads"])).items():
            lines += ["", f"### {title_of(shape)}, {loads}", ""]
            lines += table(of, averaged=series == "recorded switch")
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
