// Taking frames from the rings of the peers. Whatever needs memory comes before anything is
// changed: without it the frame stays in its ring.

#include <algorithm>
#include <utility>

#include "transport/pieces.hpp"
#include "transport/ring_transport.hpp"
#include "transport/room.hpp"

namespace swiftbalancer::ring {
namespace {

bool belongs_in(FrameKind kind, Lane lane) {
  switch (kind) {
    case FrameKind::kEager:
    case FrameKind::kGather:
    case FrameKind::kRequest:
    case FrameKind::kUnrequest:
      return lane == kMessages;
    case FrameKind::kBulk:
      return lane == kBulk;
  }
  return false;
}

}  // namespace

bool RingTransport::take(Peer& from, RingReader& reader, Lane lane, Budget& budget) {
  bool moved = false;
  reader.look();
  if (reader.corrupt()) corrupt(from, "a position");
  while (corruption_.what == nullptr && !budget.spent() && reader.available() != 0) {
    if (lane == kMessages && !from.needs_messages() && !reader.space_wanted()) break;
    FrameHeader header;
    const std::size_t available = reader.available();
    if (available >= sizeof header) reader.read(&header, sizeof header);
    if (available < sizeof header || header.length > max_piece_ ||
        frame_bytes(header.length) > available || header.offset > header.total ||
        header.length > header.total - header.offset || !belongs_in(header.kind, lane)) {
      corrupt(from, "a frame header");
      break;
    }
    try {
      take_frame(from, reader, header);
    } catch (...) {  // no memory
      reader.rewind();
      throw;
    }
    if (corruption_.what != nullptr) break;
    reader.release();
    budget.spend_frame(header.length);
    moved = true;
  }
  if (moved && reader.take_space_wish()) from.ring = Peer::Ring::kNow;
  return moved;
}

void RingTransport::take_frame(Peer& from, RingReader& reader, const FrameHeader& header) {
  switch (header.kind) {
    case FrameKind::kEager:
    case FrameKind::kGather:
      return take_piece(from, reader, header);
    case FrameKind::kBulk:
      return take_bulk(from, reader, header);
    case FrameKind::kRequest:
      reader.skip(header.length);
      return take_request(from, header);
    case FrameKind::kUnrequest:
      reader.skip(header.length);
      return take_unrequest(from, header);
  }
}

void RingTransport::take_piece(Peer& from, RingReader& reader, const FrameHeader& header) {
  Incoming& incoming = from.incoming;
  if (header.offset == 0) {
    begin_message(from, header);
  } else if (incoming.to == Incoming::To::kNothing || header.serial != incoming.first.serial ||
             header.kind != incoming.first.kind || header.total != incoming.first.total ||
             header.offset != incoming.received) {
    return corrupt(from, "the order of pieces");
  }
  const auto read = [&](std::span<std::byte> to) { reader.read(to.data(), to.size()); };
  switch (incoming.to) {
    case Incoming::To::kNothing:
    case Incoming::To::kDropped:
      reader.skip(header.length);
      break;
    case Incoming::To::kHeap:
      // Grows by what has come: the announced total is not trusted with memory.
      incoming.heap.resize(incoming.received + header.length);
      read(std::span(incoming.heap).subspan(incoming.received));
      break;
    case Incoming::To::kOperation: {
      const Operation& op = operations_[incoming.op];
      for_each_piece(targets_of(op, from), incoming.received, header.length, read);
      break;
    }
  }
  incoming.received += header.length;
  if (incoming.received == incoming.first.total) end_message(from);
}

void RingTransport::begin_message(Peer& from, const FrameHeader& header) {
  Incoming& incoming = from.incoming;
  // The sender gave an unfinished message up: its receive waits for another one.
  if (incoming.to == Incoming::To::kOperation) operations_[incoming.op].matched = false;
  incoming.to = Incoming::To::kNothing;
  incoming.heap.clear();
  // Room first: for the list of unexpected messages, and for what is kept of this one. A message
  // that comes in pieces is kept, too, if its receive is given up on the way.
  if (from.num_unexpected == from.unexpected.size()) from.unexpected.emplace_back();
  const std::optional<OpIndex> receiver = receiver_of(from, header);
  const bool fits = receiver && header.total <= operations_[*receiver].total;
  if (!receiver) incoming.heap.reserve(header.length);
  if (fits && header.kind == FrameKind::kEager && header.length != header.total)
    incoming.heap.reserve(header.total);
  incoming.first = header;
  incoming.received = 0;
  incoming.to = Incoming::To::kHeap;
  if (!receiver) return;
  incoming.op = *receiver;
  incoming.to =
      accept(*receiver, from, header.total) ? Incoming::To::kOperation : Incoming::To::kDropped;
}

// The operation that waits for a message.
std::optional<RingTransport::OpIndex> RingTransport::receiver_of(
    const Peer& from, const FrameHeader& header) const noexcept {
  const bool gather = header.kind == FrameKind::kGather;
  for (const OpIndex index : gather ? gathers_ : from.eager_recvs) {
    const Operation& op = operations_[index];
    const bool taken = gather ? op.contributed[static_cast<std::size_t>(from.rank)] : op.matched;
    if (op.tag == header.tag && !taken) return index;
  }
  return std::nullopt;
}

// A message of `bytes` is to go into a receive or all-gather. @returns false if it does not fit;
// the operation has failed then.
bool RingTransport::accept(OpIndex index, Peer& from, std::size_t bytes) noexcept {
  Operation& op = operations_[index];
  const bool gather = op.kind == OpKind::kGather;
  if (gather ? bytes == op.total : bytes <= op.total) {
    op.matched = true;
    return true;
  }
  if (gather) {
    detach_gather(index);
  } else {
    std::erase(from.eager_recvs, index);
  }
  finish(index, TransferState::kFailed, 0);
  return false;
}

void RingTransport::end_message(Peer& from) noexcept {
  Incoming& incoming = from.incoming;
  const Incoming::To to = std::exchange(incoming.to, Incoming::To::kNothing);
  if (to == Incoming::To::kHeap) {
    Unexpected& kept = from.unexpected[from.num_unexpected++];
    kept.kind = incoming.first.kind;
    kept.tag = incoming.first.tag;
    kept.bytes.swap(incoming.heap);
  }
  empty_buffer(incoming.heap);
  if (to == Incoming::To::kOperation) end_delivery(incoming.op, from, incoming.received);
}

// All bytes of one message are in their place.
void RingTransport::end_delivery(OpIndex index, Peer& from, std::size_t bytes) noexcept {
  Operation& op = operations_[index];
  if (op.kind != OpKind::kGather) {
    std::erase(from.eager_recvs, index);
    return finish(index, TransferState::kDone, bytes);
  }
  op.contributed[static_cast<std::size_t>(from.rank)] = true;
  --from.gathers_missing;
  --op.missing;
  end_gather_if_complete(index);
}

void RingTransport::end_gather_if_complete(OpIndex index) noexcept {
  const Operation& op = operations_[index];
  if (op.missing != 0 || op.unsent != 0) return;
  std::erase(gathers_, index);
  finish(index, TransferState::kDone, op.targets.front().size());
}

void RingTransport::take_bulk(Peer& from, RingReader& reader, const FrameHeader& header) noexcept {
  const auto found =
      std::find_if(from.rendezvous_recvs.begin(), from.rendezvous_recvs.end(),
                   [&](OpIndex index) { return operations_[index].request == header.serial; });
  if (found == from.rendezvous_recvs.end())
    return reader.skip(header.length);  // given up meanwhile
  const OpIndex index = *found;
  Operation& op = operations_[index];
  if (header.total > op.total) {
    reader.skip(header.length);
    from.rendezvous_recvs.erase(found);
    return finish(index, TransferState::kFailed, 0);
  }
  if (header.offset == 0)
    op.moved = 0;  // the first piece, or that of another send after the first one was given up
  if (header.offset != op.moved) return corrupt(from, "the order of pieces");
  for_each_piece(std::span<const std::span<std::byte>>(op.targets), op.moved, header.length,
                 [&](std::span<std::byte> to) { reader.read(to.data(), to.size()); });
  op.moved += header.length;
  if (op.moved != header.total) return;
  from.rendezvous_recvs.erase(found);
  finish(index, TransferState::kDone, op.moved);
}

void RingTransport::take_request(Peer& from, const FrameHeader& header) {
  // Also for the requests that sends hold: one that is cancelled gives its request back.
  make_room(from.requests, 1 + from.rendezvous_sends.size());
  from.requests.push_back({header.tag, header.serial, header.total});
  for (const OpIndex index : from.rendezvous_sends) {
    if (operations_[index].matched || operations_[index].tag != header.tag) continue;
    return match_request(from, index);
  }
}

void RingTransport::take_unrequest(Peer& from, const FrameHeader& header) noexcept {
  std::erase_if(from.requests,
                [&](const Request& request) { return request.serial == header.serial; });
  for (const OpIndex index : from.rendezvous_sends) {
    Operation& op = operations_[index];
    if (!op.matched || op.request != header.serial) continue;
    op.matched = false;
    return match_request(from, index);
  }
}

// Gives a send the oldest request with its tag, if there is one.
void RingTransport::match_request(Peer& to, OpIndex index) noexcept {
  Operation& op = operations_[index];
  const auto found = std::find_if(to.requests.begin(), to.requests.end(),
                                  [&](const Request& request) { return request.tag == op.tag; });
  if (found == to.requests.end()) return;
  op.matched = true;
  op.moved = 0;
  op.request = found->serial;
  op.request_capacity = found->capacity;
  to.requests.erase(found);
}

}  // namespace swiftbalancer::ring
