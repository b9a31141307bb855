#pragma once
// The two ends of one byte ring with a single sender and a single receiver. Whole frames are made
// visible at once, so a receiver never sees half a frame, even of a sender that was killed. Each
// end belongs to one thread, and starts at 0: a rank opens its end of a group once.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "transport/region.hpp"

namespace swiftbalancer::ring {

enum class FrameKind : std::uint32_t {
  kEager = 1,  ///< A piece of an eager message.
  kGather,     ///< A piece of an all-gather contribution.
  kRequest,    ///< A rendezvous receive was posted: total is its capacity, serial names it.
  kUnrequest,  ///< The receive named by serial was given up.
  kBulk,       ///< A piece of the message for the request named by serial.
};

/// Starts each frame; `length` bytes follow, padded to kFrameAlignment.
struct FrameHeader {
  std::uint64_t tag = 0;
  std::uint64_t serial =
      0;  ///< kEager, kGather: of the message; kRequest, kUnrequest, kBulk: of the request.
  std::uint64_t offset = 0;  ///< Of this piece in its message. 0 begins a message and drops what
                             ///< came of an unfinished one.
  std::uint64_t total = 0;   ///< Bytes of the whole message.
  std::uint32_t length = 0;
  FrameKind kind = FrameKind::kEager;
};

inline constexpr std::size_t kFrameAlignment = 8;
inline constexpr std::size_t frame_bytes(std::size_t length) noexcept {
  return sizeof(FrameHeader) + (length + kFrameAlignment - 1) / kFrameAlignment * kFrameAlignment;
}
/// Longest piece of a message. Four frames fit into a ring, so that both sides can work at the same
/// time. In a large ring a piece stays short, because nothing interrupts its copy.
inline constexpr std::size_t max_piece(std::size_t ring_bytes) noexcept {
  return std::min(ring_bytes / 4, std::size_t{1} << 15) - sizeof(FrameHeader);
}

class RingWriter {
 public:
  RingWriter(RingBlock& block, std::byte* data, std::size_t bytes);

  /// @returns true when `bytes` more can be written now. Otherwise the receiver rings once it has
  /// made space; first_wish is then set if it has to be told so.
  bool reserve(std::size_t bytes, bool& first_wish) noexcept;
  void write(const void* from, std::size_t bytes) noexcept;
  /// Ends a frame: pads it and makes it visible.
  void publish() noexcept;
  /// The receiver's position makes no sense.
  bool corrupt() const noexcept { return corrupt_; }

 private:
  bool fits(std::size_t bytes) noexcept;

  RingBlock* block_;
  std::byte* data_;
  std::size_t bytes_;
  std::uint64_t tail_ = 0;  // beyond the published one while a frame is being written
  std::uint64_t head_ = 0;  // last seen
  bool corrupt_ = false;
};

class RingReader {
 public:
  RingReader(RingBlock& block, std::byte* data, std::size_t bytes);

  /// Bytes visible to the receiver, as of now.
  std::size_t look() noexcept;
  /// Bytes visible at the last look() and not yet read.
  std::size_t available() const noexcept { return static_cast<std::size_t>(tail_ - head_); }
  void read(void* to, std::size_t bytes) noexcept;
  void skip(std::size_t bytes) noexcept { head_ += bytes; }
  /// Gives back the space of what was read, including padding.
  void release() noexcept;
  /// Unreads what was read and not released.
  void rewind() noexcept { head_ = released_; }
  /// @returns true if the sender waits for space; it then has to be told.
  bool take_space_wish() noexcept;
  bool space_wanted() const noexcept {
    return block_->space_wanted.load(std::memory_order_acquire) != 0;
  }
  /// The sender's position makes no sense.
  bool corrupt() const noexcept { return corrupt_; }

 private:
  RingBlock* block_;
  const std::byte* data_;
  std::size_t bytes_;
  std::uint64_t head_ = 0;
  std::uint64_t released_ = 0;
  std::uint64_t tail_ = 0;  // last seen
  bool corrupt_ = false;
};

}  // namespace swiftbalancer::ring
