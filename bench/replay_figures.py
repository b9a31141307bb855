"""How soon and how well schedules of rebalances follow traffic that changes: `swiftbalancer replay` on several series.

Called by bench/planner_benchmark.py and by hand, then prints one JSON object. Needs numpy.

Per series of windows (each an own text domain) and seed:
  switch      every window for 3,000 steps, one after the other: ours beside the schedules of vllm-ascend, SGLang and
              vLLM with EPLB; figures over the windows after the first
  return      windows 0 1 2, twice: what is decided for a domain that was served before
  stationary  window 0 for 10,000 steps: changes seen (false alarms) and moves after the first plans
A seed draws the sampled steps, and of generated series the domains too.
"""

import argparse
import concurrent.futures
import json
import os
import shlex
import subprocess
import sys
import tempfile

import generate_loads

OURS = "ours"
PEERS = {"vllm-ascend": "every:650:window:650", "SGLang": "every:1000:window:1000", "vLLM": "every:3000:window:1000"}
STEPS = 3000
STATIONARY_STEPS = 10_000
SETTLED_STEPS = 1000  # Plans of ours for one traffic are corrected once, long before this.
DOMAINS = 5  # Of a generated series.
LAYERS, EXPERTS = 58, 256

# Generated kind or recorded file, ranks, redundant experts, top-k: of 256 experts, then of 64 and 32.
SERIES = (
    ("zipf", 32, 64, 8),
    ("lognormal", 32, 64, 8),
    ("dsv2lite_tasks.npy", 32, 64, 6),
    ("dsv2lite_tasks.npy", 8, 16, 6),
    ("gptoss20b_domains.npy", 32, 32, 4),
    ("gptoss20b_domains.npy", 8, 8, 4),
)
QUICK_SERIES = (("zipf", 8, 8, 4),)


def replay(tool, arguments):
    """One run: its JSON object, and the command for the report (the tool and the file by their names alone)."""
    run = subprocess.run([tool, "replay", *arguments, "--json"], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip())
    shown = [os.path.basename(part) if part.endswith(".npy") else part for part in arguments]
    return json.loads(run.stdout), "swiftbalancer replay " + shlex.join(shown) + " --json"


def switch(tool, shape, seed, steps=STEPS):
    """Figures over the windows after the first."""
    schedules = ",".join([OURS, *PEERS.values()])
    result, command = replay(
        tool, [*shape, "--seed", str(seed), "--steps-per-window", str(steps), "--schedule", schedules]
    )
    keys = (
        "excess",
        "imbalance_even",
        "imbalance_split",
        "steps_until_decided",
        "steps_until_served",
        "moves_per_layer",
    )
    figures = {
        name: {key: schedule[key] for key in keys}
        for name, schedule in zip([OURS, *PEERS], result["schedules"], strict=True)
    }
    ours, *peers = [schedule["excess"] for schedule in result["schedules"]]
    changes = [window["changes_seen"] for window in result["schedules"][0]["windows"]]
    return {
        "command": command,
        "schedules": figures,
        "excess_of_best_peer_schedule": min(peers),
        "ratio": ours / min(peers),
        "changes_seen": sum(changes),
        "changes_made": len(changes) - 1,
    }


def come_back(tool, shape, seed):
    """Steps until a good plan is decided, for domains met first and met again."""
    result, command = replay(
        tool, [*shape, "--seed", str(seed), "--steps-per-window", "500", "--windows", "0,1,2,0,1,2"]
    )
    decided = [window["steps_until_decided"] for window in result["schedules"][0]["windows"]]
    excess = [window["imbalance_split"] - window["hindsight"] for window in result["schedules"][0]["windows"]]
    return {
        "command": command,
        "steps_until_decided_first": decided[1:3],
        "steps_until_decided_again": decided[3:],
        "excess_first": sum(excess[1:3]) / 2,
        "excess_again": sum(excess[3:]) / 3,
    }


def stationary(tool, shape, seed, steps=STATIONARY_STEPS):
    """False alarms, and moves made once the first plans were made: window 0 is replayed in ten parts."""
    parts = max(2, steps // SETTLED_STEPS)
    windows = ",".join(["0"] * parts)
    result, command = replay(
        tool, [*shape, "--seed", str(seed), "--steps-per-window", str(steps // parts), "--windows", windows]
    )
    parts = result["schedules"][0]["windows"]
    return {
        "command": command,
        "steps": steps,
        "changes_seen": sum(part["changes_seen"] for part in parts),
        "moves_per_layer_first_1000_steps": parts[0]["moves"] / result["num_moe_layers"],
        "moves_after": sum(part["moves"] for part in parts[1:]),
    }


def find(name, folders):
    """The path of a file in one of the folders, or None."""
    paths = [os.path.join(folder, name) for folder in folders]
    return next((path for path in paths if os.path.isfile(path)), None)


def loads_of(name, seed, folders, scratch, size):
    """Path of a series: recorded, or generated into the folder `scratch`; None where there is no such file."""
    if name not in generate_loads.KINDS:
        return find(name, folders)
    layers, experts, domains = size
    path = os.path.join(scratch, f"domains_{name}_{layers}x{experts}_seed{seed}.npy")
    generate_loads.save(path, generate_loads.generate(name, layers, experts, seed, "domains", domains))
    return path


def jobs(tool, folders, seeds, scratch, quick=False):
    """(series as the report lists them, [(what, figures to fill, call)]), and the files that are missing."""
    series, todo, missing = [], [], set()
    size = (3, 32, 3) if quick else (LAYERS, EXPERTS, DOMAINS)
    steps, stationary_steps = (200, 400) if quick else (STEPS, STATIONARY_STEPS)
    for name, ranks, redundant, top_k in QUICK_SERIES if quick else SERIES:
        figures = {"loads": name, "num_ranks": ranks, "num_redundant_experts": redundant, "seeds": []}
        for seed in seeds:
            path = loads_of(name, seed, folders, scratch, size)
            if path is None:
                missing.add(name)
                break
            shape = ["--loads", path, "--num-ranks", str(ranks), "--num-redundant-experts", str(redundant)]
            shape += ["--top-k", str(top_k)]
            of_seed = {"seed": seed}
            figures["seeds"].append(of_seed)
            todo.append((of_seed, "switch", switch, (tool, shape, seed, steps)))
            todo.append((of_seed, "return", come_back, (tool, shape, seed)))
            todo.append((of_seed, "stationary", stationary, (tool, shape, seed, stationary_steps)))
        if figures["seeds"]:
            series.append(figures)
    return series, todo, sorted(missing)


def measure(pool, tool, folders, seeds, scratch, quick=False):
    """Starts all runs on the pool's workers. @returns a call that waits for the figures (main()'s object)."""
    series, todo, missing = jobs(tool, folders, seeds, scratch, quick)
    pending = [(of_seed, key, pool.submit(call, *arguments)) for of_seed, key, call, arguments in todo]

    def wait():
        for of_seed, key, future in pending:
            of_seed[key] = future.result()
        return {"series": series, "missing": missing}

    return wait


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default="build/release/bin/swiftbalancer")
    parser.add_argument("--loads", action="append", required=True, help="folder with recorded series; may be repeated")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time")
    arguments = parser.parse_args()
    for name in ("seeds", "workers"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}; allowed: 1 or more")
    seeds = range(1, arguments.seeds + 1)
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(arguments.workers) as pool:
        print(json.dumps(measure(pool, arguments.tool, arguments.loads, seeds, scratch)(), indent=1))


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError, ValueError) as error:
        sys.exit(f"replay_figures: error: {error}")
