"""The goals of the planner, each beside what was measured: the table of docs/benchmarks.md.

Used by bench/planner_report.py. A goal holds for every seed and distribution: the worst case of all is shown and
judged. Standard library only.
"""

OF_SWIFT = "-of-swift"  # End of the names of our plans that get a part of the moves of Swift's.
RECORDED_SWITCHES = ("dsv2lite_tasks", "gptoss20b_domains")


class Goals:
    """Rows (what, goal, measured, cases, reached: True, False or None) from a report of bench/planner_benchmark.py."""

    def __init__(self, report):
        self._report = report
        self.rows = []
        self._full()
        self._stale()
        self._no_redundancy()
        self._split_and_prepare()
        self._switch()
        self._large()
        self._replay()

    # ---- Rows ----

    def _add(self, what, goal, values, reached, text):
        """A row of the worst value; values that could not be measured are None."""
        if not values:
            self.rows.append((what, goal, "not measured", 0, None))
        elif any(value is None for value in values):
            failed = sum(value is None for value in values)
            self.rows.append((what, goal, f"never in {failed} of {len(values)}", len(values), False))
        else:
            self.rows.append((what, goal, text(values), len(values), all(reached(value) for value in values)))

    def _at_most(self, what, limit, values, unit="", digits=4):
        show = f"{{:.{digits}f}}{unit}"
        self._add(
            what, f"<= {limit:g}{unit}", values, lambda value: value <= limit, lambda all_: show.format(max(all_))
        )

    def _at_least(self, what, limit, values, unit="", digits=1):
        show = f"{{:.{digits}f}}{unit}"
        self._add(
            what, f">= {limit:g}{unit}", values, lambda value: value >= limit, lambda all_: show.format(min(all_))
        )

    # ---- Results ----

    def _cases(self, series, mode, slots, ranks, loads=None):
        """{(loads, seed): {policy: result}} of one shape, failed policies left out."""
        cases = {}
        for result in self._report["results"]:
            if (result["series"], result["mode"], result["slots"], result["ranks"]) != (series, mode, slots, ranks):
                continue
            if (loads is None or result["loads"] == loads) and "error" not in result:
                cases.setdefault((result["loads"], result["seed"]), {})[result["policy"]] = result
        return cases.values()

    @staticmethod
    def _values(cases, policy, key, factor=1.0):
        return [case[policy][key] * factor for case in cases if policy in case]

    # ---- Goals ----

    def _full(self):
        cases = self._cases("stale", "full", 288, 32)
        self._at_most("full plan 288/32: above the bound", 0.2, self._values(cases, "ours", "gap", 100), " %", 3)
        ratios = []
        for of in cases:
            peers = [result["ms"] for policy, result in of.items() if is_peer(policy)]
            ratios.append(min(peers) / of["ours"]["ms"] if peers else None)
        self._at_least("full plan 288/32: times as fast as the fastest peer policy", 30, ratios)
        ratios = [of["vllm"]["ms"] / of["ours"]["ms"] for of in cases if "vllm" in of]
        self._at_least("full plan 288/32: times as fast as vLLM's policy", 100, ratios)
        cases = self._cases("stale", "full", 320, 64)
        self._at_most("full plan 320/64: above the bound", 0.2, self._values(cases, "ours", "gap", 100), " %", 3)
        worst = self._values(cases, "ours", "worst_gap", 100)
        self._at_most("full plan 320/64: above the bound, worst layer", 0.5, worst, " %", 3)
        self._at_most("full plan 320/64: time", 1.3, self._values(cases, "ours", "ms"), " ms", 2)
        cases = self._cases("stale", "full", 288, 72)
        self._at_most("full plan 288/72: above the bound", 0.3, self._values(cases, "ours", "gap", 100), " %", 3)
        self._at_most("full plan 288/72: time", 10, self._values(cases, "ours", "ms"), " ms", 2)

    def _stale(self):
        cases = self._cases("stale", "incremental", 288, 32)
        what = "gone stale 288/32, at most 26 moves: imbalance above EPLB's"
        above = [of["ours 26"]["imbalance"] - of["vllm"]["imbalance"] for of in cases if {"ours 26", "vllm"} <= set(of)]
        self._add(what, "<= 0", above, lambda value: value <= 0, lambda values: f"{max(values):+.4f}")
        for budget, limit in ((4, 1.045), (16, 1.016)):
            what = f"gone stale 288/32, at most {budget} moves: imbalance"
            self._at_most(what, limit, self._values(cases, f"ours {budget}", "imbalance"))
        for budget in (4, 16, 26):
            what = f"gone stale 288/32, at most {budget} moves: time"
            self._at_most(what, 2, self._values(cases, f"ours {budget}", "ms"), " ms", 2)

    def _no_redundancy(self):
        for mode, start, name in (
            ("incremental", "gone stale", "ours"),
            ("full", "from the initial placement", "ours moved"),
        ):
            cases = [of for of in self._cases("stale", mode, 256, 32) if "swift" in of and name in of]
            more = [of[name]["balancedness"] - of["swift"]["balancedness"] for of in cases]
            what = f"no redundancy 256/32, {start}: balancedness above Swift's"
            self._add(what, ">= 0", more, lambda value: value >= 0, lambda values: f"{min(values):+.4f}")
            parts = [moves_for_balance(of, name) for of in cases]
            what = f"no redundancy 256/32, {start}: moves for at least Swift's balancedness, of Swift's moves"
            self._add(what, "< 1", parts, lambda value: value < 1, lambda values: f"{max(values):.3f}")

    def _split_and_prepare(self):
        split = self._times("split_bench", "/320/32")
        quick, near = ([us for name, us in split if name.endswith("/near") == is_near] for is_near in (False, True))
        self._at_most("split 320/32: time of a layer", 3, quick, " us", 2)
        self._at_most("split 320/32, tokens kept near where ranks stay level: time of a layer", 3, near, " us", 2)
        for series, name in (("stale", "gone stale"), ("switch", "after a domain switch")):
            cases = self._cases(series, "incremental", 320, 32)
            parts = [(of["stay"]["split"] - 1) / (of["stay"]["imbalance"] - 1) for of in cases if "stay" in of]
            what = f"split 320/32, the placement served {name}: excess, of that of the even split"
            self._at_most(what, 0.5, parts, "", 3)
        for name, what in (("incremental", "an incremental plan"), ("full", "a full plan")):
            prepare = [us / 1e3 for _, us in self._times("prepare_bench", f"after_plan/{name}")]
            self._at_most(f"everything after {what} 288/32: time", 1, prepare, " ms", 2)

    def _times(self, program, part):
        """(name, microseconds) of the cases of a benchmark program whose name has this part."""
        return [
            (case["name"], case["us"])
            for of in self._report["times"]
            if of["program"] == program
            for case in of.get("cases", ())
            if part in case["name"]
        ]

    def _switch(self):
        series = [("switch", 320, 32, None, "domain switch 320/32")]
        shapes = {
            (r["loads"], r["slots"], r["ranks"]) for r in self._report["results"] if r["series"] == "recorded switch"
        }
        series += [
            ("recorded switch", slots, ranks, loads, f"domain switch, {loads} {slots}/{ranks}")
            for loads, slots, ranks in sorted(shapes)
            if loads in RECORDED_SWITCHES
        ]
        for name, slots, ranks, loads, title in series:
            cases = self._cases(name, "incremental", slots, ranks, loads)
            for budget, limit in ((4, 1.34), (16, 1.09), (32, 1.02)):
                values = self._values(cases, f"ours {budget}", "imbalance")
                self._at_most(f"{title}, at most {budget} moves: imbalance", limit, values)
            slowest = [ms for budget in (4, 16, 32) for ms in self._values(cases, f"ours {budget}", "ms")]
            self._at_most(f"{title}, at most 4, 16 or 32 moves: time", 3, slowest, " ms", 2)

    def _large(self):
        cases = self._cases("stale", "full", 1024, 128)
        self._at_most("92 layers, 1024/128, full plan: time", 25, self._values(cases, "ours", "ms"), " ms", 2)
        cases = self._cases("stale", "incremental", 1024, 128)
        for policy, name in (("ours 26", "at most 26 moves"), ("ours", "no limit of moves")):
            what = f"92 layers, 1024/128, incremental plan, {name}: time"
            self._at_most(what, 10, self._values(cases, policy, "ms"), " ms", 2)

    def _replay(self):
        groups = {"generated, 320/32": [], "recorded": []}
        for series in self._report["replay"].get("series", ()):
            of = groups["recorded" if series["loads"].endswith(".npy") else "generated, 320/32"]
            of += series["seeds"]
        for name, seeds in groups.items():
            steps = [seed["switch"]["schedules"]["ours"]["steps_until_decided"] for seed in seeds]
            what = f"replay, {name}: steps until a plan within 0.05 of hindsight is decided"
            self._at_most(what, 10, steps, "", 0)
            ratios = [seed["switch"]["ratio"] for seed in seeds]
            what = f"replay, {name}: excess over 3,000 steps, of the best peer schedule's"
            self._at_most(what, 0.1, ratios, "", 3)
            alarms = [seed["stationary"]["changes_seen"] for seed in seeds]
            self._at_most(f"replay, {name}: false alarms in 10,000 stationary steps", 0, alarms, "", 0)


def is_peer(policy):
    return policy.split()[0] not in ("ours", "stay")


def moves_for_balance(of, name):
    """Fewest moves of our budgets that reach Swift's balancedness, as a part of Swift's moves; None: no budget does."""
    enough = [
        result["moves"]
        for policy, result in of.items()
        if (policy == name or policy.rpartition(" ")[0] == name)
        and result["balancedness"] >= of["swift"]["balancedness"]
    ]
    if not enough:
        return None
    return min(enough) / of["swift"]["moves"] if of["swift"]["moves"] else float(min(enough) > 0)


def table(report):
    """Lines of the table."""
    rows = Goals(report).rows
    words = {True: "yes", False: "**no**", None: "-"}
    lines = ["| what | goal | measured, worst | of | reached |", "|---|---:|---:|---:|---|"]
    lines += [f"| {what} | {goal} | {text} | {cases} | {words[good]} |" for what, goal, text, cases, good in rows]
    reached = sum(good is True for *_, good in rows)
    missing = sum(good is None for *_, good in rows)
    summary = f"{reached} of {len(rows)} reached"
    return [summary + (f", {missing} not measured." if missing else "."), "", *lines]
