// Sleeping, and what ends it.

#include <algorithm>

#include "transport/doorbell.hpp"
#include "transport/ring_transport.hpp"

namespace swiftbalancer::ring {

Status RingTransport::wait(std::chrono::steady_clock::time_point deadline) {
  while (true) {
    Status result;
    if (settle(result)) return result;
    arm_doorbell(self_.doorbell, rings_to_wait_for());
    // Work made visible before arming may have rung in vain, and the rings to wait for were counted
    // before: look again.
    const std::uint64_t moves = moves_;
    const bool settled = settle(result);
    const bool asleep = !settled && moves == moves_ && std::chrono::steady_clock::now() < deadline;
    if (asleep) sleep_on_doorbell(self_.doorbell, deadline);
    disarm_doorbell(self_.doorbell);
    if (settled) return result;
    if (!asleep && moves == moves_) {
      return {ErrorCode::kTimeout, "rank " + std::to_string(rank_) +
                                       ": deadline reached, pending with " + pending_ranks(false)};
    }
  }
}

// Moves what can be moved. @returns true when the wait is over.
bool RingTransport::settle(Status& result) {
  if (woken_.exchange(false, std::memory_order_acq_rel)) return true;
  // Read first: what a peer sent before it closed is then visible below.
  for (const Peer& p : peers_) {
    const RankState state = p.block->state.load(std::memory_order_acquire);
    gone_[static_cast<std::size_t>(p.rank)] =
        state == RankState::kClosed || state == RankState::kLost;
  }
  while (progress()) ++moves_;
  if (!failed_.ok()) {
    result = failed_;
    return true;
  }
  if (news_ != 0) {
    news_ = 0;
    ++news_round_;
    return true;
  }
  const bool lost =
      std::any_of(peers_.begin(), peers_.end(), [&](const Peer& p) { return waits_in_vain(p); });
  if (lost)
    result = {ErrorCode::kPeerLost,
              "rank " + std::to_string(rank_) + ": lost " + pending_ranks(true)};
  return lost;
}

bool RingTransport::waits_in_vain(const Peer& p) const {
  return gone_[static_cast<std::size_t>(p.rank)] && p.has_pending();
}

// A number of rings without which the wait cannot be over: an all-gather needs one from each rank
// that is missing. Whatever needs an answer of this rank rings at once and is not counted.
std::uint32_t RingTransport::rings_to_wait_for() const {
  if (gathers_.empty() || gathers_.size() != num_pending_) return 1;
  int rings = num_ranks();
  for (const OpIndex index : gathers_) rings = std::min(rings, operations_[index].missing);
  return static_cast<std::uint32_t>(std::max(rings, 1));
}

std::vector<int> RingTransport::lost_peers() {
  std::vector<int> lost;
  for (const Peer& p : peers_) {
    const RankState state = p.block->state.load(std::memory_order_acquire);
    if (p.rank != rank_ && (state == RankState::kClosed || state == RankState::kLost))
      lost.push_back(p.rank);
  }
  return lost;
}

std::string RingTransport::pending_ranks(bool lost_only) const {
  std::string names;
  for (const Peer& p : peers_) {
    if (lost_only ? !waits_in_vain(p) : !p.has_pending()) continue;
    names += (names.empty() ? "rank " : ", rank ") + std::to_string(p.rank);
    if (!lost_only) continue;
    names += p.block->state.load(std::memory_order_acquire) == RankState::kClosed ? " (closed)"
                                                                                  : " (died)";
  }
  return names.empty() ? "no rank" : names;
}

}  // namespace swiftbalancer::ring
