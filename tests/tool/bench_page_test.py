"""What scripts/bench.sh makes of its figures: goals and page."""

import json
import pathlib
import re
import sys
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import planner_benchmark
import planner_goals
import planner_report


def result_of(policy, seed, ms, **others):
    """A measured result as the JSON has it."""
    case = {"series": "stale", "mode": "full", "loads": "zipf", "layers": 2, "experts": 4, "slots": 6, "ranks": 2}
    figures = {"ms": ms, "imbalance": 1.25, "worst_layer": 1.5, "balancedness": 0.8, "duplicates": seed}
    figures |= {"moves": 3.0, "next": 1.5, "split": 1.125, "next_split": 1.25, "gap": 0.25, "worst_gap": 0.5}
    return case | {"policy": policy, "seed": seed} | figures | others


def report_of(results, skipped=(), **others):
    report = {
        "date": "2026-01-02",
        "machine": {"processor": "a machine", "kernel": "a kernel"},
        "core": 1,
        "others": 0.25,
        "our_runs": 3,
        "command": "bench.sh",
        "seconds": 5,
        "limit": 60.0,
        "repeats": 5,
        "enough_seconds": 0.5,
        "versions": {"peer": "1.2"},
        "valgrind": "valgrind-3",
        "skipped": list(skipped),
        "replay": {"error": "no replay here"},
        "instructions": [
            {"what": "a plan", "function": "plan", "handles": "layer", "instructions": 1234567, "calls": 2},
            {"what": "a split", "function": "split", "handles": "layer", "error": "no valgrind"},
        ],
        "times": [
            {
                "program": "split_bench",
                "cases": [
                    {"name": "a/320/32/b", "us": 2.5, "counters": {"even": 1.5}},
                    {"name": "a/320/32/b/near", "us": 7.5, "counters": {}},
                ],
            },
            {"program": "prepare_bench", "error": "it crashed"},
        ],
        "results": results,
    }
    return json.loads(json.dumps(report | others))


class Goals(unittest.TestCase):
    @staticmethod
    def rows(results, **others):
        return {what: row for what, *row in planner_goals.Goals(report_of(results, **others)).rows}

    @staticmethod
    def shaped(policy, seed, ms, slots=288, ranks=32, **others):
        return result_of(policy, seed, ms, slots=slots, ranks=ranks, **others)

    def test_the_worst_seed_decides(self):
        results = [self.shaped("vllm", seed, 40.0) for seed in (1, 2)]
        results += [self.shaped("sglang_vec", 1, 10.0), self.shaped("sglang_vec", 2, 7.0)]
        results += [self.shaped("ours", seed, 0.25, gap=0.001 * seed) for seed in (1, 2)]
        rows = self.rows(results)
        self.assertEqual(rows["full plan 288/32: above the bound"], ["<= 0.2 %", "0.200 %", 2, True])
        self.assertEqual(
            rows["full plan 288/32: times as fast as the fastest peer policy"], [">= 30", "28.0", 2, False]
        )
        self.assertEqual(rows["full plan 288/32: times as fast as vLLM's policy"], [">= 100", "160.0", 2, True])

    def test_what_was_not_measured_is_neither_reached_nor_missed(self):
        rows = self.rows([])
        self.assertEqual(rows["full plan 320/64: time"], ["<= 1.3 ms", "not measured", 0, None])
        self.assertEqual({row[3] for what, row in rows.items() if not what.endswith("time of a layer")}, {None})

    def test_a_failing_peer_is_not_compared_with(self):
        failed = {key: value for key, value in self.shaped("flashlb", 1, 0.01).items() if key != "ms"} | {"error": "no"}
        rows = self.rows([self.shaped("vllm", 1, 40.0), failed, self.shaped("ours", 1, 1.0)])
        self.assertEqual(rows["full plan 288/32: times as fast as the fastest peer policy"][1], "40.0")

    def test_swift_is_met_by_the_fewest_moves_that_reach_its_balance(self):
        common = {"mode": "incremental", "slots": 256}
        swift = self.shaped("swift", 1, 9.0, balancedness=0.7, moves=20.0, **common)
        ours = [
            self.shaped("ours", 1, 1.0, balancedness=0.75, moves=30.0, **common),
            self.shaped("ours 8", 1, 1.0, balancedness=0.71, moves=8.0, **common),
            self.shaped("ours 4", 1, 1.0, balancedness=0.69, moves=4.0, **common),
        ]
        what = "no redundancy 256/32, gone stale: moves for at least Swift's balancedness, of Swift's moves"
        self.assertEqual(self.rows([swift, *ours])[what], ["< 1", "0.400", 1, True])
        self.assertEqual(self.rows([swift, ours[0]])[what], ["< 1", "1.500", 1, False])
        self.assertEqual(self.rows([swift, ours[0], ours[2]])[what], ["< 1", "1.500", 1, False])
        never = self.shaped("ours", 1, 1.0, balancedness=0.69, moves=1.0, **common)
        self.assertEqual(self.rows([swift, never])[what], ["< 1", "never in 1 of 1", 1, False])

    def test_replays_count_by_their_worst_seed(self):
        def seed(decided, ratio, alarms):
            ours = {"steps_until_decided": decided}
            return {"switch": {"schedules": {"ours": ours}, "ratio": ratio}, "stationary": {"changes_seen": alarms}}

        series = [{"loads": "zipf", "seeds": [seed(8, 0.09, 0), seed(12, 0.05, 1)]}]
        series += [{"loads": "a.npy", "seeds": [seed(None, 0.2, 0)]}]
        rows = self.rows([], replay={"series": series, "missing": []})
        of = {what.removeprefix("replay, "): row for what, row in rows.items() if what.startswith("replay")}
        self.assertEqual(
            list(of.values()),
            [
                ["<= 10", "12", 2, False],
                ["<= 0.1", "0.090", 2, True],
                ["<= 0", "1", 2, False],
                ["<= 10", "never in 1 of 1", 1, False],
                ["<= 0.1", "0.200", 1, False],
                ["<= 0", "0", 1, True],
            ],
        )

    def test_every_goal_is_in_the_page(self):
        report = report_of([])
        page = planner_report.page(report)
        for what, goal, *_ in planner_goals.Goals(report).rows:
            self.assertIn(f"| {what} | {goal} |", page)
        self.assertIn("| split 320/32: time of a layer | <= 3 us | 2.50 us | 1 | yes |", page)
        self.assertIn("stay level: time of a layer | <= 3 us | 7.50 us | 1 | **no** |", page)


class Page(unittest.TestCase):
    RESULTS = (
        *(result_of("vllm", seed, 40.0) for seed in (1, 2)),
        *(result_of("sglang_vec", seed, 10.0 * seed) for seed in (1, 2)),
        *(result_of("ours", seed, 0.5, imbalance=1.0 + 0.01 * seed) for seed in (1, 2)),
    )

    def line(self, page, start):
        return next(line for line in page.splitlines() if line.startswith(start))

    def test_every_seed_is_in_its_cell_and_ratios_are_to_the_fastest_and_to_vllm(self):
        page = planner_report.page(report_of(self.RESULTS))
        self.assertEqual(
            self.line(page, "| **SwiftBalancer** |"),
            "| **SwiftBalancer** | 0.50 | 30 | 80 | 1.0100 · 1.0200 | 1.5000 | 25.00 | 1.1250 | 1.5000 | 1.2500 | 3.0 "
            "| 1 · 2 |",
        )
        summary = self.line(page, "| 6 slots on 2 ranks")
        self.assertIn("| 30 (SGLang deepseek_vec) | 80 | 25.00 | 1.5000 | 25.00 % in ", summary)

    def test_a_peer_that_fails_shows_its_error_and_is_not_the_fastest(self):
        failed = result_of("flashlb", 1, 0.001)
        failed = {key: failed[key] for key in failed if key not in ("ms", "imbalance")} | {
            "error": "no plan within 60 s"
        }
        page = planner_report.page(report_of((*self.RESULTS, failed, result_of("flashlb", 2, 0.001))))
        self.assertIn("| vllm-ascend FlashLB | failed in 1 of 2: no plan within 60 s |", page)
        self.assertIn("| 30 (SGLang deepseek_vec) |", page)

    def test_page_names_machine_date_versions_command_and_what_was_left_out(self):
        page = planner_report.page(report_of(self.RESULTS, ["some loads: not here"]))
        for text in ("2026-01-02", "a machine", "a kernel", "peer 1.2", "`bench.sh`", "- some loads: not here"):
            self.assertIn(text, page)

    def test_what_failed_is_in_the_page(self):
        page = planner_report.page(report_of(self.RESULTS))
        self.assertIn("Failed: no replay here", page)
        self.assertIn("Failed: it crashed", page)
        self.assertIn("| a split | `split` | failed: no valgrind | layer |", page)
        self.assertIn("| a plan | `plan` | 1,234,567 | layer |", page)

    def test_a_machine_that_was_not_idle_is_pointed_out(self):
        for others, idle in ((0.05, True), (0.25, False)):
            page = planner_report.page(report_of(self.RESULTS, others=others))
            self.assertIn(f"programs used {others:.2f} cores", page)
            self.assertEqual("not idle" in page, not idle)
        machine, mine = planner_benchmark.busy_seconds()
        self.assertGreater(machine, mine)

    def test_the_machine_and_the_build_are_named(self):
        self.assertEqual(list(planner_benchmark.machine()), ["processor", "kernel"])
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "CMakeCache.txt"
            path.write_text(f"CMAKE_CXX_COMPILER:STRING={sys.executable}\nCMAKE_BUILD_TYPE:STRING=Release\n")
            self.assertRegex(planner_benchmark.build(folder)["compiler"], r"^Python 3\..*, Release$")
        self.assertEqual(planner_benchmark.build(folder), {})

    def test_tables_are_well_formed(self):
        budget = result_of("ours 4", 1, 1.0, mode="incremental", next=None, next_split=None)
        moved = [result_of(f"ours moved{text}", 1, 1.0) for text in ("", " 8", " 0.9-of-swift")]
        page = planner_report.page(report_of((*self.RESULTS, budget, *moved)))
        self.assertIn("| **SwiftBalancer**, at most 4 |", page)
        self.assertIn("| **SwiftBalancer**, incremental |", page)
        self.assertIn("| **SwiftBalancer**, incremental, at most 8 |", page)
        self.assertIn("| **SwiftBalancer**, incremental, at most 0.9 of Swift's in all |", page)
        for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
            bars = {line.count("|") for line in block.splitlines()}
            self.assertEqual(len(bars), 1, block)


if __name__ == "__main__":
    unittest.main()
