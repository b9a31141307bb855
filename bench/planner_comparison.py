"""Our planner and the peers' policies on the same loads, one after the other on one core, with one scorer for all.

Used by bench/planner_benchmark.py. A case is a shape and loads of three windows: before, now, next.
  full         planned from nothing on the loads `before` while those are served, scored on `now` as the next window
  incremental  planned on `now` from the placement that vLLM's policy made of the loads before, for every policy alike;
               `next` is the next window
"""

import json
import os
import subprocess
import time

import generate_loads
import numpy as np
import placement_scores
from planner_goals import OF_SWIFT

DRIFT = 3  # Windows of a series that goes stale: before, now, next; each 10 % further to another distribution.
KINDS = generate_loads.KINDS
# Short plans are timed by several runs of the tool: one run of it is over in the time slice of another program.
OUR_RUNS = 3
SLOW_MS = 10.0
BUDGETS = (None, 4, 16, 26, 32)  # Moves a layer; None: no limit.
CURVE = (None, 1, 2, 4, 8, 16, 26, 32, 64)
FINE_CURVE = (None, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 26, 32, 40)
# Without redundancy ours also gets this part of Swift's moves, to spend over all layers as Swift does.
PART_OF_SWIFT = 0.9
# Layers, experts, slots, ranks, and budgets of our incremental plans.
SHAPES = (
    (58, 256, 288, 32, CURVE),
    (58, 256, 320, 64, BUDGETS),
    (58, 256, 288, 72, BUDGETS),
    (58, 256, 320, 32, BUDGETS),
    (58, 128, 160, 32, BUDGETS),
    (58, 256, 256, 32, FINE_CURVE),  # To see how few moves reach the balance of Swift.
    (92, 896, 1024, 128, BUDGETS),
)
SWITCH = (75, 256, 320, 32, CURVE)
QUICK_SHAPES = ((3, 32, 40, 8, BUDGETS), (3, 32, 32, 8, BUDGETS))
QUICK_SWITCH = (3, 32, 40, 8, CURVE)
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
RECORDED_SWITCHES = (
    ("dsv2lite_tasks", 80, 8),
    ("gptoss20b_domains", 40, 8),
    ("olmoe_1b7b_3layers", 80, 8),
    ("tinymoe_domains", 80, 8),
)
LEFT_OUT = {
    "mixtral_8x7b_3layers": "3 layers of 8 experts, the hottest with 1.2 times the mean: nothing to balance",
    "olmoe_tulu_base_sft_dpo": "the same text through three checkpoints: the weights change, not the traffic",
    "tinymoe_training": "a model while it is trained: the weights change, not the traffic",
}


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

    def plan(self, loads, num_slots, num_ranks, window, following=None, before=None, dispatch=None, **budgets):
        """The tool's JSON and the placement [layers, slots]; `loads` and `before` are paths.

        Budgets are those of the tool by name, e.g. max_moves_per_layer; None: no limit.
        """
        output = f"{self._folder}/plan.npy"
        experts = np.load(loads, mmap_mode="r").shape[-1]
        command = [self._binary, "plan", "--json", "--loads", loads, "--window", str(window), "-o", output]
        command += ["--num-ranks", str(num_ranks), "--num-redundant-experts", str(num_slots - experts)]
        if following is not None:
            command += ["--score-window", str(following)]
        if before is not None:
            command += ["--from", before]
        for name, budget in budgets.items():
            if budget is not None:
                command += [f"--{name.replace('_', '-')}", str(budget)]
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
        figures, _ = self.plan(
            loads, placement.shape[1], num_ranks, window, following, path, "split", max_moves_per_layer=0
        )
        return figures["imbalance_mean"], figures.get("next_imbalance_split")


class Scene:
    """The loads of a case: planned on one window, scored on it and on the one after."""

    def __init__(self, path, loads, case, window, following):
        self.path = path
        self.window = window
        self.following = following
        self.now = loads[window]
        self.next = None if following is None else loads[following]
        self.bound = placement_scores.lower_bound(self.now, case["slots"], case["ranks"])


class Comparison:
    """Runs cases and keeps their results: dictionaries of the case, mode, policy and figures, or the error."""

    def __init__(self, tool, peers, only_peers):
        self._tool = tool
        self._peers = peers
        self._names = only_peers
        self._start = time.monotonic()
        self.results = []

    def say(self, text):
        print(f"[{time.monotonic() - self._start:5.0f} s] {text}", flush=True)

    def _record(self, case, mode, policy, outcome, scene, before):
        """Scores one outcome, (milliseconds, placement) or a reason, and keeps it. @returns what was kept."""
        result = dict(case, mode=mode, policy=policy)
        if not isinstance(outcome, str):
            reason = placement_scores.check(outcome[1], case["experts"])
            outcome = reason if reason else outcome
        if isinstance(outcome, str):
            result["error"] = outcome
        else:
            result["ms"], placement = outcome
            ranks = case["ranks"]
            result |= placement_scores.score(placement, ranks, scene.now, scene.bound, scene.next, before)
            result["split"], result["next_split"] = self._tool.split(
                scene.path, placement, ranks, scene.window, scene.following
            )
        self.results.append(result)
        return result

    def _peer(self, case, mode, name, scene, current):
        """The placement, or the reason why there is none."""
        outcome = self._peers.plan(name, scene.now, current, case["slots"], case["ranks"])
        self._record(case, mode, name, outcome, scene, current)
        return outcome if isinstance(outcome, str) else outcome[1]

    def _ours(self, case, mode, policy, scene, current, full=False, **budgets):
        """One plan of ours from `current`, or from nothing; the tool's own figures must be the scorer's."""
        start = None if full else self._tool.write("current", current)
        best = None
        for _ in range(OUR_RUNS):
            figures, placement = self._tool.plan(
                scene.path, case["slots"], case["ranks"], scene.window, scene.following, start, **budgets
            )
            best = figures["plan_ms"] if best is None else min(best, figures["plan_ms"])
            if best > SLOW_MS:
                break
        result = self._record(case, mode, policy, (best, placement), scene, current)
        check_ours(figures, result)

    def _curve(self, case, mode, name, scene, current, budgets):
        """Our incremental plans with each budget, and without redundancy one with a part of Swift's moves."""
        for budget in budgets:
            self._ours(case, mode, policy_of(budget, name), scene, current, max_moves_per_layer=budget)
        swift = [
            result
            for result in self.results
            if result["policy"] == "swift" and result["mode"] == mode and case.items() <= result.items()
        ]
        if case["slots"] == case["experts"] and swift and "error" not in swift[-1]:
            total = int(PART_OF_SWIFT * swift[-1]["moves"] * case["layers"])
            policy = f"{name} {PART_OF_SWIFT:g}{OF_SWIFT}"
            self._ours(case, mode, policy, scene, current, max_moves_per_rebalance=total)

    def run(self, case, loads, windows, modes=("full", "incremental"), budgets=BUDGETS):
        """All policies on one case; windows (before, now, next) index the first axis of loads."""
        before, now, following = windows
        path = self._tool.write("loads", loads)
        loads = loads.astype(np.float64)
        self.say(f"{case['loads']} {case['series']} seed {case['seed']}: {case['slots']} slots, {case['ranks']} ranks")
        initial = placement_scores.initial(loads.shape[1], case["experts"], case["slots"], case["ranks"])
        served = None
        if "full" in modes:
            scene = Scene(path, loads, case, *((now, following) if before is None else (before, now)))
            placements = {name: self._peer(case, "full", name, scene, initial) for name in self._names}
            served = placements.get("vllm")
            self._ours(case, "full", "ours", scene, initial, full=True)
            if case["slots"] == case["experts"]:
                # Swift keeps what it can of the initial placement: so must what is compared with it.
                self._curve(case, "full", "ours moved", scene, initial, budgets)
        if "incremental" not in modes or before is None:
            return
        self._incremental(case, loads, path, windows, budgets, initial, served)

    def _incremental(self, case, loads, path, windows, budgets, initial, served):
        before, now, following = windows
        if served is None:
            outcome = self._peers.plan("vllm", loads[before], initial, case["slots"], case["ranks"])
            served = outcome if isinstance(outcome, str) else outcome[1]
        if isinstance(served, str):
            self.say(f"no plan by vLLM to start from ({served}): ours instead")
            served = self._tool.plan(path, case["slots"], case["ranks"], before)[1]
        scene = Scene(path, loads, case, now, following)
        self._record(case, "incremental", "stay", (0.0, served), scene, served)
        for name in self._names:
            self._peer(case, "incremental", name, scene, served)
        self._curve(case, "incremental", "ours", scene, served, budgets)

    def generated(self, shapes, switch, seeds):
        for layers, experts, slots, ranks, budgets in shapes:
            for kind in KINDS:
                for seed in seeds:
                    loads = generate_loads.generate(kind, layers, experts, seed, "drift", DRIFT)
                    case = case_of("stale", kind, seed, layers, experts, slots, ranks)
                    self.run(case, loads, (0, 1, 2), budgets=budgets)
        layers, experts, slots, ranks, budgets = switch
        for kind in KINDS:
            for seed in seeds:
                first = generate_loads.distributions(kind, layers, experts, seed, "domains", 2)
                rng = np.random.default_rng([seed, 1 << 33])
                # The next window is another sample of the domain that was switched to.
                windows = (first[0], first[1], first[1])
                loads = np.stack([rng.multinomial(generate_loads.TOKENS, w) for w in windows]).astype(np.int64)
                case = case_of("switch", kind, seed, layers, experts, slots, ranks)
                self.run(case, loads, (0, 1, 2), modes=("incremental",), budgets=budgets)

    def recorded(self, folder):
        """Files of the folder that are there; returns what was left out, and why."""
        skipped = []

        def read(name):
            path = f"{folder}/{name}.npy"
            if not os.path.exists(path):
                skipped.append(f"{name}: no such file")
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
        return skipped + left_out(folder)


def left_out(folder):
    """Why files of the folder are not among the cases."""
    known = {name for name, *_ in (*RECORDED, *RECORDED_SWITCHES)}
    files = os.listdir(folder) if os.path.isdir(folder) else []
    names = {name.removesuffix(".npy") for name in files if name.endswith(".npy")}
    return [f"{name}: {LEFT_OUT.get(name, 'not known to this benchmark')}" for name in sorted(names - known)]


def policy_of(budget, base):
    return base if budget is None else f"{base} {budget}"


def check_ours(figures, result):
    """The tool's own figures are those that the scorer gave its plan."""
    if "error" in result:
        raise Failed(f"plan: {result['error']}")
    pairs = {
        "imbalance_mean": "imbalance",
        "imbalance_worst": "worst_layer",
        "next_imbalance_even": "next",
        "moves_per_layer": "moves",
        "same_rank_duplicates": "duplicates",
    }
    for theirs, ours in pairs.items():
        # A plan from nothing names no moves. The tool reads loads as 32-bit floating point.
        if figures.get(theirs) is not None and abs(figures[theirs] - result[ours]) > 1e-4:
            raise Failed(f"plan says {theirs} {figures[theirs]}, the scorer {result[ours]}")


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
