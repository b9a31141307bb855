#include "planner/rank_moves.hpp"

#include <algorithm>
#include <cstddef>

#include <swiftbalancer/placement.hpp>

#include "core/index.hpp"

namespace swiftbalancer {
namespace {

std::span<const std::int32_t> slots_of(std::span<const std::int32_t> slots,
                                       const ClusterShape& shape, int rank) {
  return slots.subspan(index(shape.first_slot(rank)), index(shape.slots_per_rank(rank)));
}

}  // namespace

int RankMoves::busiest() const {
  const auto most = [](const std::vector<int>& counts) {
    return counts.empty() ? 0 : *std::ranges::max_element(counts);
  };
  return std::max(most(received), most(sent));
}

RankMoves rank_moves(const ClusterShape& shape, std::span<const std::int32_t> before,
                     std::span<const std::int32_t> after) {
  RankMoves moves{std::vector<int>(index(shape.num_ranks()), 0),
                  std::vector<int>(index(shape.num_ranks()), 0)};
  std::vector<std::vector<int>> holders(index(shape.num_logical_experts()));
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    for (const std::int32_t expert : slots_of(before, shape, rank)) {
      if (expert == kEmptySlot) continue;
      std::vector<int>& of_expert = holders[index(expert)];
      if (of_expert.empty() || of_expert.back() != rank) of_expert.push_back(rank);
    }
  }
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    const auto now = slots_of(after, shape, rank);
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (now[i] == kEmptySlot || std::ranges::find(now.first(i), now[i]) != now.first(i).end())
        continue;
      const std::vector<int>& of_expert = holders[index(now[i])];
      if (std::ranges::find(of_expert, rank) != of_expert.end()) continue;
      ++moves.received[index(rank)];
      const auto near = [&](int holder) {
        return shape.node_of_rank(holder) == shape.node_of_rank(rank);
      };
      const bool any_near = std::ranges::any_of(of_expert, near);
      for (const int holder : of_expert) {
        if (near(holder) == any_near) ++moves.sent[index(holder)];
      }
    }
  }
  return moves;
}

bool RankBytes::fits(const RankMoves& moves, std::int64_t expert_bytes) const {
  if (most_ < 0) return true;
  for (std::size_t rank = 0; rank < received_.size(); ++rank) {
    if (received_[rank] + moves.received[rank] * expert_bytes > most_ ||
        sent_[rank] + moves.sent[rank] * expert_bytes > most_)
      return false;
  }
  return true;
}

void RankBytes::add(const RankMoves& moves, std::int64_t expert_bytes) {
  for (std::size_t rank = 0; rank < received_.size(); ++rank) {
    received_[rank] += moves.received[rank] * expert_bytes;
    sent_[rank] += moves.sent[rank] * expert_bytes;
  }
}

}  // namespace swiftbalancer
