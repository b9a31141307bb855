// The changes that LimitedLayer looks at: swaps and replacements that relieve the slowest rank, and
// replicas outside their node.

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "core/index.hpp"
#include "planner/limited_layer.hpp"

namespace swiftbalancer {
namespace {

constexpr double kOutOfQuestion = std::numeric_limits<double>::infinity();
// A change must win more than rounding can.
constexpr double kLeastLimitedGain = 1e-9;
// An exchange across nodes moves so many times the tokens that it sends the other way.
constexpr double kWorthACrossing = 4.0;

}  // namespace

std::int64_t LimitedLayer::refine(double target, std::int64_t max_work) {
  const std::int64_t start = work_;
  while (work_ - start < max_work && highest_time() > target && improve_once()) {
  }
  return work_ - start;
}

// Where moves are counted, a replacement may be worth more than a swap, which takes two.
bool LimitedLayer::improve_once() {
  const int rank = slowest_rank();
  const double now = time_[index(rank)];
  const Change none{now * (1.0 - kLeastLimitedGain), -1, -1, -1};
  Change best = none;
  consider_swaps(rank, best);
  if (best.slot < 0 || !held_before_.empty()) {
    Change replacement = none;
    consider_replacements(rank, replacement);
    if (is_better(replacement, best, now)) best = replacement;
  }
  if (best.slot < 0) return false;
  if (best.other_slot < 0) {
    set(best.slot, best.expert);
    return true;
  }
  const std::int32_t expert = slots_[index(best.slot)];
  const std::int32_t other = slots_[index(best.other_slot)];
  set(best.slot, other);
  set(best.other_slot, expert);
  return true;
}

void LimitedLayer::consider_swaps(int rank, Change& best) {
  const double slowness = slowness_[index(rank)];
  for (int slot = shape_.first_slot(rank); slot < shape_.first_slot(rank + 1); ++slot) {
    if (is_pinned(slot)) continue;
    const std::int32_t expert = slots_[index(slot)];
    const double own = piece(expert);
    for (int other = 0; other < shape_.num_slots(); ++other) {
      const int other_rank = shape_.rank_of_slot(other);
      if (other_rank == rank || domain_of_rank(other_rank) != domain_of_rank(rank)) continue;
      ++work_;
      const std::int32_t other_expert = slots_[index(other)];
      const double shed = own - piece(other_expert);
      if (shed <= 0.0 || is_pinned(other)) continue;
      const double time = std::max(time_[index(rank)] - shed * slowness,
                                   time_[index(other_rank)] + shed * slowness_[index(other_rank)]);
      if (time >= best.time) continue;
      if (held(other_rank, expert) > 0 || held(rank, other_expert) > 0) continue;
      if (!affords_swap(slot, other)) continue;
      best = {time, slot, other, -1};
    }
  }
}

// One more replica of what the rank holds, somewhere else; or something lighter in place of a
// replica that it holds.
void LimitedLayer::consider_replacements(int rank, Change& best) {
  for (int own = shape_.first_slot(rank); own < shape_.first_slot(rank + 1); ++own) {
    for (int slot = 0; slot < shape_.num_slots(); ++slot)
      consider_replacement(slot, slots_[index(own)], rank, best);
    for (std::int32_t expert = 0; expert < shape_.num_logical_experts(); ++expert)
      consider_replacement(own, expert, rank, best);
  }
}

void LimitedLayer::consider_replacement(int slot, std::int32_t expert, int rank, Change& best) {
  if (is_pinned(slot) || count(slots_[index(slot)]) < 2 || count(expert) >= max_replicas_ ||
      !may_enter(shape_.rank_of_slot(slot), expert))
    return;
  ++work_;
  double time = time_after_replacing(slot, expert, -1);
  if (std::ranges::find(touched_, rank) == touched_.end())
    time = std::max(time, time_[index(rank)]);
  if (time < best.time && affords(slot, expert)) best = {time, slot, -1, expert};
}

void LimitedLayer::add_delta(int rank, double load) {
  if (std::ranges::find(touched_, rank) == touched_.end()) {
    touched_.push_back(rank);
    delta_[index(rank)] = 0.0;
  }
  delta_[index(rank)] += load;
}

// Of the ranks that this changes. @param domain >= 0: of those that lie there.
double LimitedLayer::time_after_replacing(int slot, std::int32_t expert, int domain) {
  touched_.clear();
  const std::int32_t leaving = slots_[index(slot)];
  const double grown = load_of(leaving) / (count(leaving) - 1);
  const double shrunk = load_of(expert) / (count(expert) + 1);
  add_delta(shape_.rank_of_slot(slot), shrunk - grown);
  for (int other : slots_of_[index(leaving)])
    add_delta(shape_.rank_of_slot(other), grown - piece(leaving));
  for (int other : slots_of_[index(expert)])
    add_delta(shape_.rank_of_slot(other), shrunk - piece(expert));
  double highest = 0.0;
  for (int rank : touched_) {
    if (domain >= 0 && domain_of_rank(rank) != domain) continue;
    highest = std::max(highest, time_[index(rank)] + delta_[index(rank)] * slowness_[index(rank)]);
  }
  return highest;
}

std::vector<double> LimitedLayer::node_loads() const {
  std::vector<double> loads(node_speed_.size(), 0.0);
  for (int slot = 0; slot < shape_.num_slots(); ++slot)
    loads[index(shape_.node_of_rank(shape_.rank_of_slot(slot)))] += piece(slots_[index(slot)]);
  return loads;
}

void LimitedLayer::spill(double level, int max_cross_node_replicas) {
  int outside = 0;
  for (int slot = 0; slot < shape_.num_slots(); ++slot)
    outside += is_foreign(slot) && !is_pinned(slot) ? 1 : 0;
  while (outside < max_cross_node_replicas) {
    const int more = spill_once(level, max_cross_node_replicas - outside);
    if (more == 0) break;
    outside += more;
  }
}

// From the node that takes longest to the one that is done first. @returns replicas put outside.
int LimitedLayer::spill_once(double level, int allowed) {
  const std::vector<double> loads = node_loads();
  const double all = std::accumulate(loads.begin(), loads.end(), 0.0);
  const double mean = all / std::accumulate(node_speed_.begin(), node_speed_.end(), 0.0);
  int from = 0;
  int to = 0;
  const auto time = [&](int node) { return loads[index(node)] / node_speed_[index(node)]; };
  for (int node = 1; node < shape_.num_nodes(); ++node) {
    if (time(node) > time(from)) from = node;
    if (time(node) < time(to)) to = node;
  }
  const double surplus = loads[index(from)] - level * mean * node_speed_[index(from)];
  const double room = mean * node_speed_[index(to)] - loads[index(to)];
  if (surplus <= 0.0 || room <= 0.0) return 0;
  const double wanted = std::min(surplus, room);
  if (spill_replica(from, to, wanted)) return 1;
  return allowed >= 2 && exchange_experts(from, to, wanted) ? 2 : 0;
}

// One more replica of an expert of `from` on `to`, in place of one that can be spared there.
bool LimitedLayer::spill_replica(int from, int to, double wanted) {
  const std::int32_t expert = spill_candidate(from, to, wanted);
  if (expert < 0) return false;
  int chosen = -1;
  double least = kOutOfQuestion;
  for (int slot = 0; slot < shape_.num_slots(); ++slot) {
    const int rank = shape_.rank_of_slot(slot);
    if (shape_.node_of_rank(rank) != to || is_pinned(slot) || is_foreign(slot)) continue;
    if (held(rank, expert) > 0 || count(slots_[index(slot)]) < 2) continue;
    const double after = time_after_replacing(slot, expert, to);
    if (after >= least) continue;
    least = after;
    chosen = slot;
  }
  if (chosen < 0) return false;
  set(chosen, expert);
  return true;
}

// Where no slot can be spared: a heavy replica against a light one, though both then draw tokens
// across.
bool LimitedLayer::exchange_experts(int from, int to, double wanted) {
  std::pair<int, int> best{-1, -1};
  double most = 0.0;
  const auto at_home = [&](int slot, int node) {
    return shape_.node_of_rank(shape_.rank_of_slot(slot)) == node && !is_pinned(slot) &&
           !is_foreign(slot);
  };
  for (int heavy = 0; heavy < shape_.num_slots(); ++heavy) {
    if (!at_home(heavy, from)) continue;
    const std::int32_t expert = slots_[index(heavy)];
    for (int light = 0; light < shape_.num_slots(); ++light) {
      if (!at_home(light, to)) continue;
      const std::int32_t other = slots_[index(light)];
      const double moved = piece(expert) - piece(other);
      if (moved < kWorthACrossing * piece(other) || moved <= 0.0 || moved > wanted) continue;
      const double worth = moved * moved / (piece(expert) + piece(other));
      if (worth <= most || held(shape_.rank_of_slot(light), expert) > 0 ||
          held(shape_.rank_of_slot(heavy), other) > 0)
        continue;
      most = worth;
      best = {heavy, light};
    }
  }
  if (best.first < 0) return false;
  const std::int32_t expert = slots_[index(best.first)];
  const std::int32_t other = slots_[index(best.second)];
  set(best.first, other);
  set(best.second, expert);
  return true;
}

// The expert at home on `from` whose next replica on `to` takes away most without exceeding what is
// wanted; if all exceed it, the one that does least, unless that only exchanges the nodes' parts.
int LimitedLayer::spill_candidate(int from, int to, double wanted) const {
  std::int32_t fitting = -1;
  std::int32_t smallest = -1;
  double most = 0.0;
  double least = kOutOfQuestion;
  for (std::int32_t expert = 0; expert < shape_.num_logical_experts(); ++expert) {
    if (home_[index(expert)] != from || count(expert) >= max_replicas_) continue;
    int at_home = 0;
    int there = 0;
    for (int slot : slots_of_[index(expert)]) {
      const int node = shape_.node_of_rank(shape_.rank_of_slot(slot));
      at_home += node == from ? 1 : 0;
      there += node == to ? 1 : 0;
    }
    if (there == ranks_in_domain_[index(to)]) continue;
    const double moved = piece(expert) * at_home / (count(expert) + 1);
    if (moved <= wanted && moved > most) {
      most = moved;
      fitting = expert;
    }
    if (moved > wanted && moved < least) {
      least = moved;
      smallest = expert;
    }
  }
  if (fitting >= 0) return fitting;
  return least < 2.0 * wanted ? smallest : -1;
}

}  // namespace swiftbalancer
