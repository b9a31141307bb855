#pragma once
// Per-token replica choice with planned shares. A DispatchTable is built by the balancer worker for
// one source rank and read by the engine; refreshed in place at commits, at a fixed address.

#include <array>
#include <cstdint>
#include <optional>
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

/// The rows of a layer's table that a change of placement and shares touches.
struct DispatchRows {
  std::vector<std::int32_t> experts;  ///< Ascending.
  std::vector<std::int32_t> entries;  ///< [experts, kDispatchEntries]
  /// @param table [num_logical_experts * kDispatchEntries] as it was before the change.
  void copy_to(std::span<std::int32_t> table) const noexcept;
};

/// Divides the entries of all source ranks over an expert's slots by their shares, each source's on
/// its own rank first, then on its own node: the part that stays there is the largest that the
/// shares allow, within an entry a slot. Deterministic, so that ranks that work it out each for
/// itself agree. Thread-compatible.
class LocalityFirst {
 public:
  /// @param source_load [num_ranks] tokens of each source rank, >= 0; empty: all alike.
  explicit LocalityFirst(const ClusterShape& shape, std::span<const std::int64_t> source_load = {});
  /// What one source gets, its own rank's slots first. Together the sources follow the shares
  /// within two entries of the largest source a slot. Does not allocate. Cost: O(sources + entries)
  /// for each node with a slot of the expert.
  /// @param slots of the expert, ascending. @param shares [num_slots] of the layer.
  void choose(std::span<const std::int32_t> slots, std::span<const std::uint32_t> shares,
              std::size_t source, std::span<std::int32_t, kDispatchEntries> out);

 private:
  // Weights of entries by turn, in units of 1 / kShareUnit.
  using Turns = std::array<std::int64_t, kDispatchEntries + 1>;

  void keep_on_ranks(std::span<const std::int32_t> slots, std::span<const std::uint32_t> shares);
  void keep_on_node(std::span<const std::int32_t> slots, std::size_t node);
  bool make_room(std::span<const std::int32_t> slots, std::span<const int> sources, int node);
  void take(std::span<const std::int32_t> slots, std::span<const int> sources);
  bool give_out(std::span<const std::int32_t> slots, std::span<const int> sources);
  void set_turns(std::span<const int> sources);

  std::vector<std::int64_t> weight_;  // [num_ranks] of a source's entry, in 1 / kShareUnit
  std::int64_t total_weight_ = 0;
  std::vector<int> rank_of_slot_;
  std::vector<int> node_of_rank_;
  std::vector<std::vector<int>> ranks_of_node_;
  std::vector<int> all_ranks_;
  // Of the expert under way.
  std::vector<int> left_;             // [num_ranks] entries not yet given a slot
  std::vector<std::int64_t> open_;    // [slots of the expert] weight * kShareUnit still to be given
  std::vector<std::int64_t> end_of_;  // [slots of the expert] the end of its place on the line
  Turns turns_{};                     // of the sources under way, up to the beginning of each
  Turns ending_{};  // weights of sources by the turn that is their last; zero between calls
  std::size_t source_ = 0;
  std::int32_t* next_ = nullptr;
};

/// Builds the tables of one source rank, layer by layer, without allocating. Thread-compatible.
class DispatchTableBuilder {
 public:
  /// @param locality_first Entries name slots of the source's own rank first, then of its own node.
  explicit DispatchTableBuilder(const ClusterShape& shape, bool locality_first = false);
  /// Fills one layer's table [num_logical_experts * kDispatchEntries]. The shares are cut into as
  /// many strata as there are entries, and each source rank takes one point of each stratum, at a
  /// distance of its own: a source's entries follow the shares within one entry, those of all
  /// sources together within one in num_ranks * kDispatchEntries. Consecutive tickets take the
  /// strata in bit-reversed order (van der Corput 1935), so that any run of them is split nearly as
  /// planned. An expert without a slot gets kEmptySlot. Deterministic. Cost: O(experts * entries).
  void build(std::span<const std::int32_t> slots, std::span<const std::uint32_t> shares,
             int source_rank, std::span<std::int32_t> out);
  /// Only the rows of experts some slot or share of which is not as before.
  DispatchRows changed_rows(std::span<const std::int32_t> slots_before,
                            std::span<const std::uint32_t> shares_before,
                            std::span<const std::int32_t> slots,
                            std::span<const std::uint32_t> shares, int source_rank);

 private:
  std::size_t begin_of(std::size_t expert) const noexcept {
    return expert == 0 ? 0 : end_[expert - 1];
  }
  std::int32_t first_slot(std::size_t expert) const noexcept {
    return begin_of(expert) == end_[expert] ? -1 : slots_[begin_of(expert)];
  }
  void fill_row(std::size_t expert, std::span<const std::uint32_t> shares, std::uint32_t source,
                std::int32_t* row);
  void group_by_expert(std::span<const std::int32_t> slots);

  std::uint32_t num_sources_;
  std::optional<LocalityFirst> locality_;
  std::vector<std::size_t> end_;          // [num_logical_experts] of its slots in slots_
  std::vector<std::int32_t> slots_;       // [num_slots] by expert
  std::vector<std::uint8_t> is_changed_;  // [num_logical_experts] scratch of changed_rows()
};

/// One layer's choices for engines that draw token by token on the CPU, where a few comparisons
/// cost less than a wide table: the shares themselves, not rounded to entries. Thread-compatible.
class DrawTable {
 public:
  explicit DrawTable(const ClusterShape& shape);
  /// Takes one layer's shares; does not allocate. Cost: O(experts + slots).
  void build(std::span<const std::int32_t> slots, std::span<const std::uint32_t> shares);
  /// The slot for a token: the ticket's place in a low-discrepancy sequence (van der Corput 1935,
  /// base 2), shifted by the source rank's own part, looked up among the shares. Of n consecutive
  /// tickets each slot gets its share of n within about log2(n). The expert has a slot.
  std::int32_t slot(int logical_id, std::uint32_t ticket, int source_rank) const noexcept;

 private:
  struct Choice {
    std::int32_t slot;
    std::uint32_t limit;  // shares of the expert's slots up to this one
  };
  std::uint32_t source_shift_;
  std::vector<std::uint32_t> first_;  // [num_logical_experts + 1] into choices_
  std::vector<Choice> choices_;
};

/// One table; see DispatchTableBuilder.
void build_dispatch_table(std::span<const std::int32_t> slots,
                          std::span<const std::uint32_t> shares, const ClusterShape& shape,
                          int source_rank, std::span<std::int32_t> out);

}  // namespace swiftbalancer
