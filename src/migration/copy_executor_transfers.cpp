// CopyExecutor: posting, polling and stopping transfers.

#include <algorithm>
#include <cstring>
#include <utility>

#include "migration/copy_executor_impl.hpp"
#include "migration/copy_tag.hpp"
#include "migration/index.hpp"

namespace swiftbalancer {
namespace {

// Sends posted and not yet done, per peer. They wait at no cost for the peer's buffers, but each is
// polled. The receiver grants in plan order too, so the oldest of them is always one that it will
// post next.
constexpr int kSendsInFlightPerPeer = 4;
// Some 20 us.
constexpr std::size_t kLocalBytesPerRound = std::size_t{256} << 10;

}  // namespace

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
    const std::size_t position = rules.granted(next_arrival, transfers.arrivals.size());
    Arrival& arrival = transfers.arrivals[position];
    if (!is_wanted(arrival.unit)) continue;
    if (arrival.buffer < 0) arrival.buffer = pool.grant().value_or(-1);
    if (arrival.buffer < 0) return;
    if (arrival.source_rank == rank) {
      local.push_back(position);
    } else {
      post_receive(position);
    }
  }
}

void CopyExecutor::Impl::post_receive(std::size_t position) {
  Arrival& arrival = transfers.arrivals[position];
  const auto& sizes = slots.part_bytes[index(plan->units[arrival.unit].moe_layer_id)];
  const PartPointers& memory = pool.parts(arrival.buffer);
  arrival.parts.clear();
  for (std::size_t part = 0; part < sizes.size(); ++part)
    arrival.parts.emplace_back(memory[part], sizes[part]);
  arrival.handle = transport.post_recv(arrival.source_rank,
                                       copy_tag(plan->generation, arrival.unit, arrival.copy),
                                       arrival.parts, Delivery::kRendezvous);
  receiving.push_back(position);
}

// A piece of the oldest copy within this rank: packets wait for no more than a piece.
void CopyExecutor::Impl::copy_local() {
  std::erase_if(
      local, [&](std::size_t position) { return !is_wanted(transfers.arrivals[position].unit); });
  if (local.empty()) return;
  if (std::exchange(copying, local.front()) != local.front()) copied = 0;
  const Arrival& arrival = transfers.arrivals[copying];
  const std::size_t layer = index(plan->units[arrival.unit].moe_layer_id);
  const ExpertCopy& copy = copy_of(arrival.unit, arrival.copy);
  const PartPointers& from = slots.parts[layer][index(local_slot(copy.source_slot))];
  const PartPointers& to = rules.target_of_local(pool.parts(arrival.buffer), from);
  std::size_t begin = 0, left = kLocalBytesPerRound;
  for (std::size_t part = 0; part < from.size() && left > 0; ++part) {
    const std::size_t bytes = slots.part_bytes[layer][part];
    if (copied < begin + bytes) {
      const std::size_t at = copied - begin, now = std::min(left, bytes - at);
      std::memcpy(to[part] + at, from[part] + at, now);
      copied += now;
      left -= now;
    }
    begin += bytes;
  }
  if (copied < expert_bytes(arrival.unit)) return;
  arrived(arrival.unit);
  local.erase(local.begin());
  copying = kNothing;
}

void CopyExecutor::Impl::post_sends() {
  if (departures_left == 0) return;
  for (PeerQueue& peer : transfers.peers) {
    while (peer.next < peer.departures.size() && peer.in_flight < kSendsInFlightPerPeer) {
      const std::size_t position = peer.departures[peer.next];
      if (is_wanted(transfers.departures[position].unit)) {
        post_send(position);
        ++peer.in_flight;
      }
      ++peer.next;
      --departures_left;
    }
  }
}

void CopyExecutor::Impl::post_send(std::size_t position) {
  Departure& departure = transfers.departures[position];
  departure.handle = transport.post_send(departure.peer,
                                         copy_tag(plan->generation, departure.unit, departure.copy),
                                         departure.parts, Delivery::kRendezvous);
  sending.push_back(position);
}

void CopyExecutor::Impl::advance_cursor() {
  for (; cursor < transfers.num_units(); ++cursor) {
    const UnitTransfers& unit = transfers.units[cursor];
    if (rules.is_passed(unit.state == UnitTransfers::State::kPending, unit.failed)) continue;
    if (unit.failed || !rules.all_here(unit.missing)) return;
    // Rule 8.
    if (drain.holds_back(plan->generation.step, plan->units[cursor].moe_layer_id)) return;
  }
}

// What is still under way for a unit must not touch its memory any more (rule 9): by a confirmed
// cancel, or, where there is none, by being carried through first.
void CopyExecutor::Impl::stop_transfers(std::uint32_t unit) {
  if (!rules.stops_transfers()) return;
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
    left.source = std::move(departure.parts);
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
  if (!rules.returns_buffers(transfers.units[unit].state == UnitTransfers::State::kDropped)) return;
  for (Arrival& arrival : transfers.arrivals_of(unit)) {
    if (arrival.buffer >= 0) pool.release(arrival.buffer);
    arrival.buffer = -1;
  }
  transfers.units[unit].staged.clear();
}

}  // namespace swiftbalancer
