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
bool Packing::counts_are_greedy() const noexcept {
  const double most = exact_piece_[at(order_[0])];
  for (std::size_t expert = 0; expert < count_.size(); ++expert)
    if (count_[expert] > 1 && exact_[expert] / (count_[expert] - 1) <= most) return false;
  return true;
}

// Experts of equal pieces are in order already, and stay so.
void Packing::sort_experts_exactly() noexcept {
  sort_experts();
  std::size_t shifts = 0;
  double last = exact_piece_[at(order_[0])];
  for (std::size_t i = 1; i < order_.size() && shifts < kShiftsPerExpert * order_.size(); ++i) {
    const std::int32_t expert = order_[i];
    const double piece = exact_piece_[at(expert)];
    if (piece <= last) {
      last = piece;
      continue;
    }
    std::size_t place = i;
    for (; place > 0 && piece > exact_piece_[at(order_[place - 1])]; --place)
      order_[place] = order_[place - 1];
    order_[place] = expert;
    shifts += i - place;
  }
  if (shifts < kShiftsPerExpert * order_.size()) return;
  std::ranges::sort(order_, [this](std::int32_t a, std::int32_t b) {
    const double one = exact_piece_[at(a)], other = exact_piece_[at(b)];
    return one > other || (one == other && a < b);
  });
}

// Pieces of the same load: first one of each expert, then further ones in the order in which they
// came, which is that of the load per replica before.
void Packing::list_pieces() noexcept {
  std::int32_t* listed = listed_.data();
  further_.clear();
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const std::int32_t expert = order_[i];
    *listed++ = expert;
    for (std::int32_t replicas = 1; replicas < count_[at(expert)]; ++replicas)
      further_.push_back({replicas, expert});
    if (further_.empty() ||
        (i + 1 < order_.size() && exact_piece_[at(order_[i + 1])] == exact_piece_[at(expert)]))
      continue;
    if (further_.front().expert != further_.back().expert) {
      const auto before = [this](const Further& piece) {
        return exact_[at(piece.expert)] / piece.replicas;
      };
      std::ranges::sort(further_, [before](const Further& a, const Further& b) {
        return before(a) > before(b) || (before(a) == before(b) && a.expert < b.expert);
      });
    }
    for (const Further& piece : further_) *listed++ = piece.expert;
    further_.clear();
  }
}

// order_ranks() leaves out the last bits of the loads. Ranks of equal ones are in order already.
void Packing::order_ranks_exactly() noexcept {
  const std::int32_t* room = room_.data();
  order_ranks([room](int rank) { return room[rank] > 0; });
  double last = sorted_.empty() ? 0.0 : exact_load_[at(sorted_[0])];
  for (std::size_t i = 1; i < sorted_.size(); ++i) {
    const std::int32_t rank = sorted_[i];
    const double load = exact_load_[at(rank)];
    if (load >= last) {
      last = load;
      continue;
    }
    std::size_t place = i;
    for (; place > 0 && load < exact_load_[at(sorted_[place - 1])]; --place)
      sorted_[place] = sorted_[place - 1];
    sorted_[place] = rank;
  }
}

// The lightest rank takes a piece each time: that goes down the ranks as long as the next one is
// lighter than all that took one, mostly to the last.
bool Packing::pack_as_eplb() {
  set_pieces();
  for (std::size_t expert = 0; expert < exact_.size(); ++expert)
    exact_piece_[expert] = exact_[expert] / count_[expert];
  sort_experts_exactly();
  if (!counts_are_greedy()) return false;
  list_pieces();
  clear();
  std::ranges::fill(exact_load_, 0.0);
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    room_[at(rank)] = shape_.slots_per_rank(rank);
    next_cell_[at(rank)] = at(rank);
  }
  const std::int32_t* next = listed_.data();
  for (const std::int32_t* end = next + listed_.size(); next != end;) {
    order_ranks_exactly();
    double least_after = std::numeric_limits<double>::infinity();
    for (const std::int32_t rank : sorted_) {
      double load_of_rank = exact_load_[at(rank)];
      if (load_of_rank >= least_after) break;
      double piece = 0.0;
      int room = room_[at(rank)];
      do {
        piece = exact_piece_[at(*next)];
        place(rank, next_cell_[at(rank)], *next++);
        next_cell_[at(rank)] += lanes_;
        load_of_rank += piece;
      } while (--room > 0 && piece == 0.0);
      room_[at(rank)] = room;
      exact_load_[at(rank)] = load_of_rank;
      rank_load_[at(rank)] = static_cast<float>(load_of_rank);
      if (room > 0) least_after = std::min(least_after, load_of_rank);
    }
  }
  return true;
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
