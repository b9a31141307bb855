#pragma once
// The inside of CopyExecutor: one plan's transfers under way. copy_executor.cpp begins and ends
// units, copy_executor_transfers.cpp moves their bytes.

#include <cstdint>
#include <vector>

#include "migration/copy_executor.hpp"
#include "migration/copy_rules.hpp"
#include "migration/plan_transfers.hpp"
#include "migration/transfer_drain.hpp"

namespace swiftbalancer {

struct CopyExecutor::Impl {
  const ClusterShape& shape;
  Transport& transport;
  StagingPool& pool;
  LocalSlots& slots;
  const int rank;

  Impl(const ClusterShape& cluster, Transport& channel, StagingPool& buffers,
       LocalSlots& local_slots)
      : shape(cluster),
        transport(channel),
        pool(buffers),
        slots(local_slots),
        rank(channel.rank()),
        can_cancel(channel.capabilities().cancel),
        drain(channel, buffers) {}

  [[no_unique_address]] const CopyRules rules{};
  const bool can_cancel;
  TransferDrain drain;
  const MigrationPlan* plan = nullptr;
  PlanTransfers transfers;
  std::size_t next_arrival = 0;        // the first that has no buffer yet
  std::size_t departures_left = 0;     // not posted yet
  std::vector<std::size_t> receiving;  // arrivals with a transfer under way
  std::vector<std::size_t> sending;    // departures likewise
  std::vector<std::size_t> local;      // arrivals from this rank with a buffer, to be copied
  std::uint32_t cursor = 0;
  // The arrival that is being copied within this rank, and its bytes so far.
  static constexpr std::size_t kNothing = SIZE_MAX;
  std::size_t copying = kNothing;
  std::size_t copied = 0;

  void check_parts() const;
  void start(const MigrationPlan& adopted);
  void clear();

  const ExpertCopy& copy_of(std::uint32_t unit, std::uint32_t copy) const {
    return plan->units[unit].copies[copy];
  }
  bool is_wanted(std::uint32_t unit) const {
    return transfers.units[unit].state == UnitTransfers::State::kPending &&
           !transfers.units[unit].failed;
  }
  int local_slot(int slot) const { return slot - shape.first_slot(rank); }
  UnitTransfers& pending_unit(std::uint32_t unit, const char* call);

  void poll_receives();
  void poll_sends();
  void grant_buffers();
  void post_receive(std::size_t position);
  void copy_local();
  void post_sends();
  void post_send(std::size_t position);
  void arrived(std::uint32_t unit);
  void advance_cursor();
  void stop_transfers(std::uint32_t unit);
  void cancel_transfers(std::uint32_t unit);
  void leave_to_drain(std::uint32_t unit);
  LeftOver left_over(std::uint32_t unit, std::uint32_t copy, int peer) const;
  void release_buffers(std::uint32_t unit);
  std::vector<std::span<const std::byte>> source_parts(const CommitUnit& unit,
                                                       const ExpertCopy& copy) const;
  std::size_t expert_bytes(std::uint32_t unit) const;
};

}  // namespace swiftbalancer
