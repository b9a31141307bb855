"""Full plans of the built tool against the proven optimum of an integer program (HiGHS). Run by ctest."""

import json
import os
import subprocess
import sys
import tempfile

import highspy
import numpy as np

EXPERTS, RANKS, SLOTS, LAYERS = 8, 4, 10, 6


def optimum(load):
    """Smallest largest rank load, even split: z[e, n] chooses n replicas, x[e, n, r] their ranks."""
    h = highspy.Highs()
    h.silent()
    pairs = [(e, n) for e in range(EXPERTS) for n in range(1, min(RANKS, SLOTS - EXPERTS + 1) + 1)]
    z = {p: h.addBinary() for p in pairs}
    x = {(*p, r): h.addBinary() for p in pairs for r in range(RANKS)}
    most = h.addVariable(lb=0)
    for e in range(EXPERTS):
        h.addConstr(sum(z[p] for p in pairs if p[0] == e) == 1)
    for e, n in pairs:
        h.addConstr(sum(x[e, n, r] for r in range(RANKS)) - n * z[e, n] == 0)
    first = SLOTS % RANKS  # The first ranks take the remainder.
    for r in range(RANKS):
        h.addConstr(sum(x[e, n, r] for e, n in pairs) == SLOTS // RANKS + (r < first))
        h.addConstr(sum(load[e] / n * x[e, n, r] for e, n in pairs) - most <= 0)
    h.minimize(most)
    assert h.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return h.getInfo().objective_function_value


def main(tool):
    rng = np.random.default_rng(1)
    loads = (1e6 * np.exp(rng.standard_normal((LAYERS, EXPERTS)))).astype(np.int64)
    gaps = []
    with tempfile.TemporaryDirectory() as folder:
        for layer in loads:
            path = os.path.join(folder, "load.npy")
            np.save(path, layer[None, None, :])
            command = [tool, "plan", "--loads", path, "--num-ranks", str(RANKS), "--json"]
            command += ["--num-redundant-experts", str(SLOTS - EXPERTS)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            best = optimum(layer / layer.sum() * RANKS)
            gaps.append(result["imbalance_mean"] / best - 1.0)
    print("gaps to the optimum:", " ".join(f"{gap:.5f}" for gap in gaps))
    assert min(gaps) > -1e-4, "better than the proven optimum"
    assert max(gaps) < 1e-3, "too far from the optimum"


if __name__ == "__main__":
    main(sys.argv[1])
