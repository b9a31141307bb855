"""One scorer for every policy's placements, ours and the peers'. Needs numpy only; used by bench/planner_comparison.py.

A placement is int64 [layers, slots]; rank r holds the slots from r * slots / num_ranks on. Loads are [layers, experts].
"""

import heapq

import numpy as np


def initial(layers, experts, num_slots, num_ranks):
    """Where an engine starts: experts in order, redundant slots hold the next expert, from the last rank on."""
    ranks = [list(part) for part in np.array_split(np.arange(experts), num_ranks)]
    capacity = num_slots // num_ranks
    while any(len(rank) < capacity for rank in ranks):
        for rank in reversed(ranks):
            if len(rank) < capacity:
                rank.append((rank[-1] + 1) % experts)
    return np.tile(np.concatenate(ranks).astype(np.int64), (layers, 1))


def check(placement, experts):
    """Why this is no placement, or None."""
    if placement.min() < 0 or placement.max() >= experts:
        return f"a slot holds expert {placement.min()} or {placement.max()} of {experts}"
    for layer, row in enumerate(placement):
        missing = np.flatnonzero(np.bincount(row, minlength=experts) == 0)
        if missing.size:
            return f"layer {layer} has no slot for expert {missing[0]}"
    return None


def imbalance(placement, loads, num_ranks):
    """Largest / mean rank load of each layer, [layers]; all replicas of an expert get the same part of its load."""
    copies = np.stack([np.bincount(row, minlength=loads.shape[1]) for row in placement])
    of_slots = np.take_along_axis(loads / copies, placement, axis=1)
    of_ranks = of_slots.reshape(placement.shape[0], num_ranks, -1).sum(axis=2)
    return of_ranks.max(axis=1) / of_ranks.mean(axis=1)


def lower_bound(loads, num_slots, num_ranks):
    """What the largest rank load of no placement is below, [layers]: the mean rank load, or the largest part of an
    expert when every redundant slot goes to the expert with the largest part (at most one copy on a rank). Without
    redundancy also the hottest expert and the lightest ones, which fill its rank."""
    bounds = []
    for layer in loads:
        parts = [(-load, 1) for load in layer.tolist()]
        heapq.heapify(parts)
        for _ in range(num_slots - len(parts)):
            part, copies = parts[0]
            if copies == num_ranks:
                break
            heapq.heapreplace(parts, (part * copies / (copies + 1), copies + 1))
        bound = max(-parts[0][0], layer.sum() / num_ranks)
        if num_slots == layer.size:
            lightest = np.sort(layer)[: num_slots // num_ranks - 1]
            bound = max(bound, layer.max() + lightest.sum())
        bounds.append(bound)
    return np.array(bounds)


def moves(before, after, num_ranks):
    """Experts that a rank gains, summed over ranks, [layers]."""
    result = []
    for old, new in zip(before, after, strict=True):
        pairs = zip(old.reshape(num_ranks, -1), new.reshape(num_ranks, -1), strict=True)
        result.append(sum(len(set(b.tolist()) - set(a.tolist())) for a, b in pairs))
    return np.array(result)


def same_rank_duplicates(placement, num_ranks):
    """Slots that hold an expert which another slot of their rank holds, over all layers."""
    ordered = np.sort(placement.reshape(placement.shape[0], num_ranks, -1), axis=2)
    return int((ordered[:, :, 1:] == ordered[:, :, :-1]).sum())


def score(placement, num_ranks, now, bound, following=None, before=None):
    """Figures of a placement; `bound` is lower_bound() of the loads `now`, `following` the next window's loads,
    `before` the placement that it replaces."""
    of_layers = imbalance(placement, now, num_ranks)
    gaps = of_layers * now.sum(axis=1) / num_ranks / bound - 1.0
    figures = {
        "imbalance": float(of_layers.mean()),
        "worst_layer": float(of_layers.max()),
        "gap": float(gaps.mean()),
        "worst_gap": float(gaps.max()),
        "balancedness": float((1.0 / of_layers).mean()),
        "duplicates": same_rank_duplicates(placement, num_ranks),
        "moves": None,
        "next": None,
    }
    if before is not None:
        figures["moves"] = float(moves(before, placement, num_ranks).mean())
    if following is not None:
        figures["next"] = float(imbalance(placement, following, num_ranks).mean())
    return figures
