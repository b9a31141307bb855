"""How soon and how well schedules of rebalances follow traffic that changes: `swiftbalancer replay` on several series.

Called by scripts/bench.sh and by hand. Prints one JSON object. Standard library only.

Per series of windows (each an own text domain) and seed:
  switch      every window for 3,000 steps, one after the other: ours beside the schedules of vllm-ascend, SGLang and vLLM
              with EPLB; figures over the windows after the first
  return      windows 0 1 2, twice: what is decided for a domain that was served before
  stationary  window 0 for 10,000 steps: changes seen (false alarms) and moves after the first plans
"""

import argparse
import json
import os
import shlex
import subprocess
import sys

OURS = "ours"
PEERS = {"vllm-ascend": "every:650:window:650", "SGLang": "every:1000:window:1000", "vLLM": "every:3000:window:1000"}
STEPS = 3000
STATIONARY_STEPS = 10_000
SETTLED_STEPS = 1000  # Plans of ours for one traffic are corrected once, long before this.

# File, ranks, redundant experts, top-k: generated loads of 256 experts, then recorded ones of 64 and 32.
SERIES = (
    ("domains_zipf_58x256.npy", 32, 64, 8),
    ("domains_lognormal_58x256.npy", 32, 64, 8),
    ("dsv2lite_tasks.npy", 32, 64, 6),
    ("dsv2lite_tasks.npy", 8, 16, 6),
    ("gptoss20b_domains.npy", 32, 32, 4),
    ("gptoss20b_domains.npy", 8, 8, 4),
)


def replay(tool, arguments):
    """One run: its JSON object, and the command for the report (the tool and the file by their names alone)."""
    run = subprocess.run([tool, "replay", *arguments, "--json"], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip())
    shown = [os.path.basename(part) if part.endswith(".npy") else part for part in arguments]
    return json.loads(run.stdout), "swiftbalancer replay " + shlex.join(shown) + " --json"


def switch(tool, shape, seed):
    """Figures over the windows after the first."""
    schedules = ",".join([OURS, *PEERS.values()])
    result, command = replay(
        tool, [*shape, "--seed", str(seed), "--steps-per-window", str(STEPS), "--schedule", schedules]
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


def stationary(tool, shape, seed):
    """False alarms, and moves made once the first plans were made: window 0 is replayed in ten parts."""
    parts = STATIONARY_STEPS // SETTLED_STEPS
    windows = ",".join(["0"] * parts)
    result, command = replay(
        tool, [*shape, "--seed", str(seed), "--steps-per-window", str(SETTLED_STEPS), "--windows", windows]
    )
    parts = result["schedules"][0]["windows"]
    return {
        "command": command,
        "steps": STATIONARY_STEPS,
        "changes_seen": sum(part["changes_seen"] for part in parts),
        "moves_per_layer_first_1000_steps": parts[0]["moves"] / result["num_moe_layers"],
        "moves_after": sum(part["moves"] for part in parts[1:]),
    }


def find(name, folders):
    """The path of a file in one of the folders, or None."""
    paths = [os.path.join(folder, name) for folder in folders]
    return next((path for path in paths if os.path.isfile(path)), None)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default="build/release/bin/swiftbalancer")
    parser.add_argument("--loads", action="append", required=True, help="folder with series; may be given again")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N - 1 of the sampled steps")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}; allowed: 1 or more")
    series, missing = [], []
    for name, ranks, redundant, top_k in SERIES:
        path = find(name, arguments.loads)
        if path is None:
            missing.append(name)
            continue
        shape = ["--loads", path, "--num-ranks", str(ranks), "--num-redundant-experts", str(redundant)]
        shape += ["--top-k", str(top_k)]
        figures = {"loads": name, "num_ranks": ranks, "num_redundant_experts": redundant, "seeds": []}
        for seed in range(arguments.seeds):
            figures["seeds"].append(
                {
                    "seed": seed,
                    "switch": switch(arguments.tool, shape, seed),
                    "return": come_back(arguments.tool, shape, seed),
                    "stationary": stationary(arguments.tool, shape, seed),
                }
            )
        series.append(figures)
    print(json.dumps({"series": series, "missing": sorted(set(missing))}, indent=1))


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError, ValueError) as error:
        sys.exit(f"replay_figures: error: {error}")
