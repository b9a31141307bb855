// Packing::pack_as_eplb(): the published algorithm's packing, by its own arithmetic (doubles, its
// order of ties), some ten times faster.

#include <algorithm>
#include <limits>

#include "planner/packing.hpp"

namespace swiftbalancer {
namespace {

// Shifts per expert that an insertion sort may take: the counting sort before it leaves fewer, but
// for loads that all fall in one of its intervals.
constexpr int kShiftsPerExpert = 8;

}  // namespace

// Greedy replication ends at these counts, whatever its ties, if every replica that they have was
// worth more than any further one.
bool Packing::counts_are_greedy(std::span<const std::int64_t> load) noexcept {
  double least_before = std::numeric_limits<double>::infinity(), most = 0.0;
  for (std::size_t expert = 0; expert < load.size(); ++expert) {
    const auto tokens = static_cast<double>(load[expert]);
    exact_piece_[expert] = tokens / count_[expert];
    most = std::max(most, exact_piece_[expert]);
    if (count_[expert] > 1) least_before = std::min(least_before, tokens / (count_[expert] - 1));
  }
  return least_before > most;
}

void Packing::sort_experts_exactly() noexcept {
  const auto heavier = [this](std::int32_t a, std::int32_t b) {
    const double one = exact_piece_[at(a)], other = exact_piece_[at(b)];
    return one > other || (one == other && a < b);
  };
  sort_experts();
  std::size_t shifts = 0;
  for (std::size_t i = 1; i < order_.size() && shifts < kShiftsPerExpert * order_.size(); ++i) {
    const std::int32_t expert = order_[i];
    std::size_t place = i;
    for (; place > 0 && heavier(expert, order_[place - 1]); --place)
      order_[place] = order_[place - 1];
    order_[place] = expert;
    shifts += i - place;
  }
  if (shifts >= kShiftsPerExpert * order_.size()) std::ranges::sort(order_, heavier);
}

// Pieces of the same load: first one of each expert, then further ones in the order in which they
// came, which is known if they are all of one expert.
bool Packing::list_pieces() noexcept {
  std::int32_t* listed = listed_.data();
  std::int32_t repeated = -1;  // expert of the group whose further pieces wait
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const std::int32_t expert = order_[i];
    *listed++ = expert;
    if (count_[at(expert)] > 1) {
      if (repeated >= 0) return false;
      repeated = expert;
    }
    if (repeated < 0 ||
        (i + 1 < order_.size() && exact_piece_[at(order_[i + 1])] == exact_piece_[at(expert)]))
      continue;
    for (std::int32_t further = count_[at(repeated)] - 1; further > 0; --further)
      *listed++ = repeated;
    repeated = -1;
  }
  return true;
}

// order_ranks() leaves out the last bits of the loads.
void Packing::order_ranks_exactly(int round) noexcept {
  order_ranks(round, SmallRanks::kLastRounds);
  for (std::size_t i = 1; i < sorted_.size(); ++i) {
    const std::int32_t rank = sorted_[i];
    const double load = exact_load_[at(rank)];
    if (exact_load_[at(sorted_[i - 1])] < load) continue;
    std::size_t place = i;
    for (; place > 0; --place) {
      const std::int32_t other = sorted_[place - 1];
      if (exact_load_[at(other)] < load || (exact_load_[at(other)] == load && other < rank)) break;
      sorted_[place] = other;
    }
    sorted_[place] = rank;
  }
}

// The lightest rank takes a piece each time: that goes through all ranks, lightest first, as long
// as none is overtaken by one behind it.
bool Packing::pack_as_eplb(std::span<const std::int64_t> load) {
  set_pieces();
  if (!counts_are_greedy(load)) return false;
  sort_experts_exactly();
  if (!list_pieces()) return false;
  clear();
  std::ranges::fill(exact_load_, 0.0);
  const std::int32_t* next = listed_.data();
  for (int depth = 0; depth < shape_.max_slots_per_rank(); ++depth) {
    order_ranks_exactly(depth);
    const double heaviest = exact_load_[at(sorted_.back())];
    double least_after = std::numeric_limits<double>::infinity();
    for (const std::int32_t rank : sorted_) {
      const std::int32_t expert = *next++;
      const double piece = exact_piece_[at(expert)];
      const double after = exact_load_[at(rank)] += piece;
      rank_load_[at(rank)] = static_cast<float>(after);
      place(rank, depth, expert);
      if (piece > 0.0 && depth + 1 < shape_.slots_per_rank(rank))
        least_after = std::min(least_after, after);
    }
    if (least_after <= heaviest) return false;
  }
  // Pieces of 0 may go anywhere, but are what duplicates are exchanged for.
  return !has_duplicates_ || exact_piece_[at(order_.back())] > 0.0;
}

// The exchange with any slot that leaves the heavier of the two ranks lightest, as
// repair_same_rank_duplicates() finds it.
bool Packing::part_duplicate(Place place) noexcept {
  const int expert = expert_at(place);
  const double load = exact_load_[at(place.rank)];
  Place best;
  double least = std::numeric_limits<double>::infinity(), change = 0.0;
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    if (holds(rank, expert)) continue;
    for (int depth = 0; depth < shape_.slots_per_rank(rank); ++depth) {
      const int other = expert_at({rank, depth});
      const double difference = exact_piece_[at(other)] - exact_piece_[at(expert)];
      const double heavier = std::max(load + difference, exact_load_[at(rank)] - difference);
      if (heavier >= least || holds(place.rank, other)) continue;
      least = heavier;
      best = {rank, depth};
      change = difference;
    }
  }
  if (best.rank < 0) return false;
  exact_load_[at(place.rank)] += change;
  exact_load_[at(best.rank)] -= change;
  swap(place, best);
  return true;
}

bool Packing::part_duplicates_as_eplb() noexcept {
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    if (has_duplicate_[at(rank)] == 0) continue;
    const int depths = shape_.slots_per_rank(rank);
    for (int depth = 0; depth < depths; ++depth) {
      const int expert = expert_at({rank, depth});
      int held = 0;
      for (int other = 0; other < depths; ++other)
        held += static_cast<int>(expert_at({rank, other}) == expert);
      if (held > 1 && !part_duplicate({rank, depth})) return false;
    }
  }
  has_duplicates_ = false;
  return true;
}

}  // namespace swiftbalancer
