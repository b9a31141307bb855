"""What scripts/bench.sh rests on: the generator of loads, the scorer and the page, without peers, tool or network."""

import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import generate_loads
import numpy as np
import placement_scores
import planner_report


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
        figures = placement_scores.score(self.PLACEMENT, 2, self.LOADS, self.LOADS[::-1], self.PLACEMENT)
        self.assertAlmostEqual(figures["imbalance"], (7 / 6 + 3 / 2) / 2)
        self.assertAlmostEqual(figures["worst_layer"], 3 / 2)
        self.assertAlmostEqual(figures["balancedness"], (6 / 7 + 2 / 3) / 2)
        # Layer 0 on (1, 1, 2): 1.5 and 2.5; layer 1 on (6, 2, 4): 6 and 6.
        self.assertAlmostEqual(figures["next"], (2.5 / 2 + 1) / 2)
        self.assertEqual((figures["moves"], figures["duplicates"]), (0, 1))

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


def result_of(policy, seed, ms, **others):
    """A measured result as the JSON has it."""
    case = {"series": "stale", "mode": "full", "loads": "zipf", "layers": 2, "experts": 4, "slots": 6, "ranks": 2}
    figures = {"ms": ms, "imbalance": 1.25, "worst_layer": 1.5, "balancedness": 0.8, "duplicates": seed}
    figures |= {"moves": 3.0, "next": 1.5, "split": 1.125, "next_split": 1.25}
    return case | {"policy": policy, "seed": seed} | figures | others


def report_of(results, skipped=()):
    facts = {
        "date": "2026-01-02",
        "machine": "a machine",
        "core": 1,
        "command": "bench.sh",
        "seconds": 5,
        "limit": 60.0,
    }
    return json.loads(json.dumps(facts | {"versions": {"peer": "1.2"}, "skipped": list(skipped), "results": results}))


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
            "| **SwiftBalancer** | 0.50 · 0.50 | 30 | 80 | 1.0100 · 1.0200 | 1.5000 · 1.5000 | 1.1250 · 1.1250 | "
            "1.5000 · 1.5000 | 1.2500 · 1.2500 | 3.0 · 3.0 | 1 · 2 |",
        )
        summary = self.line(page, "| 6 slots on 2 ranks")
        self.assertIn("| 30 (SGLang deepseek_vec) | 80 | 1.0150 | 1.5000 | 1.2500 in ", summary)

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
        for text in ("2026-01-02", "a machine", "peer 1.2", "`bench.sh`", "- some loads: not here"):
            self.assertIn(text, page)

    def test_tables_are_well_formed(self):
        budget = result_of("ours 4", 1, 1.0, mode="incremental", next=None, next_split=None)
        page = planner_report.page(report_of((*self.RESULTS, budget)))
        self.assertIn("| **SwiftBalancer**, at most 4 |", page)
        for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
            bars = {line.count("|") for line in block.splitlines()}
            self.assertEqual(len(bars), 1, block)


if __name__ == "__main__":
    unittest.main()
