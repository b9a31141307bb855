"""Seeded loads with the skew of DeepSeek-V3: the hottest expert of a layer carries 6.5 times the mean (mean over layers).

Called by scripts/bench.sh and by hand. Needs numpy only. Writes int64 [windows, layers, experts], tokens per logical expert.

A *domain* is one distribution per layer, drawn from (seed, domain): zipf (weights k^-s in random order) or lognormal
(exp(sigma z)); s or sigma is solved so that the skew is met for any number of experts. A window is a multinomial sample
of `tokens` tokens per layer, so two windows of one distribution differ by the noise that a real counter has.

Series of windows:
  same      every window a sample of domain 0
  drift     window w has gone w * 10 % of the way to the next domain ("stale": 2 windows)
  domains   window w is a sample of domain w, all independent ("switch": 2 windows)
"""

import argparse
import os
import sys

import numpy as np

SKEW = 6.5
TOKENS = 1000 * 4096 * 8  # A window of 1,000 steps, 4,096 tokens a step, top-8.
DRIFT_STEP = 0.1
KINDS = ("zipf", "lognormal")
SERIES = ("same", "drift", "domains")


def skew(weights):
    """Hottest expert over the mean, mean over layers; weights [layers, experts]."""
    return float((weights.max(axis=1) / weights.mean(axis=1)).mean())


def solve(weights_of, target):
    """The parameter at which skew(weights_of(parameter)) is the target; the skew must grow with it from 1."""
    low, high = 0.0, 1.0
    while skew(weights_of(high)) < target:
        high *= 2.0
        if high > 64.0:
            raise ValueError(f"no parameter gives a hottest expert of {target} times the mean")
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if skew(weights_of(middle)) < target else (low, middle)
    return 0.5 * (low + high)


def domain(kind, layers, experts, seed, number, target=SKEW):
    """Probabilities [layers, experts] of one domain, and the parameter that was solved for."""
    if kind not in KINDS:
        raise ValueError(f"kind is '{kind}'; known: {', '.join(KINDS)}")
    if not 1.0 < target < experts:
        raise ValueError(f"skew is {target}; with {experts} experts it lies between 1 and {experts}")
    rng = np.random.default_rng([seed, number])
    if kind == "zipf":
        order = np.stack([rng.permutation(experts) for _ in range(layers)])
        rank = np.arange(1, experts + 1, dtype=np.float64)
        exponent = solve(lambda s: (rank**-s)[None, :], target)
        weights, parameter = (rank**-exponent)[order], exponent
    else:
        normal = rng.standard_normal((layers, experts))
        # The hottest expert's normal is taken off before exp(), so that no large sigma overflows.
        normal -= normal.max(axis=1, keepdims=True)
        parameter = solve(lambda sigma: np.exp(sigma * normal), target)
        weights = np.exp(parameter * normal)
    return weights / weights.sum(axis=1, keepdims=True), parameter


def distributions(kind, layers, experts, seed, series, windows, target=SKEW):
    """Probabilities [windows, layers, experts] that the windows are sampled from."""
    if series not in SERIES:
        raise ValueError(f"series is '{series}'; known: {', '.join(SERIES)}")

    def of(number):
        return domain(kind, layers, experts, seed, number, target)[0]

    if series == "same":
        return np.repeat(of(0)[None], windows, axis=0)
    if series == "domains":
        return np.stack([of(number) for number in range(windows)])
    steps = round(1.0 / DRIFT_STEP)
    ends = [of(number) for number in range((windows - 1) // steps + 2)]
    mixed = []
    for window in range(windows):
        number, part = window // steps, (window % steps) * DRIFT_STEP
        mixed.append((1.0 - part) * ends[number] + part * ends[number + 1])
    return np.stack(mixed)


def generate(kind, layers, experts, seed, series="same", windows=1, tokens=TOKENS, target=SKEW):
    """Loads int64 [windows, layers, experts]; every layer of every window sums to `tokens`."""
    chances = distributions(kind, layers, experts, seed, series, windows, target)
    # Its own stream: the domains do not depend on how many windows are sampled.
    rng = np.random.default_rng([seed, 1 << 32])
    return np.stack([rng.multinomial(tokens, window) for window in chances]).astype(np.int64)


def save(path, array):
    """Writes .npy by a temporary file and a rename."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            np.save(file, array)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; at least 1")
    return value


def main(arguments):
    parser = argparse.ArgumentParser(description="Seeded loads with the skew of DeepSeek-V3.")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--layers", type=positive, default=58)
    parser.add_argument("--experts", type=positive, default=256)
    parser.add_argument("--seed", type=positive, required=True)
    parser.add_argument("--series", choices=SERIES, default="same")
    parser.add_argument("--windows", type=positive, default=1)
    parser.add_argument("--tokens", type=positive, default=TOKENS, help="tokens per layer and window")
    parser.add_argument("--skew", type=float, default=SKEW, help="hottest expert over the mean")
    parser.add_argument("-o", "--output", required=True, help=".npy to write")
    a = parser.parse_args(arguments)
    try:
        loads = generate(a.kind, a.layers, a.experts, a.seed, a.series, a.windows, a.tokens, a.skew)
        save(a.output, loads)
    except (ValueError, OSError) as error:
        parser.exit(2, f"generate_loads.py: {error}\n")
    print(f"{a.output}: {list(loads.shape)}, hottest expert {skew(loads[0].astype(float)):.3f} times the mean")


if __name__ == "__main__":
    main(sys.argv[1:])
