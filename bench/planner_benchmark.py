"""The planner benchmark: everything that docs/benchmarks.md shows, in one run.

Called by scripts/bench.sh, which installs and builds what it needs. Writes a JSON of all figures (--json), and from it
the page and the picture (--page, --picture). What needs no clock (replays, instruction counts) comes first and takes
all cores; what is timed comes after it, on one core, with nothing beside it.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time

import code_figures
import peer_policies
import planner_comparison
import planner_report
import replay_figures
from planner_comparison import QUICK_SHAPES, QUICK_SWITCH, SHAPES, SWITCH, Comparison, Failed, Tool

SEEDS = (1, 2, 3)


def first_line(command):
    """Of what a command prints, or None where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0] if done.stdout else ""


def machine():
    """What the figures were measured on and with, by name, in the order of the page."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def build(folder):
    """Compiler and options of a CMake build folder, and the commit that it is of."""
    facts = {}
    try:
        with open(f"{folder}/CMakeCache.txt", encoding="utf-8") as file:
            cache = dict(re.findall(r"^(CMAKE_CXX_COMPILER|CMAKE_BUILD_TYPE):\w+=(.+)$", file.read(), re.MULTILINE))
    except OSError:
        return facts
    if (compiler := cache.get("CMAKE_CXX_COMPILER")) and (line := first_line([compiler, "--version"])):
        facts["compiler"] = f"{line}, {cache.get('CMAKE_BUILD_TYPE', 'no build type')}"
    if commit := first_line(["git", "rev-parse", "--short=12", "HEAD"]):
        changed = first_line(
            ["git", "status", "--porcelain", "--untracked-files=no", "src", "include", "tools", "bench"]
        )
        facts["source"] = f"commit {commit}" + (", with changes" if changed else "")
    return facts


def busy_seconds():
    """Processor time that all programs of the machine have used, and that this one and its children have."""
    with open("/proc/stat", encoding="utf-8") as file:
        user, nice, system, _idle, _waiting, irq, softirq, *_ = map(int, file.readline().split()[1:])
    mine = os.times()
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), sum(mine[:4])


def without_clock(a, quick):
    """Replays and instruction counts, on all cores. @returns (replay figures or {"error"}, counts)."""
    seeds = SEEDS[:1] if quick else SEEDS
    with (
        tempfile.TemporaryDirectory() as scratch,
        concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        counts = [pool.submit(code_figures.count, a.programs, operation) for operation in code_figures.OPERATIONS]
        try:
            tool = f"{a.programs}/swiftbalancer"
            replays = replay_figures.measure(pool, tool, [a.recorded], seeds, scratch, quick)()
        except (RuntimeError, OSError, ValueError, KeyError, ZeroDivisionError) as error:
            replays = {"error": f"{type(error).__name__}: {error}"}
        return replays, [count.result() for count in counts]


def compare(a, peers, folder):
    """@returns (results of all policies, what was left out)."""
    comparison = Comparison(Tool(f"{a.programs}/swiftbalancer", folder), peers, list(peer_policies.PEERS))
    if a.quick:
        comparison.generated(QUICK_SHAPES, QUICK_SWITCH, SEEDS[:1])
        return comparison.results, ["all: a quick run"]
    comparison.generated(SHAPES, SWITCH, SEEDS)
    return comparison.results, comparison.recorded(a.recorded)


def main(arguments):
    parser = argparse.ArgumentParser(description="Our planner beside the peers' policies.")
    parser.add_argument("--programs", required=True, help="folder of the swiftbalancer program and the benchmarks")
    parser.add_argument("--recorded", required=True, help="folder of recorded loads")
    parser.add_argument("--json", required=True)
    parser.add_argument("--page", required=True)
    parser.add_argument("--picture", required=True)
    parser.add_argument("--command", required=True, help="what the page says that it was made by")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a peer has for one case")
    parser.add_argument("--repeats", type=int, default=5, help="runs of a peer's policy, the best counts")
    parser.add_argument("--quick", action="store_true", help="two small shapes and one seed")
    a = parser.parse_args(arguments)

    begin = time.monotonic()
    print("replays and instruction counts, on all cores", flush=True)
    replays, counts = without_clock(a, a.quick)
    print(f"[{time.monotonic() - begin:5.0f} s] times, on one core", flush=True)
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    timed = time.monotonic()
    used = busy_seconds()
    peers = peer_policies.Peers(a.limit, a.repeats)
    with tempfile.TemporaryDirectory() as folder:
        try:
            times = code_figures.times(a.programs, a.quick)
            results, skipped = compare(a, peers, folder)
        except Failed as error:
            parser.exit(1, f"planner_benchmark.py: {error}\n")
        finally:
            peers.close()
    now = busy_seconds()
    others = (now[0] - used[0] - (now[1] - used[1])) / (time.monotonic() - timed)
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine() | build(os.path.dirname(a.programs.rstrip("/"))),
        "core": core,
        "others": round(max(0.0, others), 2),
        "command": a.command,
        "seconds": round(time.monotonic() - begin),
        "limit": a.limit,
        "repeats": a.repeats,
        "enough_seconds": peer_policies.ENOUGH_SECONDS,
        "our_runs": planner_comparison.OUR_RUNS,
        "versions": peer_policies.versions() | {"Python": platform.python_version()},
        "valgrind": first_line(["valgrind", "--version"]) or "none",
        "skipped": skipped,
        "replay": replays,
        "instructions": counts,
        "times": times,
        "results": results,
    }
    planner_report.write(a.json, json.dumps(report, indent=1) + "\n")
    planner_report.write(a.page, planner_report.page(report))
    import planner_picture  # Needs matplotlib, which the tests do without.

    planner_picture.draw(report, a.picture)
    print(f"[{report['seconds']:5} s] wrote {a.page}, {a.picture}, {a.json}")


if __name__ == "__main__":
    main(sys.argv[1:])
