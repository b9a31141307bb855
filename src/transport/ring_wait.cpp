// Sleeping, and what ends it.

#include <algorithm>

#include "transport/doorbell.hpp"
#include "transport/ring_transport.hpp"

namespace swiftbalancer::ring {
namespace {

bool is_gone(RankState state) { return state == RankState::kClosed || state == RankState::kLost; }

/// Armed while it lives.
class ArmedDoorbell {
 public:
  ArmedDoorbell(std::atomic<std::uint32_t>& word, std::uint32_t rings) : word_(word) {
    arm_doorbell(word, rings);
  }
  ~ArmedDoorbell() { disarm_doorbell(word_); }
  ArmedDoorbell(const ArmedDoorbell&) = delete;
  ArmedDoorbell& operator=(const ArmedDoorbell&) = delete;

 private:
  std::atomic<std::uint32_t>& word_;
};

void add_rank(std::string& names, int rank) {
  names += (names.empty() ? "rank " : ", rank ") + std::to_string(rank);
}

}  // namespace

Status RingTransport::wait(std::chrono::steady_clock::time_point deadline) {
  while (true) {
    if (woken_.exchange(false, std::memory_order_acq_rel)) return {};
    read_states();
    const bool moved = pass();
    if (is_over()) return outcome();
    const auto now = std::chrono::steady_clock::now();
    if (now >= deadline) return timeout();
    if (multi_process_ && now >= next_look_) {
      next_look_ = now + kLookAfterPeers;
      look_after_peers();
    } else if (!moved) {
      sleep(multi_process_ ? std::min(deadline, next_look_) : deadline);
    }
  }
}

void RingTransport::sleep(std::chrono::steady_clock::time_point deadline) {
  const ArmedDoorbell armed(self_.doorbell, rings_to_wait_for());
  // Work made visible before arming may have rung in vain, and the rings to wait for were counted
  // before: look again. A pass that moves nothing has looked everywhere.
  read_states();
  if (woken_.load(std::memory_order_acquire) || pass() || is_over()) return;
  sleep_on_doorbell(self_.doorbell, deadline);
}

// Before a pass: what a peer sent before it closed is then visible in it.
void RingTransport::read_states() noexcept {
  for (const Peer& p : peers_)
    gone_[static_cast<std::size_t>(p.rank)] =
        is_gone(p.block->state.load(std::memory_order_acquire));
}

bool RingTransport::is_over() noexcept {
  return corruption_.what != nullptr || news_ != 0 ||
         std::any_of(peers_.begin(), peers_.end(), [this](Peer& p) { return waits_in_vain(p); });
}

Status RingTransport::outcome() {
  if (corruption_.what != nullptr) {
    return {ErrorCode::kTransport, "rank " + std::to_string(rank_) +
                                       ": the memory shared with rank " +
                                       std::to_string(corruption_.rank) +
                                       " is corrupt: " + corruption_.what + " makes no sense"};
  }
  if (news_ == 0) return loss();
  news_ = 0;
  ++news_round_;
  return {};
}

// Waits for a peer that is gone, and has taken all that it sent.
bool RingTransport::waits_in_vain(Peer& p) noexcept {
  if (!gone_[static_cast<std::size_t>(p.rank)] || !p.has_pending()) return false;
  return (!p.needs_messages() || p.in.look() == 0) && p.bulk_in.look() == 0;
}

Status RingTransport::loss() {
  std::string names;
  for (Peer& p : peers_) {
    if (!waits_in_vain(p)) continue;
    add_rank(names, p.rank);
    const bool closed = p.block->state.load(std::memory_order_acquire) == RankState::kClosed;
    names += closed ? " (closed)" : " (died)";
  }
  return {ErrorCode::kPeerLost, "rank " + std::to_string(rank_) + ": lost " + names};
}

Status RingTransport::timeout() const {
  std::string names;
  for (const int rank : awaited_peers()) add_rank(names, rank);
  return {ErrorCode::kTimeout, "rank " + std::to_string(rank_) +
                                   ": deadline reached, pending with " +
                                   (names.empty() ? "no rank" : names)};
}

// A number of rings without which the wait cannot be over: an all-gather needs one from each rank
// that is missing. Whatever needs an answer of this rank rings at once and is not counted.
std::uint32_t RingTransport::rings_to_wait_for() const noexcept {
  if (gathers_.empty() || gathers_.size() != num_pending_) return 1;
  int rings = num_ranks();
  for (const OpIndex index : gathers_) rings = std::min(rings, operations_[index].missing);
  return static_cast<std::uint32_t>(std::max(rings, 1));
}

// Whoever notices that a process has ended tells everybody.
void RingTransport::look_after_peers() noexcept {
  for (Peer& p : peers_) {
    if (p.rank == rank_ || p.block->state.load(std::memory_order_acquire) != RankState::kOpen)
      continue;
    ProcessIdentity process;
    process.pid_namespace = p.block->pid_namespace.load(std::memory_order_acquire);
    process.time_namespace = p.block->time_namespace.load(std::memory_order_relaxed);
    process.start_time = p.block->start_time.load(std::memory_order_relaxed);
    process.pid = p.block->pid.load(std::memory_order_relaxed);
    if (p.watch.look(process, process_) == Life::kEnded)
      region_->mark_gone(p.rank, RankState::kLost);
  }
}

std::vector<int> RingTransport::lost_peers() {
  if (multi_process_) look_after_peers();
  std::vector<int> lost;
  for (const Peer& p : peers_) {
    if (p.rank != rank_ && is_gone(p.block->state.load(std::memory_order_acquire)))
      lost.push_back(p.rank);
  }
  return lost;
}

std::vector<int> RingTransport::awaited_peers() const {
  std::vector<int> awaited;
  for (const Peer& p : peers_) {
    if (p.rank != rank_ && p.has_pending()) awaited.push_back(p.rank);
  }
  return awaited;
}

}  // namespace swiftbalancer::ring
