// The order of the work: messages of all peers first, then bulk data, in turns and in bounded
// amounts.

#include <algorithm>

#include "transport/doorbell.hpp"
#include "transport/ring_transport.hpp"

namespace swiftbalancer::ring {
namespace {

// Bytes that a pass may move: nothing else is looked at meanwhile.
constexpr std::size_t kMessagesPerPass = std::size_t{1} << 17;
constexpr std::size_t kBulkPerPass = std::size_t{1} << 17;
// A frame counts as at least so many bytes: short ones cost time, too.
constexpr std::size_t kLeastFrameCost = 512;

}  // namespace

void RingTransport::Budget::spend_frame(std::size_t length) noexcept {
  left_ -= std::min(left_, std::max(frame_bytes(length), kLeastFrameCost));
}

// The first handle of a round of polls that has seen all passes makes the next one; the others only
// report. So a round of polls costs one pass, however many handles it looks at.
TransferStatus RingTransport::poll(TransportHandle handle) {
  OpIndex index = 0;
  if (!find(handle, index)) return {TransferState::kFailed, 0};
  const Operation& op = operations_[index];
  if (op.state == TransferState::kPending) {
    if (op.seen_pass == passes_) pass();
    operations_[index].seen_pass = passes_;
  }
  if (op.state == TransferState::kPending) return {};
  const TransferStatus status{op.state, op.moved};
  free_operation(index);
  return status;
}

// @returns whether anything moved. If not, every ring has been looked at.
bool RingTransport::pass() {
  ++passes_;
  const bool messages = pass_messages();
  const bool bulk = pass_bulk();
  return messages || bulk;
}

bool RingTransport::pass_messages() {
  Budget budget(kMessagesPerPass);
  bool moved = false;
  for (int visits = 0; visits < num_ranks() && !budget.spent(); ++visits) {
    Peer& p = peer(next_for_messages_);
    next_for_messages_ = (next_for_messages_ + 1) % num_ranks();
    bool again = true;
    while (again && corruption_.what == nullptr) {
      again = take(p, p.in, kMessages, budget);
      again = push_messages(p, budget) || again;
      moved = moved || again;
      again = again && p.rank == rank_;  // what is sent to oneself can be taken at once
    }
    pay_ring(p);
  }
  return moved;
}

bool RingTransport::pass_bulk() {
  Budget budget(kBulkPerPass);
  bool moved = false;
  for (int visits = 0; visits < 2 * num_ranks() && !budget.spent(); ++visits) {
    if (corruption_.what != nullptr) break;
    Peer& p = peer(next_for_bulk_ / 2);
    const bool takes = next_for_bulk_ % 2 == 0;
    next_for_bulk_ = (next_for_bulk_ + 1) % (2 * num_ranks());
    moved = (takes ? take(p, p.bulk_in, kBulk, budget) : push_bulk(p, budget)) || moved;
    pay_ring(p);
  }
  return moved;
}

void RingTransport::pay_ring(Peer& to) noexcept {
  const Peer::Ring owed = to.ring;
  to.ring = Peer::Ring::kNone;
  if (owed == Peer::Ring::kNone || to.rank == rank_) return;
  if (owed == Peer::Ring::kNow) {
    ring_doorbell_now(to.block->doorbell);
  } else {
    ring_doorbell(to.block->doorbell);
  }
}

// Nothing in the group can be trusted any more: every operation fails, now and later.
void RingTransport::corrupt(const Peer& from, const char* what) noexcept {
  if (corruption_.what != nullptr) return;
  corruption_ = {from.rank, what};
  gathers_.clear();
  for (Peer& p : peers_) {
    p.control.clear();
    p.eager_sends.clear();
    p.rendezvous_sends.clear();
    p.eager_recvs.clear();
    p.rendezvous_recvs.clear();
    p.gathers_missing = 0;
    p.incoming.to = Incoming::To::kNothing;
  }
  for (OpIndex index = 0; index < operations_.size(); ++index) {
    const Operation& op = operations_[index];
    if (op.kind != OpKind::kFree && op.state == TransferState::kPending)
      finish(index, TransferState::kFailed, 0);
  }
}

}  // namespace swiftbalancer::ring
