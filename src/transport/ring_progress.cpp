// What moves bytes: taking frames from the rings of all peers and pushing frames into them.

#include <algorithm>

#include "transport/doorbell.hpp"
#include "transport/pieces.hpp"
#include "transport/ring_transport.hpp"

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

bool RingTransport::progress() {
  bool moved = false;
  for (int step = 1; step <= num_ranks(); ++step) {
    Peer& p = peer((rank_ + step) % num_ranks());
    bool again = true;
    while (again && failed_.ok()) {
      again = take(p, p.in, kMessages);
      again = take(p, p.bulk_in, kBulk) || again;
      again = push(p) || again;
      pay_ring(p);
      moved = moved || again;
      again = again && p.rank == rank_;  // what is sent to oneself can be taken at once
    }
  }
  return moved;
}

bool RingTransport::take(Peer& from, RingReader& reader, Lane lane) {
  bool moved = false;
  reader.look();
  if (reader.corrupt()) corrupt(from, "a position");
  while (failed_.ok() && reader.available() != 0) {
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
    take_frame(from, reader, header);
    if (!failed_.ok()) break;
    reader.release();
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
  incoming.to = Incoming::To::kHeap;
  incoming.first = header;
  incoming.received = 0;
  incoming.heap.clear();
  const bool gather = header.kind == FrameKind::kGather;
  for (const OpIndex index : gather ? gathers_ : from.eager_recvs) {
    const Operation& op = operations_[index];
    if (op.tag != header.tag ||
        (gather ? op.contributed[static_cast<std::size_t>(from.rank)] : op.matched))
      continue;
    incoming.op = index;
    incoming.to =
        accept(index, from, header.total) ? Incoming::To::kOperation : Incoming::To::kDropped;
    return;
  }
}

// A message of `bytes` is to go into a receive or all-gather. @returns false if it does not fit;
// the operation has failed then.
bool RingTransport::accept(OpIndex index, Peer& from, std::size_t bytes) {
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

void RingTransport::end_message(Peer& from) {
  Incoming& incoming = from.incoming;
  const Incoming::To to = incoming.to;
  incoming.to = Incoming::To::kNothing;
  if (to == Incoming::To::kHeap) {
    from.unexpected.push_back({incoming.first.kind, incoming.first.tag, std::move(incoming.heap)});
    incoming.heap.clear();
  } else if (to == Incoming::To::kOperation) {
    end_delivery(incoming.op, from, incoming.received);
  }
}

// All bytes of one message are in their place.
void RingTransport::end_delivery(OpIndex index, Peer& from, std::size_t bytes) {
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

void RingTransport::end_gather_if_complete(OpIndex index) {
  const Operation& op = operations_[index];
  if (op.missing != 0 || op.unsent != 0) return;
  std::erase(gathers_, index);
  finish(index, TransferState::kDone, op.targets.front().size());
}

void RingTransport::take_bulk(Peer& from, RingReader& reader, const FrameHeader& header) {
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
  from.requests.push_back({header.tag, header.serial, header.total});
  for (const OpIndex index : from.rendezvous_sends) {
    if (operations_[index].matched || operations_[index].tag != header.tag) continue;
    return match_request(from, index);
  }
}

void RingTransport::take_unrequest(Peer& from, const FrameHeader& header) {
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
void RingTransport::match_request(Peer& to, OpIndex index) {
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

bool RingTransport::push(Peer& to) {
  bool moved = push_control(to);
  if (to.control.empty()) moved = push_eager(to) || moved;
  moved = push_bulk(to) || moved;
  if (to.out.corrupt() || to.bulk_out.corrupt()) corrupt(to, "a position");
  return moved;
}

bool RingTransport::push_control(Peer& to) {
  std::size_t pushed = 0;
  while (pushed < to.control.size() && push_frame(to, to.out, to.control[pushed], {})) ++pushed;
  if (pushed == 0) return false;
  to.control.erase(to.control.begin(), to.control.begin() + static_cast<std::ptrdiff_t>(pushed));
  to.ring = Peer::Ring::kNow;
  return true;
}

bool RingTransport::push_eager(Peer& to) {
  bool moved = false;
  std::size_t sent = 0;
  for (; sent < to.eager_sends.size(); ++sent) {
    Outgoing& message = to.eager_sends[sent];
    Operation& op = operations_[message.op];
    bool whole = false;
    while (!whole) {
      const auto length =
          static_cast<std::uint32_t>(std::min(op.total - message.offset, max_piece_));
      if (!push_frame(to, to.out,
                      {op.tag, message.serial, message.offset, op.total, length, message.kind},
                      op.sources))
        break;
      moved = true;
      message.offset += length;
      whole = message.offset == op.total;
    }
    if (!whole) break;
    to.ring = std::max(to.ring, Peer::Ring::kCounted);
    if (message.kind == FrameKind::kEager) {
      finish(message.op, TransferState::kDone, op.total);
    } else {
      --op.unsent;
      end_gather_if_complete(message.op);
    }
  }
  to.eager_sends.erase(to.eager_sends.begin(),
                       to.eager_sends.begin() + static_cast<std::ptrdiff_t>(sent));
  return moved;
}

bool RingTransport::push_bulk(Peer& to) {
  bool moved = false;
  for (std::size_t i = 0; i < to.rendezvous_sends.size();) {
    const OpIndex index = to.rendezvous_sends[i];
    Operation& op = operations_[index];
    if (!op.matched) {
      ++i;
      continue;
    }
    const bool too_long = op.total > op.request_capacity;
    bool whole = false;
    while (!whole) {
      // A message that is too long is announced only, so that the receive fails as well.
      const auto length =
          static_cast<std::uint32_t>(too_long ? 0 : std::min(op.total - op.moved, max_piece_));
      if (!push_frame(to, to.bulk_out,
                      {op.tag, op.request, op.moved, op.total, length, FrameKind::kBulk},
                      op.sources))
        break;
      moved = true;
      to.ring = Peer::Ring::kNow;
      op.moved += length;
      whole = too_long || op.moved == op.total;
    }
    if (!whole) break;
    to.rendezvous_sends.erase(to.rendezvous_sends.begin() + static_cast<std::ptrdiff_t>(i));
    finish(index, too_long ? TransferState::kFailed : TransferState::kDone, op.moved);
  }
  return moved;
}

bool RingTransport::push_frame(Peer& to, RingWriter& writer, const FrameHeader& header,
                               std::span<const std::span<const std::byte>> parts) {
  bool first_wish = false;
  if (!writer.reserve(frame_bytes(header.length), first_wish)) {
    if (first_wish) to.ring = Peer::Ring::kNow;
    return false;
  }
  writer.write(&header, sizeof header);
  for_each_piece(parts, header.offset, header.length, [&](std::span<const std::byte> piece) {
    writer.write(piece.data(), piece.size());
  });
  writer.publish();
  return true;
}

void RingTransport::push_and_ring(Peer& to) {
  push(to);
  pay_ring(to);
}

void RingTransport::pay_ring(Peer& to) {
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
void RingTransport::corrupt(const Peer& from, const char* what) {
  if (!failed_.ok()) return;
  failed_ = {ErrorCode::kTransport,
             "rank " + std::to_string(rank_) + ": the memory shared with rank " +
                 std::to_string(from.rank) + " is corrupt: " + what + " makes no sense"};
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
