// SimNetwork's copies (rendezvous).

#include <algorithm>
#include <cstring>

#include "simulation/sim_network.hpp"

namespace swiftbalancer::simulation {
namespace {

std::vector<std::byte> bytes_of(std::span<const std::span<const std::byte>> parts) {
  std::vector<std::byte> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// @returns the bytes from `offset` on that lie in one part, at most `length`.
template <typename Byte>
std::span<Byte> stretch(std::span<const std::span<Byte>> parts, std::size_t offset,
                        std::size_t length) {
  for (const auto& part : parts) {
    if (offset < part.size()) return part.subspan(offset, std::min(length, part.size() - offset));
    offset -= part.size();
  }
  return {};
}

std::size_t room_of(const SimOperation& copy) {
  std::size_t room = 0;
  for (const auto& part : copy.target) room += part.size();
  return room;
}

}  // namespace

void SimNetwork::post_copy(SimOperation& copy) {
  copy.serial = next_serial_++;
  if (copy.kind == SimOperation::Kind::kCopyOut) {
    copy.posted = bytes_of(copy.source);
    Lane& to = lane(copy.rank, copy.peer);
    to.out.push_back(&copy);
    return consider_copy(to);
  }
  check_receive(copy);
  Lane& from = lane(copy.peer, copy.rank);
  from.in.push_back(&copy);
  consider_copy(from);
}

void SimNetwork::check_receive(const SimOperation& copy) {
  for (int peer = 0; peer < options_.num_ranks; ++peer) {
    for (const SimOperation* other : lane(peer, copy.rank).in) {
      if (other->target[0].data() == copy.target[0].data() &&
          other->state == TransferState::kPending)
        break_contract("two receives share memory (rank " + std::to_string(copy.rank) + ")");
    }
  }
}

// In post order of the sends, among those whose receives are posted.
SimNetwork::Pair SimNetwork::next_pair(const Lane& in) const {
  for (SimOperation* out : in.out) {
    if (out->state != TransferState::kPending || out->sent || out->stuck) continue;
    for (SimOperation* receive : in.in) {
      if (receive->tag == out->tag && receive->state == TransferState::kPending &&
          !receive->timed_out)
        return {out, receive};
    }
  }
  return {};
}

void SimNetwork::copy(Lane& through, Fate fate) {
  const auto [out, in] = next_pair(through);
  if (fate == Fate::kReceiveFails) {
    in->state = TransferState::kFailed;
    out->state = TransferState::kDone;
  } else if (fate == Fate::kSendFails) {
    out->state = TransferState::kFailed;
    in->timed_out = true;
    timeouts_.push_back(in);
  } else if (fate == Fate::kStuck) {
    out->stuck = true;
  } else {
    move_piece(*out, *in);
  }
}

void SimNetwork::free_stuck_copies() {
  for (Lane& each : lanes_) {
    for (SimOperation* out : each.out) out->stuck = false;
    consider_copy(each);
  }
}

void SimNetwork::move_piece(SimOperation& out, SimOperation& in) {
  const std::vector<std::byte> now = bytes_of(out.source);
  if (now != out.posted)
    break_contract("memory of a send changed while it was posted (rank " +
                   std::to_string(out.rank) + ")");
  if (now.size() != room_of(in)) break_contract("a copy and its target differ in size");
  if (in.mate != out.serial) in.moved = 0;
  in.mate = out.serial;
  const std::size_t piece = has_rings() ? options_.ring_bytes : (now.size() + 1) / 2;
  const std::size_t end = std::min(now.size(), in.moved + piece);
  while (in.moved < end) {
    const auto to = stretch<std::byte>(in.target, in.moved, end - in.moved);
    if (to.empty()) return;
    std::memcpy(to.data(), now.data() + in.moved, to.size());
    in.moved += to.size();
  }
  if (in.moved < now.size()) return;
  in.bytes = out.bytes = now.size();
  in.state = TransferState::kDone;
  out.sent = true;
  if (options_.slow_senders) {
    learners_.push_back(&out);
  } else {
    out.state = TransferState::kDone;
  }
}

}  // namespace swiftbalancer::simulation
