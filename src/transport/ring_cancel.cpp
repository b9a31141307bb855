// Giving operations up. Nothing here needs memory that is not reserved, so nothing can fail.

#include <algorithm>

#include "transport/pieces.hpp"
#include "transport/ring_transport.hpp"

namespace swiftbalancer::ring {

void RingTransport::cancel(TransportHandle handle) {
  OpIndex index = 0;
  if (!find(handle, index)) return;
  if (operations_[index].state == TransferState::kPending) detach(index);
  free_operation(index);
}

// Takes a pending operation out of everything that could touch its memory.
void RingTransport::detach(OpIndex index) noexcept {
  Operation& op = operations_[index];
  Peer& p = peer_of(op);
  switch (op.kind) {
    case OpKind::kFree:
      break;
    case OpKind::kSendEager:
      std::erase_if(p.eager_sends, [&](const Outgoing& message) { return message.op == index; });
      break;
    case OpKind::kSendRendezvous:
      std::erase(p.rendezvous_sends, index);
      if (op.matched) give_back_request(p, {op.tag, op.request, op.request_capacity});
      break;
    case OpKind::kRecvEager:
      std::erase(p.eager_recvs, index);
      if (p.incoming.to == Incoming::To::kOperation && p.incoming.op == index) keep_partial(p);
      break;
    case OpKind::kRecvRendezvous:
      std::erase(p.rendezvous_recvs, index);
      // A request that has not left yet is simply withdrawn.
      if (std::erase_if(p.control, [&](const FrameHeader& h) {
            return h.kind == FrameKind::kRequest && h.serial == op.request;
          }) == 0) {
        p.control.push_back({op.tag, op.request, 0, 0, 0, FrameKind::kUnrequest});
        push_messages_and_ring(p);
      }
      break;
    case OpKind::kGather:
      detach_gather(index);
      break;
  }
}

void RingTransport::detach_gather(OpIndex index) noexcept {
  const Operation& op = operations_[index];
  std::erase(gathers_, index);
  for (Peer& p : peers_) {
    if (!op.contributed[static_cast<std::size_t>(p.rank)]) --p.gathers_missing;
    std::erase_if(p.eager_sends, [&](const Outgoing& message) { return message.op == index; });
    if (p.incoming.to == Incoming::To::kOperation && p.incoming.op == index)
      p.incoming.to = Incoming::To::kDropped;
  }
}

// A message half arrived in a receive that is given up goes on to the heap, as if the receive had
// never been posted.
void RingTransport::keep_partial(Peer& from) noexcept {
  Incoming& incoming = from.incoming;
  incoming.to = Incoming::To::kHeap;
  incoming.heap.clear();
  for_each_piece(std::span<const std::span<std::byte>>(operations_[incoming.op].targets), 0,
                 incoming.received, [&](std::span<std::byte> piece) {
                   incoming.heap.insert(incoming.heap.end(), piece.begin(), piece.end());
                 });
  for (const OpIndex other : from.eager_recvs) {
    if (operations_[other].matched || operations_[other].tag != incoming.first.tag) continue;
    adopt_unexpected(other, from);
    return;
  }
}

// The send that held this request is given up: the next send with its tag takes it.
void RingTransport::give_back_request(Peer& to, const Request& request) noexcept {
  to.requests.insert(to.requests.begin(), request);
  for (const OpIndex other : to.rendezvous_sends) {
    if (operations_[other].matched || operations_[other].tag != request.tag) continue;
    match_request(to, other);
    return;
  }
}

}  // namespace swiftbalancer::ring
