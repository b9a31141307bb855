#pragma once
// What a change of a layer makes each rank receive and send. Used by plan jobs for budgets of ranks
// and for the cost of a plan. Pure.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

struct RankMoves {
  std::vector<int> received;  ///< [num_ranks] experts that a rank gains.
  /// [num_ranks] at most: sources are chosen when the plan is carried out, among the nearest ranks
  /// that hold the expert (same node before others), and each of those counts as if it sent.
  std::vector<int> sent;
  /// The most that one rank receives or may send.
  int busiest() const;
  /// Whether that is within LayerProblem::max_rank_moves.
  bool fit(int max_rank_moves) const { return max_rank_moves < 0 || busiest() <= max_rank_moves; }
};

/// @param before, after [num_slots] placements of one layer; a rank's own slots need no sender.
RankMoves rank_moves(const ClusterShape& shape, std::span<const std::int32_t> before,
                     std::span<const std::int32_t> after);

/// Bytes that ranks have to receive and to send for several layers, against a budget.
class RankBytes {
 public:
  /// @param most that a rank may receive, and may send; < 0: no limit.
  RankBytes(int num_ranks, std::int64_t most)
      : received_(static_cast<std::size_t>(num_ranks), 0), sent_(received_), most_(most) {}
  bool fits(const RankMoves& moves, std::int64_t expert_bytes) const;
  void add(const RankMoves& moves, std::int64_t expert_bytes);

 private:
  std::vector<std::int64_t> received_, sent_;  // [num_ranks]
  std::int64_t most_;
};

}  // namespace swiftbalancer
