#include "planner/refine.hpp"

#include <algorithm>
#include <limits>

namespace swiftbalancer {
namespace {

using Place = Packing::Place;

// Replica changes in a row that bring no better packing.
constexpr int kMaxFailures = 8;
// Where replicas are changed, ranks are judged against a goal between the bound and the hottest
// rank: with the final goal all of them would count as too hot.
constexpr float kGoalAboveBound = 0.7F;
// Exchanges that win less are noise of single precision.
constexpr float kLeastRefinedGain = 1e-6F;

float square_above_goal(float load, float goal) {
  const float above = load - goal;
  return above > 0.0F ? above * above : 0.0F;
}

struct Replacement {
  float gain = 0.0F;
  Place place;
  int expert = -1;
};

class Refiner {
 public:
  Refiner(Packing& packing, const RefineOptions& options, std::span<std::int32_t> best)
      : packing_(packing), options_(options), best_(best) {}

  int run() {
    int steps = 0, failures = 0;
    for (; steps < options_.max_steps; ++steps) {
      const int hottest = packing_.hottest_rank();
      const float load = packing_.rank_load(hottest);
      if (load <= options_.target) return steps;
      if (exchange(hottest)) continue;
      if (!options_.change_replicas) return steps;
      if (load < best_load_ - kLeastRefinedGain * packing_.mean()) {
        keep(load);
        failures = 0;
      } else if (++failures > kMaxFailures) {
        break;
      }
      const Replacement change = best_replacement(hottest);
      if (change.expert < 0) break;
      packing_.replace(change.place, change.expert);
    }
    if (kept_ && packing_.rank_load(packing_.hottest_rank()) > best_load_) packing_.read(best_);
    return steps;
  }

 private:
  void keep(float load) {
    packing_.write(best_);
    best_load_ = load;
    kept_ = true;
  }

  // One exchange that brings both ranks to the target, else the best one.
  bool exchange(int hottest) {
    const int depths = packing_.shape().slots_per_rank(hottest);
    // What the hottest rank has above the target, some rank must have below it.
    const float excess = packing_.rank_load(hottest) - options_.target;
    if (excess <= options_.target - packing_.lightest_load() &&
        (exchange_slot(hottest, depths) || exchange_pair(hottest, depths)))
      return true;
    float best = packing_.rank_load(hottest) - kLeastRefinedGain * packing_.mean();
    Place from, to;
    for (int depth = 0; depth < depths; ++depth) {
      const Place other = packing_.find_best({hottest, depth}, best);
      if (other.rank < 0) continue;
      from = {hottest, depth};
      to = other;
    }
    if (to.rank < 0) return false;
    packing_.swap(from, to);
    return true;
  }

  bool exchange_slot(int hottest, int depths) {
    for (int depth = 0; depth < depths; ++depth) {
      const Place other = packing_.find_fitting({hottest, depth}, options_.target);
      if (other.rank < 0) continue;
      packing_.swap({hottest, depth}, other);
      return true;
    }
    return false;
  }

  // Two slots of each rank at once: many more sums, so one of them fits where no single slot does.
  bool exchange_pair(int hottest, int depths) {
    for (int depth = 0; depth < depths; ++depth) {
      for (int second = depth + 1; second < depths; ++second) {
        int second_depth = 0;
        const Place other =
            packing_.find_fitting_pair({hottest, depth}, second, options_.target, second_depth);
        if (other.rank < 0) continue;
        packing_.swap({hottest, depth}, other);
        packing_.swap({hottest, second}, {other.rank, second_depth});
        return true;
      }
    }
    return false;
  }

  // A replica of another expert gives its slot to one of the hottest rank's: where the sum of
  // squares above the goal falls most.
  Replacement best_replacement(int hottest) {
    const ClusterShape& shape = packing_.shape();
    const float bound = std::max(packing_.mean(), packing_.largest_piece());
    const float load = packing_.rank_load(hottest);
    goal_ = std::max(options_.target, bound + kGoalAboveBound * (load - bound));
    Replacement best;
    best.gain = 1e-9F * packing_.mean() * packing_.mean();
    for (int rank = 0; rank < shape.num_ranks(); ++rank) {
      for (int depth = 0; depth < shape.slots_per_rank(rank); ++depth) {
        if (packing_.num_replicas(packing_.expert_at({rank, depth})) < 2) continue;
        if (rank == hottest) {
          try_colder(hottest, depth, best);
        } else {
          try_hot_experts(hottest, {rank, depth}, best);
        }
      }
    }
    return best;
  }

  void try_hot_experts(int hottest, Place place, Replacement& best) {
    const ClusterShape& shape = packing_.shape();
    for (int depth = 0; depth < shape.slots_per_rank(hottest); ++depth) {
      const int expert = packing_.expert_at({hottest, depth});
      if (packing_.holds(place.rank, expert)) continue;
      const float gain = gain_of(place, expert);
      if (gain > best.gain) best = {gain, place, expert};
    }
  }

  // The hottest rank's own redundant replica makes way for the expert whose piece fits best below.
  void try_colder(int hottest, int depth, Replacement& best) {
    const Place place{hottest, depth};
    const int old = packing_.expert_at(place);
    for (int expert = 0; expert < packing_.shape().num_logical_experts(); ++expert) {
      if (packing_.holds(hottest, expert) ||
          packing_.num_replicas(expert) >= packing_.max_replicas())
        continue;
      const float piece = packing_.load()[static_cast<std::size_t>(expert)] /
                          static_cast<float>(packing_.num_replicas(expert) + 1);
      if (piece >= packing_.piece(old)) continue;
      const float gain = kRedundancyWasted * gain_of(place, expert);
      if (gain > best.gain) best = {gain, place, expert};
    }
  }

  // How much the sum of squares above the goal falls when the slot's expert makes way for another.
  float gain_of(Place place, int expert) const {
    const int old = packing_.expert_at(place);
    const auto load = packing_.load();
    const float piece = load[static_cast<std::size_t>(expert)] /
                        static_cast<float>(packing_.num_replicas(expert) + 1);
    const float old_change =
        load[static_cast<std::size_t>(old)] / static_cast<float>(packing_.num_replicas(old) - 1) -
        packing_.piece(old);
    const float change = piece - packing_.piece(expert);
    const float before = packing_.rank_load(place.rank);
    float gain = square_above_goal(before, goal_) -
                 square_above_goal(before - packing_.piece(old) + piece, goal_);
    packing_.for_each_holder(old, [&](int rank) {
      if (rank == place.rank) return;
      const float now = packing_.rank_load(rank);
      const float both = packing_.holds(rank, expert) ? old_change + change : old_change;
      gain += square_above_goal(now, goal_) - square_above_goal(now + both, goal_);
    });
    packing_.for_each_holder(expert, [&](int rank) {
      if (rank == place.rank || packing_.holds(rank, old)) return;
      const float now = packing_.rank_load(rank);
      gain += square_above_goal(now, goal_) - square_above_goal(now + change, goal_);
    });
    return gain;
  }

  // A colder expert gains a replica that it does not need.
  static constexpr float kRedundancyWasted = 0.25F;

  Packing& packing_;
  const RefineOptions& options_;
  std::span<std::int32_t> best_;
  float best_load_ = std::numeric_limits<float>::infinity();
  bool kept_ = false;
  float goal_ = 0.0F;
};

}  // namespace

int refine(Packing& packing, const RefineOptions& options, std::span<std::int32_t> best) {
  return Refiner(packing, options, best).run();
}

}  // namespace swiftbalancer
