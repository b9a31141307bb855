"""Runs our planner and the peers' policies on the same loads, on one core, and scores every placement by one scorer.

Called by scripts/bench.sh, which installs what it needs. Writes a JSON of all figures (--json), and from it
docs/benchmarks.md and docs/planner_trade_off.png (--page, --picture).

A case is a shape and loads of three windows: before, now, next. `full` plans now from the initial placement;
`incremental` plans now from the plan that vLLM's policy made of the loads before, for every policy alike. Every plan is
scored on the loads it was made from and on the next window.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time

import generate_loads
import numpy as np
import peer_policies
import placement_scores
import planner_report

DRIFT = 3  # Windows of a series that goes stale: before, now, next; each 10 % further to another distribution.
KINDS = generate_loads.KINDS
# Layers, experts, slots, ranks.
SHAPES = (
    (58, 256, 288, 32),
    (58, 256, 320, 64),
    (58, 256, 288, 72),
    (58, 256, 320, 32),
    (58, 128, 160, 32),
    (58, 256, 256, 32),
    (92, 896, 1024, 128),
)
SWITCH = (75, 256, 320, 32)
QUICK_SHAPES = ((3, 32, 40, 8),)
QUICK_SWITCH = (3, 32, 40, 8)
CURVE = (1, 2, 4, 8, 16, 26, 32, 64)
# Recorded loads: file, slots, ranks, and windows before, now and next; a file of one window has full plans alone.
RECORDED = (
    ("dsv2lite_windows1024", 80, 8, (0, 1, 2)),
    ("gptoss20b_windows2048", 40, 8, (0, 1, 2)),
    ("gptoss20b_decode_b64_x10", 40, 8, (0, 1, 2)),
    ("tinymoe_serve", 80, 8, (0, 1, 2)),
    ("qwen3_30b_a3b_decode", 160, 32, (None, 0, None)),
    ("qwen3_next_80b_a3b_decode", 640, 32, (None, 0, None)),
)
# Every window of these is another text domain: all steps from one to the following are domain switches.
RECORDED_SWITCHES = (("dsv2lite_tasks", 80, 8), ("gptoss20b_domains", 40, 8), ("tinymoe_domains", 80, 8))


class Failed(Exception):
    """Our own tool gave no plan, or says other than the scorer."""


class Tool:
    """`swiftbalancer plan`, on files in a folder of its own."""

    def __init__(self, binary, folder):
        self._binary = binary
        self._folder = folder

    def write(self, name, array):
        path = f"{self._folder}/{name}.npy"
        np.save(path, array)
        return path

    def plan(self, loads, num_slots, num_ranks, window, following=None, before=None, budget=None, dispatch=None):
        """The tool's JSON and the placement [layers, slots]; `loads` and `before` are paths."""
        output = f"{self._folder}/plan.npy"
        experts = np.load(loads, mmap_mode="r").shape[-1]
        command = [self._binary, "plan", "--json", "--loads", loads, "--window", str(window), "-o", output]
        command += ["--num-ranks", str(num_ranks), "--num-redundant-experts", str(num_slots - experts)]
        if following is not None:
            command += ["--score-window", str(following)]
        if before is not None:
            command += ["--from", before]
        if budget is not None:
            command += ["--max-moves-per-layer", str(budget)]
        if dispatch is not None:
            command += ["--dispatch", dispatch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
        placement = np.load(output).astype(np.int64)
        return json.loads(done.stdout), placement.reshape(placement.shape[0], num_slots)

    def split(self, loads, placement, num_ranks, window, following):
        """Imbalance of a placement whose replicas get the shares that level `window`, on it and on `following`."""
        path = self.write("split", placement)
        figures, _ = self.plan(loads, placement.shape[1], num_ranks, window, following, path, 0, "split")
        return figures["imbalance_mean"], figures.get("next_imbalance_split")


class Comparison:
    def __init__(self, tool, peers, only_peers):
        self._tool = tool
        self._peers = peers
        self._names = only_peers
        self._start = time.monotonic()
        self.results = []

    def say(self, text):
        print(f"[{time.monotonic() - self._start:5.0f} s] {text}", flush=True)

    def _record(self, case, mode, policy, outcome, windows, before_placement):
        """Scores one outcome, (milliseconds, placement) or a reason, and keeps it."""
        path, loads, now, following = windows
        ranks = case["ranks"]
        result = dict(case, mode=mode, policy=policy)
        if not isinstance(outcome, str):
            reason = placement_scores.check(outcome[1], case["experts"])
            outcome = reason if reason else outcome
        if isinstance(outcome, str):
            result["error"] = outcome
        else:
            milliseconds, placement = outcome
            result["ms"] = milliseconds
            next_loads = None if following is None else loads[following]
            result |= placement_scores.score(placement, ranks, loads[now], next_loads, before_placement)
            result["split"], result["next_split"] = self._tool.split(path, placement, ranks, now, following)
        self.results.append(result)

    def _check_ours(self, figures):
        """The tool's own figures are those that the scorer gave its plan."""
        result = self.results[-1]
        if "error" in result:
            raise Failed(f"plan: {result['error']}")
        # The tool reads loads as 32-bit floating point.
        if abs(figures["imbalance_mean"] - result["imbalance"]) > 1e-4:
            raise Failed(f"plan says imbalance {figures['imbalance_mean']}, the scorer {result['imbalance']}")

    def run(self, case, loads, windows, modes=("full", "incremental"), budgets=(None,)):
        """All policies on one case; windows (before, now, next) index the first axis of loads."""
        before, now, following = windows
        slots, ranks = case["slots"], case["ranks"]
        path = self._tool.write("loads", loads)
        scored = (path, loads.astype(np.float64), now, following)
        loads = scored[1]
        self.say(f"{case['loads']} {case['series']} seed {case['seed']}: {slots} slots, {ranks} ranks")
        start = placement_scores.initial(loads.shape[1], case["experts"], slots, ranks)
        if "full" in modes:
            for name in self._names:
                outcome = self._peers.plan(name, loads[now], start, slots, ranks)
                self._record(case, "full", name, outcome, scored, start)
            figures, placement = self._tool.plan(path, slots, ranks, now)
            self._record(case, "full", "ours", (figures["plan_ms"], placement), scored, start)
            self._check_ours(figures)
        if "incremental" not in modes or before is None:
            return
        current = self._peers.plan("vllm", loads[before], start, slots, ranks)
        if isinstance(current, str):
            self.say(f"no plan by vLLM to start from ({current}): ours instead")
            current = (None, self._tool.plan(path, slots, ranks, before)[1])
        current = current[1]
        self._record(case, "incremental", "stay", (0.0, current), scored, current)
        for name in self._names:
            outcome = self._peers.plan(name, loads[now], current, slots, ranks)
            self._record(case, "incremental", name, outcome, scored, current)
        current_path = self._tool.write("current", current)
        for budget in budgets:
            figures, placement = self._tool.plan(path, slots, ranks, now, before=current_path, budget=budget)
            policy = "ours" if budget is None else f"ours {budget}"
            self._record(case, "incremental", policy, (figures["plan_ms"], placement), scored, current)
            self._check_ours(figures)

    def generated(self, shapes, switch, seeds):
        for layers, experts, slots, ranks in shapes:
            curve = (slots, ranks) == (shapes[0][2], shapes[0][3])
            for kind in KINDS:
                for seed in seeds:
                    loads = generate_loads.generate(kind, layers, experts, seed, "drift", DRIFT)
                    case = case_of("stale", kind, seed, layers, experts, slots, ranks)
                    budgets = (None, *CURVE) if curve else (None, 4, 16)
                    self.run(case, loads, (0, 1, 2), budgets=budgets)
        layers, experts, slots, ranks = switch
        for kind in KINDS:
            for seed in seeds:
                first = generate_loads.distributions(kind, layers, experts, seed, "domains", 2)
                rng = np.random.default_rng([seed, 1 << 33])
                # The next window is another sample of the domain that was switched to.
                windows = (first[0], first[1], first[1])
                loads = np.stack([rng.multinomial(generate_loads.TOKENS, w) for w in windows]).astype(np.int64)
                case = case_of("switch", kind, seed, layers, experts, slots, ranks)
                self.run(case, loads, (0, 1, 2), modes=("incremental",), budgets=(None, *CURVE))

    def recorded(self, folder):
        """Files of the folder that are there; returns what was left out, and why."""
        skipped = []

        def read(name):
            path = f"{folder}/{name}.npy"
            if not os.path.exists(path):
                skipped.append(f"{name}: {folder} has no {name}.npy")
                return None
            return np.load(path).astype(np.int64)

        for name, slots, ranks, windows in RECORDED:
            if (loads := read(name)) is not None:
                case = case_of("recorded", name, 0, *loads.shape[1:], slots, ranks)
                self.run(case, loads, windows, budgets=(None, 4, 16))
        for name, slots, ranks in RECORDED_SWITCHES:
            if (loads := read(name)) is None:
                continue
            for window in range(1, loads.shape[0]):
                case = case_of("recorded switch", name, window, *loads.shape[1:], slots, ranks)
                self.run(case, loads, (window - 1, window, None), ("incremental",), (None, 4, 16, 32))
        return skipped


def case_of(series, loads, seed, layers, experts, slots, ranks):
    """seed: of the generator, or the window that recorded loads switch to."""
    return {
        "series": series,
        "loads": loads,
        "seed": seed,
        "layers": layers,
        "experts": experts,
        "slots": slots,
        "ranks": ranks,
    }


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def main(arguments):
    parser = argparse.ArgumentParser(description="Our planner beside the peers' policies.")
    parser.add_argument("--tool", required=True, help="the swiftbalancer program")
    parser.add_argument("--recorded", required=True, help="folder of recorded loads")
    parser.add_argument("--json", required=True)
    parser.add_argument("--page", required=True)
    parser.add_argument("--picture", required=True)
    parser.add_argument("--command", required=True, help="what the page says that it was made by")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a peer has for one case")
    parser.add_argument("--repeats", type=int, default=5, help="runs of a peer's policy, the best counts")
    parser.add_argument("--quick", action="store_true", help="one small shape and one seed")
    a = parser.parse_args(arguments)

    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    peers = peer_policies.Peers(a.limit, a.repeats)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(Tool(a.tool, folder), peers, list(peer_policies.PEERS))
        try:
            if a.quick:
                comparison.generated(QUICK_SHAPES, QUICK_SWITCH, seeds=(1,))
                skipped = ["all: a quick run"]
            else:
                comparison.generated(SHAPES, SWITCH, seeds=(1, 2, 3))
                skipped = comparison.recorded(a.recorded)
        except Failed as error:
            parser.exit(1, f"planner_comparison.py: {error}\n")
        finally:
            peers.close()
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine(),
        "core": core,
        "command": a.command,
        "seconds": round(time.monotonic() - begin),
        "limit": a.limit,
        "versions": peer_policies.versions() | {"numpy": np.__version__, "Python": platform.python_version()},
        "skipped": skipped,
        "results": comparison.results,
    }
    planner_report.write(a.json, json.dumps(report, indent=1) + "\n")
    planner_report.write(a.page, planner_report.page(report))
    import planner_picture

    planner_picture.draw(report, a.picture)
    comparison.say(f"wrote {a.page}, {a.picture}, {a.json}")


if __name__ == "__main__":
    main(sys.argv[1:])
