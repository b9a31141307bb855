#pragma once
// Moves the bytes of the active plan: posts sends and receives in plan order as staging buffers are
// granted, several layers in flight, and says how far staging is. Balancer worker thread only; the
// engine thread never touches it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>
#include <swiftbalancer/transport.hpp>

namespace swiftbalancer {

/// Pointers of one expert's parts, in registration order.
using PartPointers = std::vector<std::byte*>;

/// Fixed pool of buffers, each for one expert. Buffers are granted in plan order; with swap
/// installs a buffer's memory changes when its role is exchanged with a slot's.
class StagingPool {
 public:
  /// @param part_bytes sizes of the parts of the largest expert. @param staging_bytes budget:
  /// floor(budget / expert bytes)
  ///        buffers. @throws Error kInvalidArgument when the budget is below one expert (says how
  ///        many bytes that is) or cannot be allocated.
  StagingPool(std::span<const std::size_t> part_bytes, std::size_t staging_bytes);
  ~StagingPool();
  int capacity() const noexcept;
  std::optional<int> grant();
  /// @throws Error kInternal unless the buffer is granted.
  void release(int buffer);
  int num_free() const noexcept;
  std::span<const std::size_t> part_bytes() const noexcept;
  PartPointers& parts(int buffer);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Where this rank's experts lie, as the worker knows it: updated by the commits it is told of, in
/// order.
struct LocalSlots {
  std::vector<std::vector<PartPointers>> parts;      ///< [moe_layer_id][local_slot]
  std::vector<std::vector<std::size_t>> part_bytes;  ///< [moe_layer_id][part]
};

/// A received expert, ready to install.
struct StagedExpert {
  int local_slot = 0;
  int buffer = 0;
};

class CopyExecutor {
 public:
  /// @throws Error kInvalidArgument when a layer's expert does not fit a buffer of the pool, part
  /// by part. On a transport that cannot cancel, dropped copies are carried through.
  CopyExecutor(const ClusterShape& shape, Transport& transport, StagingPool& pool,
               LocalSlots& slots);
  /// Cancels what is under way and returns all buffers. Without cancel the transport must be gone
  /// before the buffers are used again.
  ~CopyExecutor();

  // Calls out of order (a unit that is not pending, adopt while active, ...) throw Error kInternal.

  /// Starts a plan. No other may be active. @param plan outlives retire().
  void adopt(const MigrationPlan& plan);
  /// The agreement dropped a unit: its transfers are cancelled (or carried through) and its buffers
  /// returned, also those of bytes already staged.
  /// @param too_old by rule 18. Where copies of an older plan have held the unit back all the time,
  /// its layer is given up until they end: later plans' units of it fail at once, so that they do
  /// not hold back the other layers.
  void drop(std::uint32_t unit, bool too_old = false);
  /// The engine installed a unit. swap: slot and buffer exchange their memory in LocalSlots and
  /// pool; then the buffers are free again.
  void committed(std::uint32_t unit, bool swap);
  /// The plan has neither pending units nor transfers any more.
  void retire();
  /// Polls transfers, posts what became possible. Cheap when nothing is active.
  /// @returns whether more can be done right now without waiting for anybody.
  bool progress();

  /// Number of units, in plan order from the first, that are dropped, committed or completely
  /// received here. Never falls for one plan; stops at a failed unit until that is dropped.
  std::uint32_t staged_cursor() const noexcept;
  /// The lowest pending unit one of whose transfers failed here before the cursor passed it. Later,
  /// only a send can fail, and its receiver tells.
  std::optional<std::uint32_t> failed_unit() const noexcept;
  /// What unit `unit` brought to this rank, in plan order; empty until it is staged, and once
  /// committed or dropped.
  std::span<const StagedExpert> staged(std::uint32_t unit) const noexcept;
  bool active() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftbalancer
