// Pushing frames into the rings to the peers. Nothing here needs memory, so nothing can fail.

#include <algorithm>

#include "transport/pieces.hpp"
#include "transport/ring_transport.hpp"

namespace swiftbalancer::ring {
namespace {

// What posting may push at once. The rest goes in the next pass.
constexpr std::size_t kMessagesPerPost = std::size_t{1} << 17;

}  // namespace

bool RingTransport::push_messages(Peer& to, Budget& budget) noexcept {
  bool moved = push_control(to, budget);
  if (to.control.empty()) moved = push_eager(to, budget) || moved;
  if (to.out.corrupt()) corrupt(to, "a position");
  return moved;
}

// Bulk data is left to the next pass: whoever posts a packet must not wait for copies.
void RingTransport::push_messages_and_ring(Peer& to) noexcept {
  Budget budget(kMessagesPerPost);
  push_messages(to, budget);
  pay_ring(to);
}

bool RingTransport::push_control(Peer& to, Budget& budget) noexcept {
  std::size_t pushed = 0;
  while (pushed < to.control.size() && !budget.spent() &&
         push_frame(to, to.out, to.control[pushed], {}, budget))
    ++pushed;
  if (pushed == 0) return false;
  to.control.erase(to.control.begin(), to.control.begin() + static_cast<std::ptrdiff_t>(pushed));
  to.ring = Peer::Ring::kNow;
  return true;
}

bool RingTransport::push_eager(Peer& to, Budget& budget) noexcept {
  bool moved = false;
  std::size_t sent = 0;
  for (; sent < to.eager_sends.size(); ++sent) {
    Outgoing& message = to.eager_sends[sent];
    Operation& op = operations_[message.op];
    bool whole = false;
    while (!whole && !budget.spent()) {
      const auto length =
          static_cast<std::uint32_t>(std::min(op.total - message.offset, max_piece_));
      if (!push_frame(to, to.out,
                      {op.tag, message.serial, message.offset, op.total, length, message.kind},
                      op.sources, budget))
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

bool RingTransport::push_bulk(Peer& to, Budget& budget) noexcept {
  bool moved = false;
  for (std::size_t i = 0; i < to.rendezvous_sends.size() && !budget.spent();) {
    const OpIndex index = to.rendezvous_sends[i];
    Operation& op = operations_[index];
    if (!op.matched) {
      ++i;
      continue;
    }
    const bool too_long = op.total > op.request_capacity;
    bool whole = false;
    while (!whole && !budget.spent()) {
      // A message that is too long is announced only, so that the receive fails as well.
      const auto length =
          static_cast<std::uint32_t>(too_long ? 0 : std::min(op.total - op.moved, max_piece_));
      if (!push_frame(to, to.bulk_out,
                      {op.tag, op.request, op.moved, op.total, length, FrameKind::kBulk},
                      op.sources, budget))
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
  if (to.bulk_out.corrupt()) corrupt(to, "a position");
  return moved;
}

bool RingTransport::push_frame(Peer& to, RingWriter& writer, const FrameHeader& header,
                               std::span<const std::span<const std::byte>> parts,
                               Budget& budget) noexcept {
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
  budget.spend_frame(header.length);
  return true;
}

}  // namespace swiftbalancer::ring
