#include "migration/copy_executor.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include <swiftbalancer/error.hpp>

#include "core/test_fault.hpp"
#include "migration/copy_tag.hpp"
#include "migration/plan_transfers.hpp"
#include "migration/transfer_drain.hpp"

namespace swiftbalancer {
namespace {

// Sends posted and not yet done, per peer. They wait at no cost for the peer's buffers, but each is
// polled. The receiver grants in plan order too, so the oldest of them is always one that it will
// post next.
constexpr int kSendsInFlightPerPeer = 4;

std::size_t index(int value) { return static_cast<std::size_t>(value); }

[[noreturn]] void out_of_order(const std::string& what) {
  throw Error(ErrorCode::kInternal, "copy executor: " + what);
}

}  // namespace

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
  void copy_one_local();
  void post_sends();
  void post_send(std::size_t position);
  void arrived(std::uint32_t unit);
  void advance_cursor();
  void stop_transfers(std::uint32_t unit);
  void cancel_transfers(std::uint32_t unit);
  void leave_to_drain(std::uint32_t unit);
  LeftOver left_over(std::uint32_t unit, std::uint32_t copy, int peer) const;
  void release_buffers(std::uint32_t unit);
  std::vector<std::span<const std::byte>> source_parts(std::uint32_t unit,
                                                       std::uint32_t copy) const;
  std::size_t expert_bytes(std::uint32_t unit) const;
};

void CopyExecutor::Impl::check_parts() const {
  const auto room = pool.part_bytes();
  for (std::size_t layer = 0; layer < slots.part_bytes.size(); ++layer) {
    const auto& parts = slots.part_bytes[layer];
    for (std::size_t part = 0; part < parts.size(); ++part) {
      const std::size_t bytes = part < room.size() ? room[part] : 0;
      if (parts[part] > bytes) {
        throw Error(ErrorCode::kInvalidArgument,
                    "part " + std::to_string(part) + " of MoE layer " + std::to_string(layer) +
                        " has " + std::to_string(parts[part]) + " bytes; a staging buffer has " +
                        std::to_string(bytes) +
                        " there: size the pool by the largest of each part");
      }
    }
  }
}

void CopyExecutor::Impl::start(const MigrationPlan& adopted) {
  transfers = transfers_of(adopted, shape, rank);
  departures_left = transfers.departures.size();
  plan = &adopted;
}

void CopyExecutor::Impl::clear() {
  plan = nullptr;
  transfers = {};
  next_arrival = departures_left = 0;
  receiving.clear();
  sending.clear();
  local.clear();
  cursor = 0;
}

UnitTransfers& CopyExecutor::Impl::pending_unit(std::uint32_t unit, const char* call) {
  if (unit >= transfers.num_units() ||
      transfers.units[unit].state != UnitTransfers::State::kPending) {
    out_of_order(std::string(call) + " of unit " + std::to_string(unit) +
                 ", which is not pending (the plan has " + std::to_string(transfers.num_units()) +
                 ")");
  }
  return transfers.units[unit];
}

std::size_t CopyExecutor::Impl::expert_bytes(std::uint32_t unit) const {
  std::size_t sum = 0;
  for (std::size_t bytes : slots.part_bytes[index(plan->units[unit].moe_layer_id)]) sum += bytes;
  return sum;
}

std::vector<std::span<const std::byte>> CopyExecutor::Impl::source_parts(std::uint32_t unit,
                                                                         std::uint32_t copy) const {
  const std::size_t layer = index(plan->units[unit].moe_layer_id);
  const PartPointers& from = slots.parts[layer][index(local_slot(copy_of(unit, copy).source_slot))];
  std::vector<std::span<const std::byte>> parts;
  for (std::size_t part = 0; part < from.size(); ++part)
    parts.emplace_back(from[part], slots.part_bytes[layer][part]);
  return parts;
}

void CopyExecutor::Impl::arrived(std::uint32_t unit) {
  UnitTransfers& reached = transfers.units[unit];
  if (--reached.missing > 0) return;
  for (const Arrival& arrival : transfers.arrivals_of(unit)) {
    const std::int32_t slot = copy_of(unit, arrival.copy).destination_slot;
    reached.staged.push_back({local_slot(slot), arrival.buffer});
  }
}

void CopyExecutor::Impl::poll_receives() {
  std::erase_if(receiving, [&](std::size_t position) {
    Arrival& arrival = transfers.arrivals[position];
    if (!arrival.handle) return true;  // cancelled with its unit
    const TransferStatus status = transport.poll(arrival.handle);
    if (status.state == TransferState::kPending) return false;
    arrival.handle = {};
    arrival.ended = true;
    if (status.state == TransferState::kDone && status.bytes == expert_bytes(arrival.unit)) {
      arrived(arrival.unit);
    } else {
      transfers.units[arrival.unit].failed = true;
    }
    return true;
  });
}

void CopyExecutor::Impl::poll_sends() {
  std::erase_if(sending, [&](std::size_t position) {
    Departure& departure = transfers.departures[position];
    if (!departure.handle) return true;
    const TransferStatus status = transport.poll(departure.handle);
    if (status.state == TransferState::kPending) return false;
    departure.handle = {};
    departure.ended = true;
    --transfers.peers[index(departure.peer)].in_flight;
    // Not after the unit counted as staged: that is a promise, and the receiver tells of the
    // failure.
    if (status.state == TransferState::kFailed && departure.unit >= cursor)
      transfers.units[departure.unit].failed = true;
    return true;
  });
}

// Rule 10: buffers in plan order. A buffer is never given to a later unit while an earlier one
// lacks it: the units that must be committed first could otherwise wait for ever.
void CopyExecutor::Impl::grant_buffers() {
  for (; next_arrival < transfers.arrivals.size(); ++next_arrival) {
    if (faulty(Fault::kAnyOrderGrants)) {
      const auto left = transfers.arrivals.size() - next_arrival;
      std::swap(transfers.arrivals[next_arrival],
                transfers.arrivals[next_arrival + plan->hash % left]);
    }
    Arrival& arrival = transfers.arrivals[next_arrival];
    if (!is_wanted(arrival.unit)) continue;
    const std::optional<int> buffer = pool.grant();
    if (!buffer) return;
    arrival.buffer = *buffer;
    if (arrival.source_rank == rank) {
      local.push_back(next_arrival);
    } else {
      post_receive(next_arrival);
    }
  }
}

void CopyExecutor::Impl::post_receive(std::size_t position) {
  Arrival& arrival = transfers.arrivals[position];
  const auto& sizes = slots.part_bytes[index(plan->units[arrival.unit].moe_layer_id)];
  const PartPointers& memory = pool.parts(arrival.buffer);
  for (std::size_t part = 0; part < sizes.size(); ++part)
    arrival.parts.emplace_back(memory[part], sizes[part]);
  arrival.handle = transport.post_recv(arrival.source_rank,
                                       copy_tag(plan->generation, arrival.unit, arrival.copy),
                                       arrival.parts, Delivery::kRendezvous);
  receiving.push_back(position);
}

void CopyExecutor::Impl::copy_one_local() {
  std::erase_if(
      local, [&](std::size_t position) { return !is_wanted(transfers.arrivals[position].unit); });
  if (local.empty()) return;
  const Arrival& arrival = transfers.arrivals[local.front()];
  PartPointers& to = pool.parts(arrival.buffer);
  const auto from = source_parts(arrival.unit, arrival.copy);
  if (faulty(Fault::kLocalAtCommit)) {
    const ExpertCopy& copy = copy_of(arrival.unit, arrival.copy);
    to = slots.parts[index(plan->units[arrival.unit].moe_layer_id)]
                    [index(local_slot(copy.source_slot))];
  }
  for (std::size_t part = 0; part < from.size(); ++part)
    std::memcpy(to[part], from[part].data(), from[part].size());
  arrived(arrival.unit);
  local.erase(local.begin());
}

void CopyExecutor::Impl::post_sends() {
  if (departures_left == 0) return;
  for (PeerQueue& peer : transfers.peers) {
    while (peer.next < peer.departures.size() && peer.in_flight < kSendsInFlightPerPeer) {
      const std::size_t position = peer.departures[peer.next++];
      --departures_left;
      if (!is_wanted(transfers.departures[position].unit)) continue;
      ++peer.in_flight;
      post_send(position);
    }
  }
}

void CopyExecutor::Impl::post_send(std::size_t position) {
  Departure& departure = transfers.departures[position];
  departure.parts = source_parts(departure.unit, departure.copy);
  departure.handle = transport.post_send(departure.peer,
                                         copy_tag(plan->generation, departure.unit, departure.copy),
                                         departure.parts, Delivery::kRendezvous);
  sending.push_back(position);
}

void CopyExecutor::Impl::advance_cursor() {
  for (; cursor < transfers.num_units(); ++cursor) {
    const UnitTransfers& unit = transfers.units[cursor];
    if (unit.state != UnitTransfers::State::kPending) continue;
    const std::size_t allowed = faulty(Fault::kMissingIsStaged) ? 1 : 0;
    if (unit.failed && faulty(Fault::kSkipFailed)) continue;
    if (unit.failed || unit.missing > allowed) return;
    // Rule 8.
    if (drain.holds_back(plan->generation.step, plan->units[cursor].moe_layer_id)) return;
  }
}

// What is still under way for a unit must not touch its memory any more (rule 9): by a confirmed
// cancel, or, where there is none, by being carried through first.
void CopyExecutor::Impl::stop_transfers(std::uint32_t unit) {
  if (faulty(Fault::kFreeOnDrop)) return;
  if (can_cancel) return cancel_transfers(unit);
  leave_to_drain(unit);
}

LeftOver CopyExecutor::Impl::left_over(std::uint32_t unit, std::uint32_t copy, int peer) const {
  LeftOver left;
  left.generation_step = plan->generation.step;
  left.moe_layer_id = plan->units[unit].moe_layer_id;
  left.peer = peer;
  left.tag = copy_tag(plan->generation, unit, copy);
  return left;
}

// A rank cannot know which end of a dropped copy the other has posted: both post what is missing.
void CopyExecutor::Impl::leave_to_drain(std::uint32_t unit) {
  for (Arrival& arrival : transfers.arrivals_of(unit)) {
    if (arrival.source_rank == rank || arrival.ended) continue;
    LeftOver left = left_over(unit, arrival.copy, arrival.source_rank);
    left.handle = std::exchange(arrival.handle, {});
    left.buffer = std::exchange(arrival.buffer, -1);
    left.target = std::move(arrival.parts);
    drain.add_receive(std::move(left));
    arrival.ended = true;
  }
  for (Departure& departure : transfers.departures_of(unit)) {
    if (departure.ended) continue;
    LeftOver left = left_over(unit, departure.copy, departure.peer);
    if (departure.handle) --transfers.peers[index(departure.peer)].in_flight;
    left.handle = std::exchange(departure.handle, {});
    left.source = left.handle ? std::move(departure.parts) : source_parts(unit, departure.copy);
    drain.add_send(std::move(left));
    departure.ended = true;
  }
}

void CopyExecutor::Impl::cancel_transfers(std::uint32_t unit) {
  for (Arrival& arrival : transfers.arrivals_of(unit)) {
    if (arrival.handle) transport.cancel(arrival.handle);
    arrival.handle = {};
  }
  for (Departure& departure : transfers.departures_of(unit)) {
    if (!departure.handle) continue;
    transport.cancel(departure.handle);
    departure.handle = {};
    --transfers.peers[index(departure.peer)].in_flight;
  }
}

void CopyExecutor::Impl::release_buffers(std::uint32_t unit) {
  if (faulty(Fault::kBufferLost) && transfers.units[unit].state == UnitTransfers::State::kDropped)
    return;
  for (Arrival& arrival : transfers.arrivals_of(unit)) {
    if (arrival.buffer >= 0) pool.release(arrival.buffer);
    arrival.buffer = -1;
  }
  transfers.units[unit].staged.clear();
}

CopyExecutor::CopyExecutor(const ClusterShape& shape, Transport& transport, StagingPool& pool,
                           LocalSlots& slots)
    : impl_(std::make_unique<Impl>(shape, transport, pool, slots)) {
  impl_->check_parts();
}

CopyExecutor::~CopyExecutor() {
  for (std::uint32_t unit = 0; unit < impl_->transfers.num_units(); ++unit) {
    if (impl_->can_cancel) impl_->cancel_transfers(unit);
    impl_->release_buffers(unit);
  }
}

void CopyExecutor::adopt(const MigrationPlan& plan) {
  if (active()) out_of_order("adopt while another plan is active");
  impl_->start(plan);
  impl_->advance_cursor();
}

void CopyExecutor::drop(std::uint32_t unit) {
  UnitTransfers& dropped = impl_->pending_unit(unit, "drop");
  dropped.state = UnitTransfers::State::kDropped;
  impl_->stop_transfers(unit);
  impl_->release_buffers(unit);
  impl_->advance_cursor();
}

void CopyExecutor::committed(std::uint32_t unit, bool swap) {
  UnitTransfers& installed = impl_->pending_unit(unit, "commit");
  if (installed.missing > 0)
    out_of_order("commit of unit " + std::to_string(unit) + ", which is not staged here");
  installed.state = UnitTransfers::State::kCommitted;
  // Every rank has its bytes, so a send that still looks pending has only not been told yet.
  impl_->stop_transfers(unit);
  if (swap) {
    const std::size_t layer = index(impl_->plan->units[unit].moe_layer_id);
    if (!std::ranges::equal(impl_->slots.part_bytes[layer], impl_->pool.part_bytes())) {
      out_of_order("swap of MoE layer " + std::to_string(layer) +
                   ", whose experts differ from the pool's buffers");
    }
    for (const StagedExpert& expert : installed.staged) {
      PartPointers& slot = impl_->slots.parts[layer][index(expert.local_slot)];
      std::swap_ranges(slot.begin(), slot.end(), impl_->pool.parts(expert.buffer).begin());
    }
  }
  impl_->release_buffers(unit);
  impl_->advance_cursor();
}

void CopyExecutor::retire() {
  if (!active()) out_of_order("retire without a plan");
  for (std::uint32_t unit = 0; unit < impl_->transfers.num_units(); ++unit) {
    if (impl_->transfers.units[unit].state == UnitTransfers::State::kPending) {
      out_of_order("retire with unit " + std::to_string(unit) + " pending");
    }
  }
  impl_->clear();
}

bool CopyExecutor::progress() {
  impl_->drain.poll();
  // Before the active plan takes buffers.
  if (!faulty(Fault::kDrainLate) || !active()) impl_->drain.post_owed(impl_->slots.part_bytes);
  if (!active()) return false;
  impl_->poll_receives();
  impl_->poll_sends();
  impl_->grant_buffers();
  if (faulty(Fault::kDrainLate)) impl_->drain.post_owed(impl_->slots.part_bytes);
  impl_->copy_one_local();
  impl_->post_sends();
  impl_->advance_cursor();
  return !impl_->local.empty();
}

std::uint32_t CopyExecutor::staged_cursor() const noexcept { return impl_->cursor; }

std::optional<std::uint32_t> CopyExecutor::failed_unit() const noexcept {
  for (std::uint32_t unit = impl_->cursor; unit < impl_->transfers.num_units(); ++unit) {
    if (impl_->transfers.units[unit].failed &&
        impl_->transfers.units[unit].state == UnitTransfers::State::kPending)
      return unit;
  }
  return std::nullopt;
}

std::span<const StagedExpert> CopyExecutor::staged(std::uint32_t unit) const noexcept {
  return unit < impl_->transfers.num_units()
             ? std::span<const StagedExpert>(impl_->transfers.units[unit].staged)
             : std::span<const StagedExpert>{};
}

bool CopyExecutor::active() const noexcept { return impl_->plan != nullptr; }

}  // namespace swiftbalancer
