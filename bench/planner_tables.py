"""Tables of docs/benchmarks.md as lines of Markdown. Used by bench/planner_report.py; standard library only."""

import planner_goals

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
    ("gap", "above bound, %"),
    ("split", "split"),
    ("next", "next window"),
    ("next_split", "next, split"),
    ("moves", "moves a layer"),
    ("duplicates", "duplicates"),
)


def name_of(policy):
    base, _, rest = policy.partition(" ")
    word, _, budget = rest.rpartition(" ")
    if rest == "moved":
        word, budget = rest, ""
    if budget.endswith(planner_goals.OF_SWIFT):
        budget = f"{budget.removesuffix(planner_goals.OF_SWIFT)} of Swift's in all"
    return NAMES[base] + (", incremental" if word else "") + (f", at most {budget}" if budget else "")


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
        return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
    if column == "moves":
        return f"{value:.1f}"
    if column == "gap":
        return f"{100 * value:.2f}"
    return str(value) if column == "duplicates" else f"{value:.4f}"


def joined(texts):
    """One value for each seed, or a single one."""
    return texts[0] if len(set(texts)) == 1 else " · ".join(texts)


def cell(column, results, averaged):
    values = [result[column] for result in results]
    if any(value is None for value in values):
        return "-"
    if averaged:
        values = [
            max(values) if column in ("ms", "worst_layer") else sum(values) if column == "duplicates" else mean(values)
        ]
    return joined([number(column, value) for value in values])


def mean_time(results):
    return mean([result["ms"] for result in results])


def faster(reference, results):
    """How many times as fast as a time in ms; '-' where there is nothing to compare."""
    return "-" if reference is None or mean_time(results) == 0 else f"{reference / mean_time(results):.3g}"


def good(results):
    return bool(results) and not any("error" in result for result in results)


def fastest_peer(policies):
    """(policy, mean ms) of the fastest peer that planned in every case, or None."""
    times = {policy: mean_time(of) for policy, of in policies.items() if planner_goals.is_peer(policy) and good(of)}
    return min(times.items(), key=lambda item: item[1]) if times else None


def table(results, averaged=False):
    """Lines of the table of one shape and one kind of loads."""
    policies = grouped(results, lambda result: result["policy"])
    fastest = fastest_peer(policies)
    vllm = mean_time(policies["vllm"]) if good(policies.get("vllm")) else None
    columns = [(key, title) for key, title in COLUMNS if any(result.get(key) is not None for result in results)]
    heads = [title for _, title in columns]
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
        cells = [cell(key, of, averaged) for key, _ in columns]
        if policy == "stay":
            cells[0] = "-"
        cells[1:1] = [faster(fastest[1] if fastest else None, of), faster(vllm, of)]
        lines.append(f"| {name_of(policy)} | " + " | ".join(cells) + " |")
    return lines


def shape_of(result):
    return tuple(result[key] for key in ("layers", "experts", "slots", "ranks"))


def title_of(shape):
    layers, experts, slots, ranks = shape
    return f"{slots} slots on {ranks} ranks ({layers} layers, {experts} experts)"


def summary_of_full(results):
    """Every shape of the generated full plans in one line: ours, and which peer is best at what."""
    lines = [
        "| shape | time, ms | x fastest peer | x vLLM | above bound, % | worst layer | most balanced peer |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for shape, of_shape in grouped(results, shape_of).items():
        policies = grouped(of_shape, lambda result: result["policy"])
        ours = policies["ours"]
        peers = {policy: of for policy, of in policies.items() if planner_goals.is_peer(policy) and good(of)}
        fastest = fastest_peer(policies)
        vllm = mean_time(peers["vllm"]) if "vllm" in peers else None
        best = "-"
        if peers:
            policy = min(peers, key=lambda policy: mean([result["gap"] for result in peers[policy]]))
            gap = mean([result["gap"] for result in peers[policy]])
            best = f"{number('gap', gap)} % in {number('ms', mean_time(peers[policy]))} ms, {name_of(policy)}"
        ratio = f"{faster(fastest[1], ours)} ({name_of(fastest[0])})" if fastest else "-"
        lines.append(
            f"| {title_of(shape)} | {number('ms', mean_time(ours))} | {ratio} | {faster(vllm, ours)} | "
            f"{number('gap', mean([result['gap'] for result in ours]))} | "
            f"{max(result['worst_layer'] for result in ours):.4f} | {best} |"
        )
    return lines


def summary_of_incremental(results):
    """Imbalance after incremental plans, moves a layer and ms, for every shape: ours by budget, and the peers."""
    shown = ("stay", "ours 4", "ours 16", "ours 26", "ours", "vllm", "swift", "flashlb")
    lines = [
        "| shape | " + " | ".join(name_of(policy).replace("**", "") for policy in shown) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for shape, of_shape in grouped(results, shape_of).items():
        policies = grouped(of_shape, lambda result: result["policy"])
        cells = []
        for policy in shown:
            of = policies.get(policy)
            if not good(of):
                cells.append("-" if of is None else "failed")
                continue
            text = f"{mean([result['imbalance'] for result in of]):.4f}"
            if policy != "stay":
                text += f", {mean([result['moves'] for result in of]):.1f} moves, {number('ms', mean_time(of))} ms"
            cells.append(text)
        lines.append(f"| {title_of(shape)} | " + " | ".join(cells) + " |")
    return lines


def replay_table(replay):
    """Lines of the section on replays; every seed in a cell."""
    if "error" in replay:
        return [f"Failed: {replay['error']}"]
    peers = [name for name in replay["series"][0]["seeds"][0]["switch"]["schedules"] if name != "ours"]
    heads = [
        "series",
        "ranks, redundant",
        "changes seen / made",
        "decided after, steps",
        "served after",
        "met again: decided after",
    ]
    heads += [
        "excess, ours",
        *[f"excess, {name}" for name in peers],
        "ours / best peer",
        "moves a layer and switch",
        "false alarms",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]

    def steps(value):
        return "never" if value is None else str(value)

    for series in replay["series"]:
        seeds = series["seeds"]
        of = [seed["switch"] for seed in seeds]
        ours = [seed["schedules"]["ours"] for seed in of]
        again = [seed["return"]["steps_until_decided_again"] for seed in seeds]
        cells = [
            series["loads"].removesuffix(".npy"),
            f"{series['num_ranks']}, {series['num_redundant_experts']}",
            joined([f"{seed['changes_seen']} / {seed['changes_made']}" for seed in of]),
            joined([steps(seed["steps_until_decided"]) for seed in ours]),
            joined([steps(seed["steps_until_served"]) for seed in ours]),
            joined(["never" if None in seed else str(max(seed)) for seed in again]),
            joined([f"{seed['excess']:.4f}" for seed in ours]),
            *[joined([f"{seed['schedules'][name]['excess']:.4f}" for seed in of]) for name in peers],
            joined([f"{seed['ratio']:.3f}" for seed in of]),
            joined([f"{seed['moves_per_layer']:.1f}" for seed in ours]),
            joined([str(seed["stationary"]["changes_seen"]) for seed in seeds]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if replay["missing"]:
        lines += ["", "Not there: " + ", ".join(replay["missing"]) + "."]
    return lines


def times_table(times, program, counters):
    """Lines of the table of a benchmark program's cases: shortest time and the named counters."""
    of = next((entry for entry in times if entry["program"] == program), {"error": "it did not run"})
    if "error" in of:
        return [f"Failed: {of['error']}"]
    lines = [
        "| case | time, us | " + " | ".join(title for _, title in counters) + " |",
        "|---|" + "---:|" * (1 + len(counters)),
    ]
    for case in of["cases"]:
        values = [case["counters"].get(key) for key, _ in counters]
        cells = ["-" if value is None else f"{value:.4f}" if value < 10 else f"{value:.1f}" for value in values]
        lines.append(f"| {case['name']} | {case['us']:.2f} | " + " | ".join(cells) + " |")
    return lines


def instructions_table(counts):
    lines = ["| what | function | instructions | of a |", "|---|---|---:|---|"]
    for count in counts:
        figure = f"{count['instructions']:,}" if "instructions" in count else f"failed: {count['error']}"
        lines.append(f"| {count['what']} | `{count['function']}` | {figure} | {count['handles']} |")
    return lines
