#include "transport/ring_transport.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "transport/doorbell.hpp"
#include "transport/pieces.hpp"
#include "transport/room.hpp"

namespace swiftbalancer::ring {
namespace {

std::size_t checked_rank(const Region& region, int rank, const std::string& name) {
  if (rank >= 0 && rank < region.num_ranks()) return static_cast<std::size_t>(rank);
  throw Error(ErrorCode::kInvalidArgument, "transport: rank " + std::to_string(rank) + " of " +
                                               name + ", allowed are 0 to " +
                                               std::to_string(region.num_ranks() - 1));
}

void publish(const ProcessIdentity& process, RankBlock& block) {
  block.pid.store(process.pid, std::memory_order_relaxed);
  block.start_time.store(process.start_time, std::memory_order_relaxed);
  block.time_namespace.store(process.time_namespace, std::memory_order_relaxed);
  block.pid_namespace.store(process.pid_namespace, std::memory_order_release);
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
      process_(own_process()),
      next_for_messages_((rank + 1) % region_->num_ranks()),
      next_for_bulk_(2 * next_for_messages_),
      gone_(static_cast<std::size_t>(region_->num_ranks())),
      next_look_(std::chrono::steady_clock::now() + kLookAfterPeers),
      self_(region_->rank(rank)) {
  peers_.reserve(static_cast<std::size_t>(region_->num_ranks()));
  for (int other = 0; other < region_->num_ranks(); ++other)
    peers_.emplace_back(*region_, rank, other);
  RankState expected = RankState::kFree;
  if (!self_.state.compare_exchange_strong(expected, RankState::kOpen)) {
    throw Error(ErrorCode::kInvalidArgument, "transport: rank " + std::to_string(rank) + " of " +
                                                 name + " is or was taken by process " +
                                                 std::to_string(self_.pid.load()) +
                                                 "; a rank opens once per group");
  }
  publish(process_, self_);
}

// A copy that a fork has made is not the rank.
RingTransport::~RingTransport() {
  if (process_.pid == ::getpid()) region_->mark_gone(rank_, RankState::kClosed);
}

void RingTransport::check_peer(int other, const char* what) const {
  if (other >= 0 && other < num_ranks()) return;
  throw Error(ErrorCode::kInvalidArgument,
              "transport: rank " + std::to_string(rank_) + " posts a " + what + " with rank " +
                  std::to_string(other) + ", allowed are 0 to " + std::to_string(num_ranks() - 1));
}

// A slot for an operation to be posted; free until begin().
RingTransport::OpIndex RingTransport::free_slot() {
  if (free_.empty()) {
    make_room(free_, operations_.size() + 1);  // freeing cannot fail, if all are free at last
    operations_.emplace_back();
    free_.push_back(static_cast<OpIndex>(operations_.size() - 1));
  }
  return free_.back();
}

void RingTransport::begin(OpIndex index, OpKind kind, int other, std::uint64_t tag) noexcept {
  free_.pop_back();
  Operation& op = operations_[index];
  op.kind = kind;
  op.state = TransferState::kPending;
  op.matched = false;
  op.peer = other;
  op.tag = tag;
  op.moved = 0;
  op.seen_pass = passes_;
  ++num_pending_;
}

TransportHandle RingTransport::handle_of(OpIndex index) const noexcept {
  return {(static_cast<std::uint64_t>(operations_[index].generation) << 32) | (index + 1)};
}

bool RingTransport::find(TransportHandle handle, OpIndex& index) const noexcept {
  index = static_cast<OpIndex>(handle.id) - 1;
  return index < operations_.size() && operations_[index].kind != OpKind::kFree &&
         operations_[index].generation == static_cast<std::uint32_t>(handle.id >> 32);
}

void RingTransport::finish(OpIndex index, TransferState state, std::size_t bytes) noexcept {
  Operation& op = operations_[index];
  op.state = state;
  op.moved = bytes;
  op.finished_in = news_round_;
  --num_pending_;
  ++news_;
}

void RingTransport::free_operation(OpIndex index) noexcept {
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

// Each post: first all room that it and its end need, then what cannot fail.

TransportHandle RingTransport::post_send(int to, std::uint64_t tag,
                                         std::span<const std::span<const std::byte>> parts,
                                         Delivery delivery) {
  check_peer(to, "send");
  const bool eager = delivery == Delivery::kEager;
  Peer& p = peer(to);
  const OpIndex index = free_slot();
  Operation& op = operations_[index];
  op.sources.assign(parts.begin(), parts.end());
  op.total = total_bytes(parts);
  if (eager) {
    make_room(p.eager_sends, 1);
  } else {
    make_room(p.rendezvous_sends, 1);
  }
  begin(index, eager ? OpKind::kSendEager : OpKind::kSendRendezvous, to, tag);
  if (corruption_.what != nullptr) {
    finish(index, TransferState::kFailed, 0);
  } else if (eager) {
    p.eager_sends.push_back({index, FrameKind::kEager, p.next_serial++, 0});
    push_messages_and_ring(p);
  } else {
    p.rendezvous_sends.push_back(index);
    match_request(p, index);
  }
  return handle_of(index);
}

TransportHandle RingTransport::post_recv(int from, std::uint64_t tag,
                                         std::span<const std::span<std::byte>> parts,
                                         Delivery delivery) {
  check_peer(from, "receive");
  const bool eager = delivery == Delivery::kEager;
  Peer& p = peer(from);
  const OpIndex index = free_slot();
  Operation& op = operations_[index];
  op.targets.assign(parts.begin(), parts.end());
  op.total = total_bytes(parts);
  if (eager) {
    make_room(p.eager_recvs, 1);
    make_room_for_begun(p, tag, op.total);
  } else {
    make_room(p.rendezvous_recvs, 1);
    make_room(p.control, 2 + p.rendezvous_recvs.size());  // each receive may be given up, too
  }
  begin(index, eager ? OpKind::kRecvEager : OpKind::kRecvRendezvous, from, tag);
  if (corruption_.what != nullptr) {
    finish(index, TransferState::kFailed, 0);
  } else if (eager) {
    p.eager_recvs.push_back(index);
    adopt_unexpected(index, p);
  } else {
    op.request = next_request_++;
    p.rendezvous_recvs.push_back(index);
    p.control.push_back({tag, op.request, 0, op.total, 0, FrameKind::kRequest});
    push_messages_and_ring(p);
  }
  return handle_of(index);
}

// A message that has begun to arrive may go on into a receive of so many bytes; it is kept on the
// heap if that receive is given up before its end.
void RingTransport::make_room_for_begun(Peer& from, std::uint64_t tag, std::size_t bytes) {
  Incoming& incoming = from.incoming;
  if (incoming.to == Incoming::To::kHeap && incoming.first.kind == FrameKind::kEager &&
      incoming.first.tag == tag && incoming.first.total <= bytes)
    incoming.heap.reserve(incoming.first.total);
}

TransportHandle RingTransport::post_all_gather(std::uint64_t tag, std::span<const std::byte> mine,
                                               std::span<std::byte> out) {
  if (out.size() != mine.size() * peers_.size()) {
    throw Error(ErrorCode::kInvalidArgument,
                "transport: rank " + std::to_string(rank_) + " posts an all-gather of " +
                    std::to_string(mine.size()) + " bytes into " + std::to_string(out.size()) +
                    ", expected " + std::to_string(mine.size() * peers_.size()));
  }
  const OpIndex index = free_slot();
  Operation& op = operations_[index];
  op.sources.assign(1, mine);
  op.targets.assign(1, out);
  op.contributed.assign(peers_.size(), false);
  make_room(gathers_, 1);
  for (Peer& p : peers_) make_room(p.eager_sends, 1);
  begin(index, OpKind::kGather, rank_, tag);
  if (corruption_.what != nullptr) {
    finish(index, TransferState::kFailed, 0);
    return handle_of(index);
  }
  op.total = mine.size();
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
    push_messages_and_ring(p);
    if (op.state == TransferState::kPending) adopt_unexpected(index, p);
  }
  return handle_of(index);
}

// Where the bytes of a peer go. For an all-gather the result lasts until the next call.
std::span<const std::span<std::byte>> RingTransport::targets_of(const Operation& op,
                                                                const Peer& from) noexcept {
  if (op.kind != OpKind::kGather) return op.targets;
  slice_ = op.targets.front().subspan(static_cast<std::size_t>(from.rank) * op.total, op.total);
  return {&slice_, 1};
}

// Hands a receive or all-gather what had come before it was posted.
void RingTransport::adopt_unexpected(OpIndex index, Peer& from) noexcept {
  const Operation& op = operations_[index];
  const FrameKind kind = op.kind == OpKind::kGather ? FrameKind::kGather : FrameKind::kEager;
  for (std::size_t i = 0; i < from.num_unexpected; ++i) {
    const Unexpected& message = from.unexpected[i];
    if (message.kind != kind || message.tag != op.tag) continue;
    if (accept(index, from, message.bytes.size())) {
      copy_into(targets_of(op, from), message.bytes);
      end_delivery(index, from, message.bytes.size());
    }
    return forget_unexpected(from, i);
  }
  Incoming& incoming = from.incoming;
  if (incoming.to != Incoming::To::kHeap || incoming.first.kind != kind ||
      incoming.first.tag != op.tag)
    return;
  incoming.op = index;
  incoming.to =
      accept(index, from, incoming.first.total) ? Incoming::To::kOperation : Incoming::To::kDropped;
  if (incoming.to == Incoming::To::kOperation) copy_into(targets_of(op, from), incoming.heap);
  incoming.heap.clear();
}

// Its buffer goes behind the others, for a later message.
void RingTransport::forget_unexpected(Peer& from, std::size_t position) noexcept {
  const auto at = from.unexpected.begin() + static_cast<std::ptrdiff_t>(position);
  empty_buffer(at->bytes);
  std::rotate(at, at + 1,
              from.unexpected.begin() + static_cast<std::ptrdiff_t>(from.num_unexpected));
  --from.num_unexpected;
}

void RingTransport::wake() noexcept {
  woken_.store(true, std::memory_order_release);
  ring_doorbell_now(self_.doorbell);
}

}  // namespace swiftbalancer::ring
