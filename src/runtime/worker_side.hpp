#pragma once
// The engine thread's way to its worker: makes it anew with each membership, with everything that
// is the worker's while it runs (staging pool, slots' memory, planner), and sends it commands. The
// memory stays through all memberships. Engine thread only.

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <swiftbalancer/balancer_config.hpp>
#include <swiftbalancer/shape.hpp>
#include <swiftbalancer/transport.hpp>

#include "migration/copy_executor.hpp"
#include "protocol/agreement.hpp"
#include "runtime/packet_ring.hpp"
#include "runtime/planning.hpp"
#include "runtime/worker.hpp"
#include "runtime/worker_messages.hpp"

namespace swiftbalancer {

/// The live ranks, numbered over them.
struct LiveRanks {
  ClusterShape shape;
  std::vector<int> ranks;  ///< [shape.num_ranks()] their numbers in the first shape, ascending.
  int rank = 0;            ///< This one's number in `shape`.
};

class WorkerSide {
 public:
  /// Makes a rank's planner; empty: as configured. For tests.
  using MakePlanning = std::function<std::unique_ptr<Planning>()>;

  WorkerSide(const ClusterShape& first_shape, const BalancerConfig& config,
             MakePlanning make_planning);

  /// What a rank keeps through all memberships. @throws Error kInvalidArgument: staging_bytes below
  /// one expert.
  void take_memory(std::span<const std::size_t> largest_parts, LocalSlots slots);
  /// Makes the worker of a membership, and its planner; launch() starts its thread.
  void make(const LiveRanks& live, const AgreedState& begin, const ServedState& served,
            PacketRing& ring, std::unique_ptr<Transport> transport,
            std::span<const std::size_t> expert_bytes, bool plans);
  /// Ends the worker, and with it the old transport and every transfer of the old membership: the
  /// fence.
  void end() noexcept { worker_.reset(); }

  /// Enqueues; takes effect at the next flush(). @returns kInternal: the worker takes no commands
  /// any more. A lost command would leave worker and engine with different views.
  Status send(Command command) noexcept;
  /// What was sent to a worker that is stopped: see Worker::carry_out_remaining().
  void carry_out_remaining();
  /// Wakes the worker if anything was sent since the last flush. The only system call.
  void flush() noexcept {
    if (!backlog_.empty()) send_backlog();
    worker_->flush();
  }
  /// Observations that no planner has taken in, since the last call.
  std::uint64_t take_dropped_samples() noexcept;

  Worker* worker() const noexcept { return worker_.get(); }
  int staging_capacity() const noexcept { return pool_ ? pool_->capacity() : 0; }

 private:
  bool send_backlog() noexcept;
  void make_planning(const LiveRanks& live, std::span<const std::size_t> expert_bytes, bool plans);

  // Constant after construction.
  const ClusterShape& first_shape_;
  const BalancerConfig& config_;
  const MakePlanning make_planning_;

  // The worker's while it runs; in this order, for it ends first.
  std::unique_ptr<StagingPool> pool_;
  LocalSlots slots_;
  std::unique_ptr<Planning> planning_;
  std::unique_ptr<Worker> worker_;

  // Commands that found the queue full, in order. Their memory is reserved, not touched.
  std::vector<Command> backlog_;
  std::size_t backlog_sent_ = 0;
  std::uint64_t dropped_known_ = 0;
};

}  // namespace swiftbalancer
