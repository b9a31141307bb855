"""Watches and steers a real `serve` and fails unless all is right: operations_check.py SWIFTBALANCER DATA

Metrics are scraped while it serves: well-formed, counters only rise, and the Grafana dashboard asks for all of them and for nothing
else. The control socket pauses and resumes; a run that is ended leaves no socket and the placement that the next one starts from.
"""

import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import sys
import tempfile
import urllib.request

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

WAIT_LIMIT_SECONDS = float(os.environ.get("SWIFTBALANCER_WAIT_LIMIT_SECONDS", 120))
LAYERS = 6  # of the shipped checkpoint
TARGET_LABELS = {"job", "instance"}  # added by Prometheus to every series


def check(condition, message):
    if not condition:
        sys.exit(f"operations_check: {message}")


class Serve:
    """A serve of thousands of steps in the background; each of its progress lines is a moment to look."""

    def __init__(self, tool, data, folder, *flags):
        self.tool, self.folder = tool, folder
        self.process = subprocess.Popen(
            [tool, "serve", "--model", data / "models/tiny_qwen3_moe", "--num-ranks", "2", "--steps-per-segment", "20000",
             "--max-output-tokens", "4", "--min-output-tokens", "2", "--max-prompt-tokens", "16", "--min-prompt-tokens", "8",
             "--domains", "python,english", "--window-assignments", "256", "--rebalance-interval", "4", "--min-gain", "0",
             "--policy", "stress", "--control", "control.sock", *flags],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def line_with(self, text):
        for line in self.process.stdout:
            if text in line:
                return line.strip()
        sys.exit(f"operations_check: serve ended without saying '{text}': {self.process.stderr.read()}")

    def control(self, *words):
        return subprocess.run([self.tool, "control", "control.sock", *words], cwd=self.folder, capture_output=True, text=True)

    def health(self):
        return json.loads(self.control("health", "--json").stdout)

    def health_after_more_snapshots(self, steps):
        """Blocks on answers alone: each one takes the run some way further."""
        first = now = self.health()
        while now["step"] < first["step"] + steps:
            now = self.health()
        return now

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=WAIT_LIMIT_SECONDS)
        check(self.process.returncode == 1 and "interrupted" in errors, f"SIGTERM ended it with {self.process.returncode}: {errors}")


def scrape(address):
    with urllib.request.urlopen(address, timeout=WAIT_LIMIT_SECONDS) as answer:
        text = answer.read().decode()
    families = {f.name: f for f in text_string_to_metric_families(text) if f.name.startswith("swiftbalancer_")}
    check(families, f"nothing of ours in:\n{text}")
    return families


def series(families):
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families.values() for s in f.samples}


def check_exposition(families):
    for family in families.values():
        check(family.documentation, f"{family.name} has no help")
        check(len(family.samples) <= max(LAYERS, 20), f"{family.name} has {len(family.samples)} series: a label per expert?")
        for sample in family.samples:
            total = sample.name.endswith("_total")
            check(total == (family.type == "counter"), f"{sample.name}: _total belongs on counters, this is a {family.type}")
    loads = families["swiftbalancer_expert_load_tokens"].samples
    check({s.labels["layer"] for s in loads} == {str(i) for i in range(LAYERS)}, "not every layer has its load")
    for sample in families["swiftbalancer_balancedness_ratio"].samples:
        check(0 < sample.value <= 1, f"balancedness {sample.value}")


def check_counters_rise(before, after):
    counters = [f.name for f in before.values() if f.type in ("counter", "histogram")]
    now = series(after)
    for key, value in series({name: before[name] for name in counters}).items():
        check(now.get(key, -1) >= value, f"{key} fell from {value} to {now.get(key)}")
    key = ("swiftbalancer_steps_total", ())
    check(now[key] > series(before)[key], "no steps between two scrapes")


def selectors(node):
    """All selectors of a query, and the labels that it groups by."""
    found, grouped = [], set()
    if isinstance(node, promql_parser.VectorSelector):
        found.append(node)
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None:
            more, labels = selectors(child)
            found += more
            grouped |= labels
    for child in getattr(node, "args", None) or []:
        more, labels = selectors(child)
        found += more
        grouped |= labels
    if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
        grouped |= set(node.modifier.labels)
    return found, grouped


def check_query(expression, legend, samples):
    """@returns the names that are asked for."""
    found, grouped = selectors(promql_parser.parse(expression.replace("$__rate_interval", "1m")))
    labels = set()
    for selector in found:
        check(selector.name in samples, f"the dashboard asks for {selector.name}, which is not exposed: {expression}")
        matched = {m.name for m in selector.matchers.matchers}
        check(TARGET_LABELS <= matched, f"a query of all jobs and instances: {expression}")
        labels |= samples[selector.name]
        check(matched - TARGET_LABELS <= samples[selector.name], f"{selector.name} lacks a label of {matched}: {expression}")
    check(grouped <= labels | TARGET_LABELS, f"grouped by {grouped}, there are {labels}: {expression}")
    shown = set(re.findall(r"{{(\w+)}}", legend))
    kept = grouped if "sum" in expression or "min" in expression else labels | TARGET_LABELS
    check(shown <= kept, f"the legend '{legend}' shows a label that is not there: {expression}")
    return {selector.name for selector in found}


def check_dashboard(path, families):
    samples = {}
    for family in families.values():
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    dashboard = json.loads(path.read_text())
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    check(variables["datasource"]["type"] == "datasource", "no variable for the data source")
    ids = [panel["id"] for panel in dashboard["panels"]]
    check(len(set(ids)) == len(ids), "two panels with one id")
    asked = set()
    for panel in dashboard["panels"]:
        check(panel["datasource"]["uid"] == "${datasource}", f"panel {panel['title']} has a data source of its own")
        for target in panel["targets"]:
            asked |= check_query(target["expr"], target["legendFormat"], samples)
    for name in ("job", "instance"):
        metric = re.match(r"label_values\((\w+)", variables[name]["definition"]).group(1)
        check(metric in samples, f"variable {name} asks for {metric}, which is not exposed")
    for family in families.values():
        check(asked & {s.name for s in family.samples}, f"no panel shows {family.name}")


def check_control(serve):
    socket = pathlib.Path(serve.folder, "control.sock")
    check(stat.S_IMODE(socket.stat().st_mode) & 0o077 == 0, "others than the owner can steer the run")
    table = serve.control("health")
    check(table.returncode == 0 and re.search(r"^balancing +ok$", table.stdout, re.M), f"health says: {table.stdout}{table.stderr}")
    paused = serve.control("pause")
    check(paused.stdout.startswith("balancing is paused: agreed by 2 ranks"), f"pause: {paused.stdout}{paused.stderr}")
    settled = serve.health_after_more_snapshots(64)
    check(settled["mode"] == "paused", f"health after pause: {settled}")
    later = serve.health_after_more_snapshots(64)
    check(later["moves"] == settled["moves"], f"moves in spite of pause: {settled} {later}")
    shadow = serve.control("plan-only")
    check(shadow.stdout.startswith("balancing is plan-only"), f"plan-only: {shadow.stdout}{shadow.stderr}")
    serve.line_with("plan-only: would move")
    check(serve.health()["moves"] == settled["moves"], "plan-only moved experts")
    resumed = serve.control("resume", "--json")
    check(json.loads(resumed.stdout)["mode"] == "on", f"resume: {resumed.stdout}")
    while serve.health()["moves"] == settled["moves"]:
        pass
    second = subprocess.run([serve.tool, *serve.process.args[1:]], cwd=serve.folder, capture_output=True, text=True)
    check(second.returncode == 2 and "another serve listens there" in second.stderr, f"two serves at one socket: {second}")


def check_port_in_use(serve, address):
    port = address.rsplit(":", 1)[1].split("/")[0]
    args = [a for a in serve.process.args if a not in ("--control", "control.sock")] + ["--metrics", port]
    second = subprocess.run(args, cwd=serve.folder, capture_output=True, text=True)
    check(second.returncode == 2 and f"port {port}" in second.stderr and second.stderr.count("\n") == 1, f"port in use: {second}")


def main():
    tool, data = (pathlib.Path(p).absolute() for p in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        serve = Serve(tool, data, folder, "--metrics", "0", "--placement", "placement.json")
        try:
            address = serve.line_with("metrics: ").split()[1]
            serve.line_with(" commits")
            before = scrape(address)
            check_exposition(before)
            check_port_in_use(serve, address)
            check_control(serve)
            after = scrape(address)
            check_exposition(after)
            check_counters_rise(before, after)
            check_dashboard(data / "grafana/swiftbalancer.json", after)
            serve.end()
        finally:
            serve.process.kill()
        check(not pathlib.Path(folder, "control.sock").exists(), "the socket is left behind")
        saved = pathlib.Path(folder, "placement.json").read_text()

        again = Serve(tool, data, folder, "--placement", "placement.json", "--mode", "paused")
        try:
            again.line_with("placement from placement.json")
            again.line_with(" commits")
            check(again.health()["moves"] == 0, "a paused run moved experts")
            again.end()
        finally:
            again.process.kill()
        check(pathlib.Path(folder, "placement.json").read_text() == saved, "a run without moves saved another placement")


if __name__ == "__main__":
    main()
