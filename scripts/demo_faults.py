"""Serves the shipped checkpoint undisturbed and with faults, and prints what each fault cost.

Called by scripts/demo.sh faults, from the repository root, after the build. Writes out/faults.
"""

import json
import subprocess
import sys

SERVE = [
    "build/release/bin/swiftbalancer", "serve", "--model", "data/models/tiny_qwen3_moe",
    "--policy", "swift", "--num-ranks", "4", "--num-redundant-experts", "64",
    "--transport", "shm", "--worker", "process", "--deadline-ms", "2000", "--quiet",
]  # fmt: skip
FAULTS = [
    ("planner killed", "kill-planner:1@40"),
    ("packet corrupted", "corrupt:1@40"),
    ("rank killed", "kill:3@40"),
    ("rank killed, a new one joins", "kill:3@40,join:3@60"),
    ("rank stopped, continued", "stop:2@40,cont:2@60"),
]


def serve(name: str, *arguments: str) -> tuple[dict, str]:
    """Serves once. Returns the run of run.json and what was printed."""
    out = f"out/faults/{name.replace(' ', '_').replace(',', '')}"
    done = subprocess.run(
        [*SERVE, "--out", out, *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"demo_faults.py: {name}: {done.stderr.strip()}")
    with open(f"{out}/run.json", encoding="utf-8") as file:
        return json.load(file)["runs"][0], done.stdout


def same_outputs(run: dict, undisturbed: dict) -> bool:
    """Compares the requests that were answered, by their digests."""
    answered = [pair for pair in zip(run["request_digests"], undisturbed["request_digests"]) if pair[0]]
    return all(mine == other for mine, other in answered)


def main() -> None:
    """Prints the table."""
    undisturbed, _ = serve("undisturbed")
    print(f"{'what':<30}{'when':<22}{'longest step':>13}{'lost':>6}  unaffected outputs")
    for what, fault in FAULTS:
        run, printed = serve(what, "--inject", fault)
        longest = run["faults"][0].rpartition("it ")[2]
        lost = sum(len(loss["lost_requests"]) for loss in run["losses"])
        same = "identical" if same_outputs(run, undisturbed) else "DIFFERENT"
        print(f"{what:<30}{fault:<22}{longest:>13}{lost:>6}  {same}")
        for line in printed.splitlines():
            if line.startswith("rank "):
                print(f"  {line}")


if __name__ == "__main__":
    main()
