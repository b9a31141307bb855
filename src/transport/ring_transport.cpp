#include "transport/ring_transport.hpp"

#include <cstring>

#include <unistd.h>

#include "transport/doorbell.hpp"
#include "transport/pieces.hpp"

namespace swiftbalancer::ring {
namespace {

std::size_t checked_rank(const Region& region, int rank, const std::string& name) {
  if (rank >= 0 && rank < region.num_ranks()) return static_cast<std::size_t>(rank);
  throw Error(ErrorCode::kInvalidArgument, "transport: rank " + std::to_string(rank) + " of " +
                                               name + ", allowed are 0 to " +
                                               std::to_string(region.num_ranks() - 1));
}

void copy_into(std::span<const std::span<std::byte>> targets, std::span<const std::byte> from) {
  for_each_piece(targets, 0, from.size(), [&](std::span<std::byte> to) {
    std::memcpy(to.data(), from.data(), to.size());
    from = from.subspan(to.size());
  });
}

}  // namespace

RingTransport::Peer::Peer(const Region& region, int self, int other)
    : rank(other),
      block(&region.rank(other)),
      out(region.ring(self, other, kMessages), region.ring_data(self, other, kMessages),
          region.ring_bytes()),
      bulk_out(region.ring(self, other, kBulk), region.ring_data(self, other, kBulk),
               region.ring_bytes()),
      in(region.ring(other, self, kMessages), region.ring_data(other, self, kMessages),
         region.ring_bytes()),
      bulk_in(region.ring(other, self, kBulk), region.ring_data(other, self, kBulk),
              region.ring_bytes()) {}

RingTransport::RingTransport(std::shared_ptr<Region> region, int rank, const std::string& name,
                             bool multi_process)
    : region_(std::move(region)),
      rank_(static_cast<int>(checked_rank(*region_, rank, name))),
      multi_process_(multi_process),
      max_piece_(max_piece(region_->ring_bytes())),
      self_(region_->rank(rank)),
      gone_(static_cast<std::size_t>(region_->num_ranks())) {
  for (int other = 0; other < region_->num_ranks(); ++other)
    peers_.emplace_back(*region_, rank, other);
  RankState expected = RankState::kFree;
  if (!self_.state.compare_exchange_strong(expected, RankState::kOpen)) {
    throw Error(ErrorCode::kInvalidArgument, "transport: rank " + std::to_string(rank) + " of " +
                                                 name + " is or was taken by process " +
                                                 std::to_string(self_.pid.load()) +
                                                 "; a rank opens once per group");
  }
  self_.pid.store(static_cast<std::int32_t>(::getpid()));
}

RingTransport::~RingTransport() { region_->mark_gone(rank_, RankState::kClosed); }

void RingTransport::check_peer(int other, const char* what) const {
  if (other >= 0 && other < num_ranks()) return;
  throw Error(ErrorCode::kInvalidArgument,
              "transport: rank " + std::to_string(rank_) + " posts a " + what + " with rank " +
                  std::to_string(other) + ", allowed are 0 to " + std::to_string(num_ranks() - 1));
}

RingTransport::OpIndex RingTransport::new_operation(OpKind kind, int other, std::uint64_t tag) {
  if (free_.empty()) {
    free_.push_back(static_cast<OpIndex>(operations_.size()));
    operations_.emplace_back();
  }
  const OpIndex index = free_.back();
  free_.pop_back();
  Operation& op = operations_[index];
  op.kind = kind;
  op.state = TransferState::kPending;
  op.matched = false;
  op.peer = other;
  op.tag = tag;
  op.moved = 0;
  ++num_pending_;
  return index;
}

TransportHandle RingTransport::handle_of(OpIndex index) const noexcept {
  return {(static_cast<std::uint64_t>(operations_[index].generation) << 32) | (index + 1)};
}

bool RingTransport::find(TransportHandle handle, OpIndex& index) const noexcept {
  index = static_cast<OpIndex>(handle.id) - 1;
  return index < operations_.size() && operations_[index].kind != OpKind::kFree &&
         operations_[index].generation == static_cast<std::uint32_t>(handle.id >> 32);
}

void RingTransport::finish(OpIndex index, TransferState state, std::size_t bytes) {
  Operation& op = operations_[index];
  op.state = state;
  op.moved = bytes;
  op.finished_in = news_round_;
  --num_pending_;
  ++news_;
}

void RingTransport::free_operation(OpIndex index) {
  Operation& op = operations_[index];
  if (op.state == TransferState::kPending) {
    --num_pending_;
  } else if (op.finished_in == news_round_) {
    --news_;
  }
  op.kind = OpKind::kFree;
  ++op.generation;
  op.sources.clear();
  op.targets.clear();
  free_.push_back(index);
}

TransportHandle RingTransport::post_send(int to, std::uint64_t tag,
                                         std::span<const std::span<const std::byte>> parts,
                                         Delivery delivery) {
  check_peer(to, "send");
  const bool eager = delivery == Delivery::kEager;
  const OpIndex index =
      new_operation(eager ? OpKind::kSendEager : OpKind::kSendRendezvous, to, tag);
  Operation& op = operations_[index];
  op.sources.assign(parts.begin(), parts.end());
  op.total = total_bytes(parts);
  Peer& p = peer(to);
  if (!failed_.ok()) {
    finish(index, TransferState::kFailed, 0);
  } else if (eager) {
    p.eager_sends.push_back({index, FrameKind::kEager, p.next_serial++, 0});
    push_and_ring(p);
  } else {
    p.rendezvous_sends.push_back(index);
    match_request(p, index);
    push_and_ring(p);
  }
  return handle_of(index);
}

TransportHandle RingTransport::post_recv(int from, std::uint64_t tag,
                                         std::span<const std::span<std::byte>> parts,
                                         Delivery delivery) {
  check_peer(from, "receive");
  const bool eager = delivery == Delivery::kEager;
  const OpIndex index =
      new_operation(eager ? OpKind::kRecvEager : OpKind::kRecvRendezvous, from, tag);
  Operation& op = operations_[index];
  op.targets.assign(parts.begin(), parts.end());
  op.total = total_bytes(parts);
  Peer& p = peer(from);
  if (!failed_.ok()) {
    finish(index, TransferState::kFailed, 0);
  } else if (eager) {
    p.eager_recvs.push_back(index);
    adopt_unexpected(index, p);
  } else {
    op.request = next_request_++;
    p.rendezvous_recvs.push_back(index);
    p.control.push_back({tag, op.request, 0, op.total, 0, FrameKind::kRequest});
    push_and_ring(p);
  }
  return handle_of(index);
}

TransportHandle RingTransport::post_all_gather(std::uint64_t tag, std::span<const std::byte> mine,
                                               std::span<std::byte> out) {
  if (out.size() != mine.size() * peers_.size()) {
    throw Error(ErrorCode::kInvalidArgument,
                "transport: rank " + std::to_string(rank_) + " posts an all-gather of " +
                    std::to_string(mine.size()) + " bytes into " + std::to_string(out.size()) +
                    ", expected " + std::to_string(mine.size() * peers_.size()));
  }
  const OpIndex index = new_operation(OpKind::kGather, rank_, tag);
  Operation& op = operations_[index];
  if (!failed_.ok()) {
    finish(index, TransferState::kFailed, 0);
    return handle_of(index);
  }
  op.sources.assign(1, mine);
  op.targets.assign(1, out);
  op.total = mine.size();
  op.contributed.assign(peers_.size(), false);
  op.contributed[static_cast<std::size_t>(rank_)] = true;
  op.missing = op.unsent = num_ranks() - 1;
  copy_into(targets_of(op, peer(rank_)), mine);
  if (op.missing == 0) {
    finish(index, TransferState::kDone, out.size());
    return handle_of(index);
  }
  gathers_.push_back(index);
  for (Peer& p : peers_) {
    if (p.rank == rank_) continue;
    ++p.gathers_missing;
    p.eager_sends.push_back({index, FrameKind::kGather, p.next_serial++, 0});
  }
  for (int step = 1; step < num_ranks() && op.state == TransferState::kPending; ++step) {
    Peer& p = peer((rank_ + step) % num_ranks());
    push_and_ring(p);
    if (op.state == TransferState::kPending) adopt_unexpected(index, p);
  }
  return handle_of(index);
}

// Where the bytes of a peer go. For an all-gather the result lasts until the next call.
std::span<const std::span<std::byte>> RingTransport::targets_of(const Operation& op,
                                                                const Peer& from) {
  if (op.kind != OpKind::kGather) return op.targets;
  slice_ = op.targets.front().subspan(static_cast<std::size_t>(from.rank) * op.total, op.total);
  return {&slice_, 1};
}

// Hands a receive or all-gather what had come before it was posted.
void RingTransport::adopt_unexpected(OpIndex index, Peer& from) {
  Operation& op = operations_[index];
  const FrameKind kind = op.kind == OpKind::kGather ? FrameKind::kGather : FrameKind::kEager;
  for (auto it = from.unexpected.begin(); it != from.unexpected.end(); ++it) {
    if (it->kind != kind || it->tag != op.tag) continue;
    const std::vector<std::byte> bytes = std::move(it->bytes);
    from.unexpected.erase(it);
    if (!accept(index, from, bytes.size())) return;
    copy_into(targets_of(op, from), bytes);
    return end_delivery(index, from, bytes.size());
  }
  Incoming& incoming = from.incoming;
  if (incoming.to != Incoming::To::kHeap || incoming.first.kind != kind ||
      incoming.first.tag != op.tag)
    return;
  const std::vector<std::byte> begun = std::move(incoming.heap);
  incoming.heap.clear();
  incoming.op = index;
  incoming.to =
      accept(index, from, incoming.first.total) ? Incoming::To::kOperation : Incoming::To::kDropped;
  if (incoming.to == Incoming::To::kOperation) copy_into(targets_of(op, from), begun);
}

TransferStatus RingTransport::poll(TransportHandle handle) {
  OpIndex index = 0;
  if (!find(handle, index)) return {TransferState::kFailed, 0};
  if (operations_[index].state == TransferState::kPending) progress();
  const Operation& op = operations_[index];
  if (op.state == TransferState::kPending) return {};
  const TransferStatus status{op.state, op.moved};
  free_operation(index);
  return status;
}

void RingTransport::cancel(TransportHandle handle) {
  OpIndex index = 0;
  if (!find(handle, index)) return;
  if (operations_[index].state == TransferState::kPending) detach(index);
  free_operation(index);
}

// Takes a pending operation out of everything that could touch its memory.
void RingTransport::detach(OpIndex index) {
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
        push_and_ring(p);
      }
      break;
    case OpKind::kGather:
      detach_gather(index);
      break;
  }
}

void RingTransport::detach_gather(OpIndex index) {
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
void RingTransport::keep_partial(Peer& from) {
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
void RingTransport::give_back_request(Peer& to, const Request& request) {
  to.requests.insert(to.requests.begin(), request);
  for (const OpIndex other : to.rendezvous_sends) {
    if (operations_[other].matched || operations_[other].tag != request.tag) continue;
    match_request(to, other);
    return;
  }
}

void RingTransport::wake() noexcept {
  woken_.store(true, std::memory_order_release);
  ring_doorbell_now(self_.doorbell);
}

}  // namespace swiftbalancer::ring
