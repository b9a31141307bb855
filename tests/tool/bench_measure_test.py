"""How scripts/bench.sh measures: loads, scorer, cases, replays and counts; no peer, tool or network."""

import concurrent.futures
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import code_figures
import generate_loads
import numpy as np
import placement_scores
import planner_comparison
import planner_tables
import replay_figures


def file_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class Generator(unittest.TestCase):
    def test_hottest_expert_carries_6_5_times_the_mean(self):
        for kind in generate_loads.KINDS:
            for layers, experts in ((58, 256), (58, 128), (92, 896)):
                chances, _ = generate_loads.domain(kind, layers, experts, 1, 0)
                self.assertAlmostEqual(generate_loads.skew(chances), 6.5, places=6)
                sampled = generate_loads.generate(kind, layers, experts, 1)[0].astype(float)
                self.assertAlmostEqual(generate_loads.skew(sampled), 6.5, delta=0.02)

    def test_a_seed_gives_the_same_file_in_another_process(self):
        with tempfile.TemporaryDirectory() as folder:
            for kind in generate_loads.KINDS:
                path = pathlib.Path(folder) / f"{kind}.npy"
                command = [
                    sys.executable,
                    BENCH / "generate_loads.py",
                    "--kind",
                    kind,
                    "--layers",
                    "3",
                    "--experts",
                    "64",
                ]
                command += ["--seed", "7", "--series", "drift", "--windows", "3", "-o", path]
                subprocess.run(command, check=True, capture_output=True)
                here = generate_loads.generate(kind, 3, 64, 7, "drift", 3)
                self.assertEqual(path.read_bytes(), file_bytes(here))

    def test_seeds_and_kinds_differ(self):
        loads = [
            file_bytes(generate_loads.generate(kind, 3, 64, seed))
            for kind in generate_loads.KINDS
            for seed in (1, 2, 3)
        ]
        self.assertEqual(len(set(loads)), 6)

    def test_every_layer_has_all_tokens(self):
        loads = generate_loads.generate("zipf", 4, 32, 1, "domains", 3, tokens=12345)
        self.assertEqual(loads.dtype, np.int64)
        self.assertTrue((loads.sum(axis=2) == 12345).all())

    def test_stale_loads_went_a_tenth_of_the_way(self):
        first, second = generate_loads.distributions("lognormal", 3, 64, 1, "drift", 2)
        other, _ = generate_loads.domain("lognormal", 3, 64, 1, 1)
        np.testing.assert_allclose(second, 0.9 * first + 0.1 * other, rtol=1e-12)

    def test_domains_of_a_switch_are_independent(self):
        first, second = generate_loads.distributions("zipf", 20, 256, 1, "domains", 2)
        correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
        self.assertLess(abs(float(np.mean(correlations))), 0.1)

    def test_bad_input_is_one_line(self):
        command = [sys.executable, BENCH / "generate_loads.py", "--kind", "zipf", "--experts", "4", "--seed", "1"]
        done = subprocess.run([*command, "-o", "never.npy"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertEqual(done.stderr, "generate_loads.py: skew is 6.5; with 4 experts it lies between 1 and 4\n")


class Scorer(unittest.TestCase):
    # Two layers of three experts on two ranks of two slots.
    LOADS = np.array([[6.0, 2.0, 4.0], [1.0, 1.0, 2.0]])
    PLACEMENT = np.array([[0, 1, 0, 2], [0, 0, 1, 2]])

    def test_imbalance_of_a_hand_made_placement(self):
        # Layer 0: expert 0 has two copies of 3; ranks have 3 + 2 and 3 + 4 tokens. Layer 1: 0.5 + 0.5 and 1 + 2.
        np.testing.assert_allclose(placement_scores.imbalance(self.PLACEMENT, self.LOADS, 2), [7 / 6, 3 / 2])

    def test_moves_are_experts_that_a_rank_gains(self):
        before = np.array([[1, 0, 2, 0], [1, 2, 0, 0]])
        # Layer 0 holds the same experts in another order; in layer 1 rank 0 gains expert 0, rank 1 gains 1 and 2.
        np.testing.assert_array_equal(placement_scores.moves(before, self.PLACEMENT, 2), [0, 3])

    def test_duplicates_are_counted_inside_a_rank_alone(self):
        self.assertEqual(placement_scores.same_rank_duplicates(self.PLACEMENT, 2), 1)

    def test_score_puts_the_figures_together(self):
        bound = np.array([6.0, 2.5])
        figures = placement_scores.score(self.PLACEMENT, 2, self.LOADS, bound, self.LOADS[::-1], self.PLACEMENT)
        self.assertAlmostEqual(figures["imbalance"], (7 / 6 + 3 / 2) / 2)
        self.assertAlmostEqual(figures["worst_layer"], 3 / 2)
        # Largest rank loads 7 and 3.
        self.assertAlmostEqual(figures["gap"], (7 / 6 + 3 / 2.5) / 2 - 1)
        self.assertAlmostEqual(figures["worst_gap"], 3 / 2.5 - 1)
        self.assertAlmostEqual(figures["balancedness"], (6 / 7 + 2 / 3) / 2)
        # Layer 0 on (1, 1, 2): 1.5 and 2.5; layer 1 on (6, 2, 4): 6 and 6.
        self.assertAlmostEqual(figures["next"], (2.5 / 2 + 1) / 2)
        self.assertEqual((figures["moves"], figures["duplicates"]), (0, 1))

    def test_lower_bound_is_the_mean_or_the_largest_part(self):
        # 12 tokens on 2 ranks; 9 tokens on one copy; on two copies 4.5, which is below the mean of 5.5.
        loads = np.array([[6.0, 2.0, 4.0], [9.0, 1.0, 1.0]])
        np.testing.assert_allclose(placement_scores.lower_bound(loads, 3, 3), [6.0, 9.0])
        np.testing.assert_allclose(placement_scores.lower_bound(loads, 4, 2), [6.0, 5.5])
        # Without redundancy the hottest expert's rank also holds another: the lightest at best.
        np.testing.assert_allclose(placement_scores.lower_bound(np.array([[9.0, 1.0, 2.0, 3.0]]), 4, 2), [10.0])
        # One copy on each rank at most: the second redundant slot wins nothing.
        np.testing.assert_allclose(placement_scores.lower_bound(np.array([[90.0, 1.0, 1.0]]), 5, 2), [46.0])

    def test_a_lost_or_unknown_expert_is_named(self):
        self.assertIsNone(placement_scores.check(self.PLACEMENT, 3))
        self.assertEqual(placement_scores.check(self.PLACEMENT, 4), "layer 0 has no slot for expert 3")
        self.assertEqual(placement_scores.check(self.PLACEMENT, 2), "a slot holds expert 0 or 2 of 2")

    def test_initial_placement_has_every_expert(self):
        for experts, slots, ranks in ((256, 288, 72), (64, 80, 8), (8, 8, 8)):
            placement = placement_scores.initial(2, experts, slots, ranks)
            self.assertEqual(placement.shape, (2, slots))
            self.assertIsNone(placement_scores.check(placement, experts))
            self.assertEqual(placement_scores.same_rank_duplicates(placement, ranks), 0)


class FakePeers:
    """Peers that keep what they are given, and note which loads they planned on."""

    def __init__(self):
        self.asked = []

    def plan(self, name, loads, current, _slots, _ranks):
        self.asked.append((name, float(loads[0, 0])))
        return "out of order" if name == "broken" else (10.0, current[:, ::-1] if name == "swift" else current)


class FakeTool:
    """Our tool, which plans the placement that it is given, or the initial one; its figures are off by `error`."""

    def __init__(self, error=0.0):
        self.error = error
        self.files = {}
        self.windows = []
        self.totals = []

    def write(self, name, array):
        self.files[name] = np.array(array)
        return name

    def plan(self, loads, num_slots, num_ranks, window, following=None, before=None, dispatch=None, **budgets):
        all_loads = self.files[loads].astype(float)
        self.windows.append((window, following, budgets.get("max_moves_per_layer"), before is not None))
        self.totals.append(budgets.get("max_moves_per_rebalance"))
        layers, experts = all_loads.shape[1:]
        placement = (
            self.files[before]
            if before is not None
            else placement_scores.initial(layers, experts, num_slots, num_ranks)
        )
        imbalance = placement_scores.imbalance(placement, all_loads[window], num_ranks)
        return {"plan_ms": 0.5, "imbalance_mean": float(imbalance.mean()) + self.error}, placement

    def split(self, _loads, _placement, _num_ranks, _window, following):
        return 1.0, None if following is None else 1.0


class Cases(unittest.TestCase):
    # Three windows of one layer of four experts; the first expert's load tells the window.
    LOADS = np.array([[[10, 20, 30, 40]], [[11, 20, 30, 40]], [[12, 20, 30, 90]]])

    def run_case(self, tool, slots, names=("vllm",), **options):
        peers = FakePeers()
        comparison = planner_comparison.Comparison(tool, peers, list(names))
        comparison.say = lambda text: None
        case = planner_comparison.case_of("stale", "zipf", 1, 1, 4, slots, 2)
        comparison.run(case, self.LOADS, (0, 1, 2), **options)
        return comparison.results, peers

    def test_full_plans_are_made_on_the_window_before_and_scored_on_now_too(self):
        tool = FakeTool()
        results, peers = self.run_case(tool, 6, modes=("full",))
        self.assertEqual(peers.asked, [("vllm", 10.0)])
        self.assertEqual(tool.windows[-1], (0, 1, None, False))
        ours = next(result for result in results if result["policy"] == "ours")
        start = placement_scores.initial(1, 4, 6, 2)
        for key, window in (("imbalance", 0), ("next", 1)):
            expected = placement_scores.imbalance(start, self.LOADS[window].astype(float), 2)[0]
            self.assertAlmostEqual(ours[key], expected)

    def test_incremental_plans_are_made_on_now_from_what_vllm_served(self):
        tool = FakeTool()
        results, peers = self.run_case(tool, 6, budgets=(None, 4))
        # vLLM's full plan of the window before is what is served: it is not asked for again.
        self.assertEqual(peers.asked, [("vllm", 10.0), ("vllm", 11.0)])
        self.assertEqual(list(dict.fromkeys(tool.windows))[-2:], [(1, 2, None, True), (1, 2, 4, True)])
        incremental = [result["policy"] for result in results if result["mode"] == "incremental"]
        self.assertEqual(incremental, ["stay", "vllm", "ours", "ours 4"])

    def test_without_redundancy_ours_also_starts_where_swift_does(self):
        results, _ = self.run_case(FakeTool(), 4, budgets=(None, 4))
        full = [result["policy"] for result in results if result["mode"] == "full"]
        self.assertEqual(full, ["vllm", "ours", "ours moved", "ours moved 4"])

    def test_without_redundancy_ours_gets_a_part_of_the_moves_of_swift(self):
        tool = FakeTool()
        results, _ = self.run_case(tool, 4, names=("vllm", "swift"), budgets=(4,))
        self.assertEqual([result["policy"] for result in results if "swift" in result["policy"]],
                         ["swift", "ours moved 0.9-of-swift", "swift", "ours 0.9-of-swift"])  # fmt: skip
        # Two ranks have exchanged two experts: nine tenths of four moves.
        self.assertEqual(set(tool.totals), {None, 3})
        results, _ = self.run_case(FakeTool(), 6, names=("vllm", "swift"), budgets=(4,))
        self.assertNotIn("ours 0.9-of-swift", [result["policy"] for result in results])

    def test_a_failing_peer_is_a_result(self):
        results, _ = self.run_case(FakeTool(), 6, names=("vllm", "broken"), modes=("full",))
        self.assertEqual([result.get("error") for result in results], [None, "out of order", None])

    def test_figures_that_are_not_the_scorers_end_the_run(self):
        with self.assertRaisesRegex(planner_comparison.Failed, "plan says imbalance_mean 1.*, the scorer 1"):
            self.run_case(FakeTool(error=0.001), 6)

    def test_recorded_files_that_are_not_used_are_named_with_the_reason(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("tinymoe_training", "another", "dsv2lite_tasks"):
                np.save(f"{folder}/{name}.npy", self.LOADS)
            self.assertEqual(
                planner_comparison.left_out(folder),
                [
                    "another: not known to this benchmark",
                    "tinymoe_training: " + planner_comparison.LEFT_OUT["tinymoe_training"],
                ],
            )
        self.assertEqual(planner_comparison.left_out(folder), [])


# A tool whose `replay` says what it was asked, for the schedules and windows that were named.
REPLAY_TOOL = """\
#!{python}
import json, sys
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
schedules = given.get("--schedule", "ours").split(",")
windows = given.get("--windows", "0,1,2").split(",")
def schedule(name):
    window = {{"steps_until_decided": 8, "imbalance_split": 1.2, "hindsight": 1.1, "changes_seen": 0, "moves": 4}}
    return {{"schedule": name, "excess": 0.01 if name == "ours" else 0.2, "imbalance_even": 1.3,
            "imbalance_split": 1.2, "steps_until_decided": 8, "steps_until_served": 12, "moves_per_layer": 5.0,
            "windows": [window] * len(windows)}}
if "missing" in given["--loads"]:
    sys.exit("replay: no such file")
print(json.dumps({{"num_moe_layers": 2, "schedules": [schedule(name) for name in schedules]}}))
"""


class Replays(unittest.TestCase):
    def measured(self, recorded, scratch="series"):
        with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
            os.mkdir(f"{folder}/{scratch}")
            tool = pathlib.Path(folder) / "tool"
            tool.write_text(REPLAY_TOOL.format(python=sys.executable))
            os.chmod(tool, 0o755)
            for name in recorded:
                np.save(f"{folder}/{name}", np.ones((3, 2, 8), dtype=np.int64))
            return replay_figures.measure(pool, str(tool), [folder], (1, 2), f"{folder}/{scratch}")()

    def setUp(self):
        self.size = (replay_figures.LAYERS, replay_figures.EXPERTS)
        replay_figures.LAYERS, replay_figures.EXPERTS = 2, 16

    def tearDown(self):
        replay_figures.LAYERS, replay_figures.EXPERTS = self.size

    def test_every_seed_of_every_series_has_all_three_runs_and_missing_files_are_named(self):
        figures = self.measured(["dsv2lite_tasks.npy"])
        self.assertEqual([of["loads"] for of in figures["series"]], ["zipf", "lognormal"] + ["dsv2lite_tasks.npy"] * 2)
        self.assertEqual(figures["missing"], ["gptoss20b_domains.npy"])
        for series in figures["series"]:
            self.assertEqual([seed["seed"] for seed in series["seeds"]], [1, 2])
            for seed in series["seeds"]:
                self.assertAlmostEqual(seed["switch"]["ratio"], 0.05)
                self.assertEqual(set(seed["switch"]["schedules"]), {"ours", "vllm-ascend", "SGLang", "vLLM"})
                self.assertEqual(seed["stationary"]["changes_seen"], 0)
        first, second = (seed["switch"]["command"] for seed in figures["series"][0]["seeds"])
        self.assertIn("domains_zipf_2x16_seed1.npy", first)
        self.assertIn("domains_zipf_2x16_seed2.npy", second)
        self.assertIn("every:650:window:650,every:1000:window:1000,every:3000:window:1000", first)
        lines = planner_tables.replay_table(figures)
        self.assertEqual(lines[2].split(" | ")[2:5], ["0 / 2", "8", "12"])

    def test_a_run_that_fails_ends_with_its_reason(self):
        with self.assertRaisesRegex(RuntimeError, "replay: no such file"):
            self.measured(["dsv2lite_tasks.npy"], "missing")


# As callgrind writes it: names are given once, then by number; the line after calls= ends with the cost of the call.
PROFILE = """\
events: Ir
fn=(1) main
16 400
cfn=(2) ns::plan(std::span<int>)
calls=2 30
17 5000
fn=(2)
30 4000
cfn=(3) ns::plan_other(int)
calls=7 40
31 1000
fn=(4) other
+3 10
cfn=(2)
calls=1 30
* 2000
"""


class Code(unittest.TestCase):
    def test_calls_and_instructions_of_a_function_are_summed_over_its_callers(self):
        self.assertEqual(code_figures.calls_of(PROFILE, "ns::plan("), (3, 7000))
        self.assertEqual(code_figures.calls_of(PROFILE, "ns::plan_other("), (7, 1000))
        self.assertEqual(code_figures.calls_of(PROFILE, "ns::gone("), (0, 0))

    def test_shortest_repetition_counts_in_microseconds(self):
        runs = [
            {
                "run_name": "a",
                "run_type": "iteration",
                "time_unit": "ms",
                "real_time": 2.0,
                "split": 1.5,
                "iterations": 7,
            },
            {
                "run_name": "a",
                "run_type": "iteration",
                "time_unit": "ms",
                "real_time": 1.5,
                "split": 1.5,
                "iterations": 7,
            },
            {"run_name": "a", "run_type": "aggregate", "time_unit": "ms", "real_time": 0.1},
        ]
        self.assertEqual(code_figures.best_of(runs), [{"name": "a", "us": 1500.0, "counters": {"split": 1.5}}])

    def test_what_cannot_run_says_so(self):
        self.assertIn("error", code_figures.count("/nowhere", code_figures.OPERATIONS[0]))
        with self.assertRaisesRegex(code_figures.Unmeasured, "/nowhere/bench: No such file or directory"):
            code_figures.run(["/nowhere/bench"])


if __name__ == "__main__":
    unittest.main()
