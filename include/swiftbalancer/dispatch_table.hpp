#pragma once
// Per-token replica choice with planned shares. A DispatchTable is built by the balancer worker for
// one source rank and read by the engine; refreshed in place at commits, at a fixed address.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// A slot's share of its expert's tokens, in units of 1 / kShareUnit. The shares of an expert's
/// slots sum to kShareUnit.
inline constexpr std::uint32_t kShareUnit = 1U << 16;
/// Choices per expert in a dispatch table: the k-th token of an expert goes to choice k modulo
/// kDispatchEntries.
inline constexpr int kDispatchEntries = 32;

/// One layer's choices: [num_logical_experts, kDispatchEntries] slots. A view; the Balancer owns
/// the memory.
class DispatchView {
 public:
  explicit DispatchView(const std::int32_t* entries) noexcept : entries_(entries) {}
  /// @param ticket counts the tokens that this source rank has sent to this expert; any start, +1 a
  /// token.
  std::int32_t slot(int logical_id, std::uint32_t ticket) const noexcept {
    return entries_[static_cast<std::size_t>(logical_id) * kDispatchEntries +
                    ticket % kDispatchEntries];
  }

 private:
  const std::int32_t* entries_;
};

/// Equal shares [num_slots] for one layer (kShareUnit / replicas, the first slots take the
/// remainder).
std::vector<std::uint32_t> even_shares(std::span<const std::int32_t> slots,
                                       int num_logical_experts);

/// Fills one layer's table [num_logical_experts * kDispatchEntries] for a source rank: each slot
/// appears in proportion to its share (largest remainder, rounding rotated by source_rank so that
/// errors cancel over sources), spread evenly so that any run of consecutive tickets is split
/// nearly as planned. Thread: any. Cost: O(experts * entries * replicas). Deterministic.
void build_dispatch_table(std::span<const std::int32_t> slots,
                          std::span<const std::uint32_t> shares, const ClusterShape& shape,
                          int source_rank, std::span<std::int32_t> out);

}  // namespace swiftbalancer
