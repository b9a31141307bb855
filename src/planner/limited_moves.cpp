// What LimitedLayer does where moves are limited: counts what each rank receives and sends against
// the placement that it started from.

#include <algorithm>
#include <limits>

#include "core/index.hpp"
#include "planner/limited_layer.hpp"

namespace swiftbalancer {
namespace {

constexpr int kNobody = -1;

}  // namespace

void LimitedLayer::limit_moves(int max_moves, int max_rank_moves) {
  constexpr int kNoLimit = std::numeric_limits<int>::max() / 2;
  max_moves_ = max_moves < 0 ? kNoLimit : max_moves;
  max_rank_moves_ = max_rank_moves < 0 ? kNoLimit : max_rank_moves;
  held_before_ = held_;
  holders_.assign(slots_of_.size(), {});
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    for (std::int32_t expert = 0; expert < shape_.num_logical_experts(); ++expert) {
      if (held(rank, expert) > 0) holders_[index(expert)].push_back(rank);
    }
  }
  received_.assign(index(shape_.num_ranks()), 0);
  sent_ = received_;
  source_.assign(held_.size(), kNobody);
  moves_ = 0;
}

int LimitedLayer::held_before(int rank, std::int32_t expert) const {
  return held_before_[index(rank) * problem_.load.size() + index(expert)];
}

// Whether the rank would have to receive it.
bool LimitedLayer::comes(int rank, std::int32_t expert) const {
  return held(rank, expert) == 0 && held_before(rank, expert) == 0;
}

// The rank that has sent least of those that held the expert.
int LimitedLayer::sender_of(std::int32_t expert) const {
  return *std::ranges::min_element(holders_[index(expert)], {},
                                   [this](int rank) { return sent_[index(rank)]; });
}

void LimitedLayer::count_arrival(int rank, std::int32_t expert) {
  if (held_before_.empty() || !comes(rank, expert)) return;
  int& source = source_[index(rank) * problem_.load.size() + index(expert)];
  source = sender_of(expert);
  ++sent_[index(source)];
  ++received_[index(rank)];
  ++moves_;
}

void LimitedLayer::count_leaving(int rank, std::int32_t expert) {
  if (held_before_.empty() || held(rank, expert) != 1 || held_before(rank, expert) > 0) return;
  --sent_[index(source_[index(rank) * problem_.load.size() + index(expert)])];
  --received_[index(rank)];
  --moves_;
}

// Moves by which the count grows when a slot is given to an expert: 1, 0 or, where one that has
// come leaves again, -1.
int LimitedLayer::cost_of(int slot, std::int32_t expert) const {
  const int rank = shape_.rank_of_slot(slot);
  const std::int32_t leaving = slots_[index(slot)];
  const bool undone = held(rank, leaving) == 1 && held_before(rank, leaving) == 0;
  return (comes(rank, expert) ? 1 : 0) - (undone ? 1 : 0);
}

bool LimitedLayer::affords(int slot, std::int32_t expert) const {
  if (held_before_.empty()) return true;
  const int cost = cost_of(slot, expert);
  const int rank = shape_.rank_of_slot(slot);
  if (moves_ + cost > max_moves_ || received_[index(rank)] + cost > max_rank_moves_) return false;
  return !comes(rank, expert) || sent_[index(sender_of(expert))] < max_rank_moves_;
}

bool LimitedLayer::affords_swap(int slot, int other_slot) {
  if (held_before_.empty()) return true;
  const std::int32_t expert = slots_[index(slot)];
  const std::int32_t other = slots_[index(other_slot)];
  if (moves_ + cost_of(slot, other) + cost_of(other_slot, expert) > max_moves_ ||
      !affords(slot, other))
    return false;
  // Both may have to come from the same rank.
  if (!comes(shape_.rank_of_slot(slot), other)) return affords(other_slot, expert);
  int& sent = sent_[index(sender_of(other))];
  ++sent;
  const bool affordable = affords(other_slot, expert);
  --sent;
  return affordable;
}

// By what the slowest rank wins per move.
bool LimitedLayer::is_better(const Change& replacement, const Change& swap, double now) const {
  if (replacement.slot < 0 || swap.slot < 0) return swap.slot < 0;
  const int swap_cost = cost_of(swap.slot, slots_[index(swap.other_slot)]) +
                        cost_of(swap.other_slot, slots_[index(swap.slot)]);
  const int cost = std::max(1, cost_of(replacement.slot, replacement.expert));
  return (now - replacement.time) * std::max(1, swap_cost) >= (now - swap.time) * cost;
}

void LimitedLayer::make_room() {
  for (int slot = 0; slot < shape_.num_slots(); ++slot) {
    const std::int32_t now = slots_[index(slot)];
    const bool wasted = held(shape_.rank_of_slot(slot), now) > 1 || count(now) > max_replicas_;
    if (!wasted || is_pinned(slot)) continue;
    std::int32_t best = -1;
    for (std::int32_t expert = 0; expert < shape_.num_logical_experts(); ++expert) {
      if (!may_enter(shape_.rank_of_slot(slot), expert) || count(expert) >= max_replicas_ ||
          !affords(slot, expert))
        continue;
      if (best < 0 || load_of(expert) / (count(expert) + 1) > load_of(best) / (count(best) + 1))
        best = expert;
    }
    if (best >= 0) set(slot, best);
  }
}

}  // namespace swiftbalancer
