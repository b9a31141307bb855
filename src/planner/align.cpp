#include "planner/align.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include <swiftbalancer/placement.hpp>

#include "core/index.hpp"

namespace swiftbalancer {
namespace {

// Whether experts may be exchanged between (or renamed across) these ranks.
bool same_domain(const ClusterShape& shape, bool keep_nodes, int a, int b) {
  return !keep_nodes || shape.node_of_rank(a) == shape.node_of_rank(b);
}

class Repair {
 public:
  Repair(const ClusterShape& shape, std::span<const std::int64_t> load, bool keep_nodes,
         std::span<std::int32_t> slots)
      : shape_(shape),
        load_(load),
        keep_nodes_(keep_nodes),
        slots_(slots),
        count_(replica_count(slots, shape.num_logical_experts())),
        held_(load.size() * index(shape.num_ranks()), 0),
        rank_load_(index(shape.num_ranks()), 0.0) {
    for (int slot = 0; slot < shape.num_slots(); ++slot) {
      ++held(shape.rank_of_slot(slot), slots[index(slot)]);
      rank_load_[index(shape.rank_of_slot(slot))] += piece(slots[index(slot)]);
    }
  }

  void run() {
    for (int slot = 0; slot < shape_.num_slots(); ++slot) {
      if (held(shape_.rank_of_slot(slot), slots_[index(slot)]) < 2) continue;
      if (!swap_away(slot)) replace(slot);
    }
  }

 private:
  int& held(int rank, int expert) { return held_[index(rank) * load_.size() + index(expert)]; }
  double piece(int expert) const {
    return static_cast<double>(load_[index(expert)]) / count_[index(expert)];
  }

  bool swap_away(int slot) {
    const int rank = shape_.rank_of_slot(slot);
    const std::int32_t expert = slots_[index(slot)];
    int best = -1;
    double best_load = 0.0;
    for (int other = 0; other < shape_.num_slots(); ++other) {
      const int other_rank = shape_.rank_of_slot(other);
      const std::int32_t other_expert = slots_[index(other)];
      if (other_rank == rank || !same_domain(shape_, keep_nodes_, rank, other_rank)) continue;
      if (held(other_rank, expert) > 0 || held(rank, other_expert) > 0) continue;
      const double change = piece(other_expert) - piece(expert);
      const double heavier =
          std::max(rank_load_[index(rank)] + change, rank_load_[index(other_rank)] - change);
      if (best < 0 || heavier < best_load) {
        best = other;
        best_load = heavier;
      }
    }
    if (best < 0) return false;
    const int other_rank = shape_.rank_of_slot(best);
    const std::int32_t other_expert = slots_[index(best)];
    const double change = piece(other_expert) - piece(expert);
    --held(rank, expert), ++held(other_rank, expert);
    --held(other_rank, other_expert), ++held(rank, other_expert);
    rank_load_[index(rank)] += change;
    rank_load_[index(other_rank)] -= change;
    std::swap(slots_[index(slot)], slots_[index(best)]);
    return true;
  }

  // Gives the slot to the heaviest expert that may live on the rank and does not yet.
  void replace(int slot) {
    const int rank = shape_.rank_of_slot(slot);
    int best = -1;
    for (int candidate = 0; candidate < shape_.num_slots(); ++candidate) {
      const int other = slots_[index(candidate)];
      if (!same_domain(shape_, keep_nodes_, rank, shape_.rank_of_slot(candidate)) ||
          held(rank, other) > 0)
        continue;
      if (best < 0 || piece(other) > piece(best) || (piece(other) == piece(best) && other < best))
        best = other;
    }
    if (best < 0) return;
    const std::int32_t expert = slots_[index(slot)];
    --held(rank, expert), ++held(rank, best);
    --count_[index(expert)], ++count_[index(best)];
    slots_[index(slot)] = best;
    // Pieces of both experts changed everywhere.
    std::fill(rank_load_.begin(), rank_load_.end(), 0.0);
    for (int s = 0; s < shape_.num_slots(); ++s)
      rank_load_[index(shape_.rank_of_slot(s))] += piece(slots_[index(s)]);
  }

  const ClusterShape& shape_;
  std::span<const std::int64_t> load_;
  bool keep_nodes_;
  std::span<std::int32_t> slots_;
  std::vector<std::int32_t> count_;
  std::vector<int> held_;  // [rank][expert]
  std::vector<double> rank_load_;
};

// Kuhn-Munkres with potentials. @param gain [n][n]. @returns for each column the row that takes it,
// total gain maximal.
std::vector<int> best_assignment(const std::vector<std::vector<std::int64_t>>& gain) {
  const std::size_t n = gain.size();
  constexpr std::int64_t kInfinite = std::numeric_limits<std::int64_t>::max() / 4;
  std::vector<std::int64_t> row_price(n + 1, 0), column_price(n + 1, 0);
  std::vector<std::size_t> row_of(n + 1, 0), previous(n + 1, 0);
  for (std::size_t row = 1; row <= n; ++row) {
    row_of[0] = row;
    std::size_t column = 0;
    std::vector<std::int64_t> slack(n + 1, kInfinite);
    std::vector<bool> done(n + 1, false);
    do {
      done[column] = true;
      std::int64_t step = kInfinite;
      std::size_t next = 0;
      for (std::size_t j = 1; j <= n; ++j) {
        if (done[j]) continue;
        const std::int64_t cost =
            -gain[row_of[column] - 1][j - 1] - row_price[row_of[column]] - column_price[j];
        if (cost < slack[j]) slack[j] = cost, previous[j] = column;
        if (slack[j] < step) step = slack[j], next = j;
      }
      for (std::size_t j = 0; j <= n; ++j) {
        if (done[j]) {
          row_price[row_of[j]] += step, column_price[j] -= step;
        } else {
          slack[j] -= step;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    while (column != 0) row_of[column] = row_of[previous[column]], column = previous[column];
  }
  std::vector<int> result(n);
  for (std::size_t j = 1; j <= n; ++j) result[j - 1] = static_cast<int>(row_of[j]) - 1;
  return result;
}

constexpr std::int64_t kForbidden = -1'000'000'000;

// Experts of `from` (a rank of the new placement) that `to` holds now.
std::int64_t overlap(const ClusterShape& shape, std::span<const std::int32_t> current,
                     std::span<const std::int32_t> slots, int from, int to) {
  const auto held = current.subspan(index(shape.first_slot(to)), index(shape.slots_per_rank(to)));
  std::int64_t same = 0;
  for (int slot = shape.first_slot(from); slot < shape.first_slot(from + 1); ++slot) {
    same += std::find(held.begin(), held.end(), slots[index(slot)]) != held.end() ? 1 : 0;
  }
  return same;
}

struct Renaming {
  std::vector<int> target;  // of each given source
  std::int64_t kept = 0;
};

// How to rename ranks `from` to ranks `to` (equally many). kept < 0: their slot counts do not
// match.
Renaming rename_ranks(const ClusterShape& shape, std::span<const std::int32_t> current,
                      std::span<const std::int32_t> slots, const std::vector<int>& from,
                      const std::vector<int>& to) {
  std::vector<std::vector<std::int64_t>> gain(from.size(),
                                              std::vector<std::int64_t>(to.size(), kForbidden));
  for (std::size_t i = 0; i < from.size(); ++i) {
    for (std::size_t j = 0; j < to.size(); ++j) {
      if (shape.slots_per_rank(from[i]) != shape.slots_per_rank(to[j])) continue;
      // Among equals a rank keeps its name.
      gain[i][j] = 2 * overlap(shape, current, slots, from[i], to[j]) + (from[i] == to[j] ? 1 : 0);
    }
  }
  const std::vector<int> source = best_assignment(gain);
  Renaming result{std::vector<int>(from.size()), 0};
  for (std::size_t j = 0; j < to.size(); ++j) {
    result.target[index(source[j])] = to[j];
    result.kept += gain[index(source[j])][j];
  }
  return result;
}

std::vector<std::vector<int>> rename_domains(const ClusterShape& shape, bool keep_nodes) {
  std::vector<std::vector<int>> domains(keep_nodes ? index(shape.num_nodes()) : 1);
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    domains[keep_nodes ? index(shape.node_of_rank(rank)) : 0].push_back(rank);
  }
  return domains;
}

}  // namespace

void repair_same_rank_duplicates(const ClusterShape& shape, std::span<const std::int64_t> load,
                                 bool keep_nodes, std::span<std::int32_t> slots) {
  if (count_same_rank_duplicates(slots, shape) == 0) return;
  Repair(shape, load, keep_nodes, slots).run();
}

void align_ranks(const ClusterShape& shape, std::span<const std::int32_t> current, bool keep_nodes,
                 std::span<std::int32_t> slots) {
  const auto domains = rename_domains(shape, keep_nodes);
  std::vector<std::vector<Renaming>> options(domains.size(), std::vector<Renaming>(domains.size()));
  std::vector<std::vector<std::int64_t>> gain(
      domains.size(), std::vector<std::int64_t>(domains.size(), kForbidden));
  for (std::size_t i = 0; i < domains.size(); ++i) {
    for (std::size_t j = 0; j < domains.size(); ++j) {
      if (domains[i].size() != domains[j].size()) continue;
      options[i][j] = rename_ranks(shape, current, slots, domains[i], domains[j]);
      gain[i][j] = std::max(options[i][j].kept, kForbidden);
    }
  }
  const std::vector<int> source = best_assignment(gain);
  const std::vector<std::int32_t> before(slots.begin(), slots.end());
  for (std::size_t j = 0; j < domains.size(); ++j) {
    const auto i = index(source[j]);
    for (std::size_t k = 0; k < domains[i].size(); ++k) {
      const int from = domains[i][k], to = options[i][j].target[k];
      std::copy_n(before.begin() + shape.first_slot(from), shape.slots_per_rank(from),
                  slots.begin() + shape.first_slot(to));
    }
  }
}

void align_slots(const ClusterShape& shape, std::span<const std::int32_t> current,
                 std::span<std::int32_t> slots) {
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    const auto held =
        current.subspan(index(shape.first_slot(rank)), index(shape.slots_per_rank(rank)));
    const auto own =
        slots.subspan(index(shape.first_slot(rank)), index(shape.slots_per_rank(rank)));
    // Up to here each slot has what it keeps or what came; a staying expert further on swaps in.
    const auto settled = [&](std::size_t slot) { return own[slot] == held[slot]; };
    for (std::size_t slot = 0; slot < own.size(); ++slot) {
      if (settled(slot)) continue;
      for (std::size_t from = 0; from < own.size(); ++from) {
        if (own[from] != held[slot] || settled(from)) continue;
        std::swap(own[slot], own[from]);
        break;
      }
    }
  }
}

}  // namespace swiftbalancer
