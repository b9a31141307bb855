"""Instruction counts of the planner's key operations (callgrind), and times that bench/*.cpp measure without a peer.

Used by bench/planner_benchmark.py, and by hand: prints one JSON object. Needs valgrind; standard library only. Counts
vary with compiler and machine (some loops are compiled for several instruction sets), but not with what else it does.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile

# What, benchmark program, its filter, the function (as far as its parameters), and what one call of it handles.
OPERATIONS = (
    (
        "full plan, 288 slots on 32 ranks",
        "full_plan_bench",
        "^58x256/288/32/seed1$",
        "swiftbalancer::FullPlanner::plan_layer(",
        "layer",
    ),
    (
        "full plan, 320 slots on 64 ranks",
        "full_plan_bench",
        "^58x256/320/64/seed1$",
        "swiftbalancer::FullPlanner::plan_layer(",
        "layer",
    ),
    (
        "incremental plan, at most 26 moves, 288 slots on 32 ranks",
        "incremental_bench",
        "^stale_58x256->288on32/lognormal/moves_26$",
        "SwiftPolicy::plan_layer(",
        "layer",
    ),
    (
        "split, 320 slots on 32 ranks",
        "split_bench",
        "^generator/320/32/stale10$",
        "swiftbalancer::ReplicaSplit::level(",
        "layer",
    ),
    (
        "prepare_plan, 24 moves a layer, 288 slots on 32 ranks",
        "prepare_bench",
        "^after_plan/incremental$",
        "swiftbalancer::prepare_plan(",
        "plan of 58 layers",
    ),
)
# Benchmark program, and which of its cases the page shows.
TIMED = (("split_bench", "."), ("prepare_bench", "."))


class Unmeasured(Exception):
    """No figure, and why."""


def run(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unmeasured(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise Unmeasured(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout


def calls_of(profile, function):
    """Calls of a function in the text of a callgrind profile, and the instructions spent in them and below."""
    names, callee = {}, None
    calls = instructions = 0
    lines = iter(profile.splitlines())
    for line in lines:
        if match := re.match(r"c?fn=\((\d+)\)(?: (.*))?$", line):
            number, name = match.groups()
            if name is not None:
                names[number] = name
            if line.startswith("c"):
                callee = names[number]
        elif line.startswith("calls=") and callee is not None:
            cost = next(lines)
            if function in callee:
                calls += int(line.split("=")[1].split()[0])
                instructions += int(cost.split()[-1])
    return calls, instructions


def count(folder, operation):
    """One line of the table: {what, one call handles, function, calls, instructions of a call} or its error."""
    what, program, cases, function, handles = operation
    line = {"what": what, "handles": handles, "function": function.rstrip("("), "cases": f"{program} {cases}"}
    with tempfile.NamedTemporaryFile(suffix=".callgrind") as profile:
        try:
            # One iteration: the minimum time is over at once.
            run(
                [
                    "valgrind",
                    "--tool=callgrind",
                    f"--callgrind-out-file={profile.name}",
                    f"{folder}/{program}",
                    f"--benchmark_filter={cases}",
                    "--benchmark_min_time=0.000001",
                ]
            )
            with open(profile.name, encoding="utf-8") as file:
                calls, instructions = calls_of(file.read(), function)
            if calls == 0:
                raise Unmeasured(f"{program} called no {line['function']} in {cases}")
        except Unmeasured as error:
            return line | {"error": str(error)}
    return line | {"calls": calls, "instructions": round(instructions / calls)}


def best_of(runs):
    """The shortest run of each benchmark in google-benchmark's JSON, by name, times in us, with its counters."""
    micro = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
    known = ("name", "run_name", "run_type", "time_unit", "real_time", "cpu_time", "iterations", "threads")
    known += ("repetitions", "repetition_index", "family_index", "per_family_instance_index")
    best = {}
    for entry in runs:
        if entry.get("run_type") != "iteration":
            continue
        time = entry["real_time"] * micro[entry["time_unit"]]
        name = entry["run_name"]
        if name not in best or time < best[name]["us"]:
            best[name] = {"name": name, "us": time, "counters": {k: v for k, v in entry.items() if k not in known}}
    return list(best.values())


def times(folder, quick):
    """Shortest times of the benchmark programs: [{program, cases: [...]} or {program, error}]."""
    result = []
    for program, cases in TIMED:
        command = [f"{folder}/{program}", f"--benchmark_filter={cases}", "--benchmark_format=json"]
        command += ["--benchmark_min_time=" + ("0.001" if quick else "0.1")]
        command += ["--benchmark_repetitions=" + ("1" if quick else "5")]
        try:
            text = run(command)
            result.append({"program": program, "cases": best_of(json.loads(text)["benchmarks"])})
        except (Unmeasured, ValueError, KeyError) as error:
            result.append({"program": program, "error": str(error)})
    return result


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default="build/release/bin", help="folder of the benchmark programs")
    a = parser.parse_args(arguments)
    figures = {
        "instructions": [count(a.programs, operation) for operation in OPERATIONS],
        "times": times(a.programs, False),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
