#include "transport/byte_ring.hpp"

#include <algorithm>
#include <cstring>

namespace swiftbalancer::ring {
namespace {

std::uint64_t padded(std::uint64_t position) noexcept {
  return (position + kFrameAlignment - 1) / kFrameAlignment * kFrameAlignment;
}

}  // namespace

RingWriter::RingWriter(RingBlock& block, std::byte* data, std::size_t bytes)
    : block_(&block), data_(data), bytes_(bytes) {}

bool RingWriter::fits(std::size_t bytes) noexcept {
  if (bytes_ - (tail_ - head_) >= bytes) return true;
  const std::uint64_t head = block_->head.load(std::memory_order_acquire);
  if (tail_ - head > bytes_) {
    corrupt_ = true;  // head_ stays as it was: what was unsafe to overwrite remains so
    return false;
  }
  head_ = head;
  return bytes_ - (tail_ - head_) >= bytes;
}

bool RingWriter::reserve(std::size_t bytes, bool& first_wish) noexcept {
  if (fits(bytes)) return true;
  // The receiver frees space, then takes the wish: either it sees the wish or this end sees the
  // space.
  const bool first = block_->space_wanted.exchange(1, std::memory_order_acq_rel) == 0;
  if (fits(bytes)) return true;
  first_wish = first_wish || first;
  return false;
}

void RingWriter::write(const void* from, std::size_t bytes) noexcept {
  const std::size_t at = static_cast<std::size_t>(tail_) & (bytes_ - 1);
  const std::size_t first = std::min(bytes, bytes_ - at);
  if (first != 0) std::memcpy(data_ + at, from, first);
  if (bytes != first)
    std::memcpy(data_, static_cast<const std::byte*>(from) + first, bytes - first);
  tail_ += bytes;
}

void RingWriter::publish() noexcept {
  tail_ = padded(tail_);
  block_->tail.store(tail_, std::memory_order_release);
}

RingReader::RingReader(RingBlock& block, std::byte* data, std::size_t bytes)
    : block_(&block), data_(data), bytes_(bytes) {}

std::size_t RingReader::look() noexcept {
  tail_ = block_->tail.load(std::memory_order_acquire);
  corrupt_ = corrupt_ || tail_ - head_ > bytes_;
  if (corrupt_) tail_ = head_;
  return available();
}

void RingReader::read(void* to, std::size_t bytes) noexcept {
  const std::size_t at = static_cast<std::size_t>(head_) & (bytes_ - 1);
  const std::size_t first = std::min(bytes, bytes_ - at);
  if (first != 0) std::memcpy(to, data_ + at, first);
  if (bytes != first) std::memcpy(static_cast<std::byte*>(to) + first, data_, bytes - first);
  head_ += bytes;
}

void RingReader::release() noexcept {
  head_ = released_ = padded(head_);
  block_->head.store(head_, std::memory_order_release);
}

bool RingReader::take_space_wish() noexcept {
  return block_->space_wanted.exchange(0, std::memory_order_acq_rel) != 0;
}

}  // namespace swiftbalancer::ring
