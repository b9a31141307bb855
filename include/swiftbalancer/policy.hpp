#pragma once
// A policy decides where the replicas of one layer go. Implementations are pure functions in
// src/planner/, one file each, found by name in a registry; the conformance suite tests every
// registered policy for what it declares. Called on the balancer worker. Thread-safe: a policy has
// no mutable state.

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// What a policy promises beyond the rules that all keep (no expert lost, same input -> same bytes,
/// no same-rank duplicate while avoidable).
struct PolicyCapabilities {
  bool moves = true;            ///< false: always returns the current placement.
  bool incremental = false;     ///< Staying experts keep their slot and max_moves is respected.
  bool gated = false;           ///< Does nothing where the predicted gain is not worth the moves.
  bool planned_shares = false;  ///< Shares other than even.
  bool limited = false;         ///< Keeps rank_speed, pinned, max_replicas and max_rank_moves.
  bool hierarchical =
      false;  ///< Keeps expert groups on nodes when groups divide evenly over nodes.
};

/// How the tokens of a replicated expert are divided over its slots.
enum class Dispatch : std::uint8_t {
  kEven,   ///< The same to each.
  kSplit,  ///< By planned shares, so that ranks end up level.
};

/// One layer to plan. Views are valid during the call.
struct LayerProblem {
  const ClusterShape* shape = nullptr;
  std::span<const std::int64_t> load{};       ///< [num_logical_experts], any unit, >= 0.
  std::span<const std::int32_t> placement{};  ///< [num_slots] now; none is kEmptySlot.
  std::span<const std::uint32_t> shares{};    ///< [num_slots] now; empty = even.
  int max_moves = -1;  ///< < 0: no limit. Ignored unless the policy is incremental.
  std::int64_t max_work =
      -1;  ///< Work units (candidate evaluations); < 0: the policy's own default.
  double min_gain =
      0.0;  ///< Imbalance that a move must win to be worth it, per move (gated policies).
  std::uint64_t seed = 0;                  ///< Agreed by all ranks; only the stress policy uses it.
  Dispatch dispatch = Dispatch::kSplit;    ///< What the imbalance of a plan is measured under.
  bool from_scratch = false;               ///< A full plan: the placement only counts the moves.
  std::span<const double> rank_speed{};    ///< [num_ranks], > 0, relative; empty: all alike.
  std::span<const std::uint8_t> pinned{};  ///< [num_slots], != 0: keeps its expert; empty: none.
  int max_replicas = 0;                    ///< Slots of one expert at most; 0: no limit.
  int max_rank_moves = -1;  ///< Moves that a rank may receive, and may send; < 0: no limit.
  /// With expert groups: replicas outside the node of their group; < 0: groups bind nothing.
  int max_cross_node_replicas = -1;
  /// Of the shares that make no rank hotter, those that let most tokens stay on their own rank,
  /// then on their own node, all ranks sending the same.
  bool locality_first = false;
};

/// A point on the way of an incremental plan: what it wins for how many moves.
struct TradeOff {
  int moves = 0;
  double imbalance = 1.0;
};

struct LayerPlan {
  std::vector<std::int32_t> placement;  ///< [num_slots]
  std::vector<std::uint32_t> shares;    ///< [num_slots] in kShareUnit
  double imbalance_before = 1.0;        ///< Of the given load under the given placement and shares.
  double imbalance_after = 1.0;
  int moves = 0;                       ///< count_moves(before, after)
  std::int64_t work = 0;               ///< Work units spent.
  std::vector<TradeOff> trade_offs{};  ///< Incremental policies: fewest moves first.
};

class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::string_view name() const noexcept = 0;
  virtual PolicyCapabilities capabilities() const noexcept = 0;
  /// Plans one layer. Deterministic: same problem, same bytes, on every platform.
  /// @throws Error kInvalidArgument when the spans do not fit the shape, a load is negative, or the
  /// placement loses an expert or has an empty slot.
  virtual LayerPlan plan_layer(const LayerProblem& problem) const = 0;
};

/// @returns the policy of that name. @throws Error kInvalidArgument listing the names that exist.
std::unique_ptr<Policy> make_policy(std::string_view name);
/// Names of all registered policies, sorted.
std::vector<std::string_view> policy_names();

}  // namespace swiftbalancer
