#pragma once
// Messages between the engine's process and its planner process, over a pair of byte rings in
// shared memory without a name: it goes with the last process that holds it. Nothing here waits but
// wait(). What is read from the other side is checked first: it may be broken or hostile. One
// thread a side.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transport/byte_ring.hpp"
#include "transport/region.hpp"

namespace swiftbalancer {

enum class PlannerMessageKind : std::uint8_t {
  // From the program.
  kReady = 1,  ///< Started. Empty.
  kObserved,
  kPlan,
  kFailed,
  kWorking,  ///< A sign of life: one more layer is planned.
  // To the program.
  kRestart,
  kCommitted,
  kRebalancing,
  kObserve,
  kOpen,
  kClose,  ///< Empty.
};

struct PlannerMessage {
  PlannerMessageKind kind = PlannerMessageKind::kReady;
  std::uint32_t life = 0;  ///< Counts kRestart: answers of an earlier life are void.
  std::vector<std::byte> content;
};

class PlannerChannel {
 public:
  /// The engine's side, in new memory. @throws Error kIo.
  static std::unique_ptr<PlannerChannel> create();
  /// The program's side, from the descriptor() it was started with, which is closed.
  /// @throws Error kIo, kInvalidArgument: not such memory.
  static std::unique_ptr<PlannerChannel> open(int descriptor);
  ~PlannerChannel();
  PlannerChannel(const PlannerChannel&) = delete;
  PlannerChannel& operator=(const PlannerChannel&) = delete;

  /// Of the memory, to be given to the program; -1 once closed.
  int descriptor() const noexcept { return descriptor_; }
  void close_descriptor() noexcept;

  /// Enqueues; pump() moves it.
  void send(PlannerMessage message);
  /// Moves what fits, at most a ring's worth each way. @returns whether anything moved.
  bool pump();
  std::optional<PlannerMessage> receive();
  /// Of messages not yet wholly in the ring.
  std::size_t unsent_bytes() const noexcept { return unsent_bytes_; }
  /// Longer messages of the other side are a fault.
  void limit_message_bytes(std::size_t bytes) noexcept { most_bytes_ = bytes; }
  /// What made no sense, for good: nothing moves any more. Empty: nothing.
  const std::string& fault() const noexcept { return fault_; }
  /// Sleeps until the other side has moved something, or the deadline.
  void wait(std::chrono::steady_clock::time_point deadline);

 private:
  PlannerChannel(int descriptor, std::unique_ptr<ring::Region> region, int side);
  bool take();
  bool take_frame();
  bool push();
  std::size_t next_piece() const noexcept;
  void ring_other() noexcept;

  // Constant after construction; what it leads to is shared with the other side and synchronises
  // itself.
  const std::unique_ptr<ring::Region> region_;
  ring::RankBlock& self_;
  ring::RankBlock& other_;

  // This side's thread only.
  int descriptor_;
  std::string fault_;
  // To the other side.
  ring::RingWriter out_;
  std::deque<PlannerMessage> outbox_;
  std::size_t pushed_ = 0;  // bytes of the front of the outbox
  std::uint64_t serial_ = 1;
  std::size_t unsent_bytes_ = 0;
  // From it.
  ring::RingReader in_;
  std::size_t most_bytes_;
  ring::FrameHeader arriving_;  // first piece of the message that is arriving
  bool is_arriving_ = false;
  std::vector<std::byte> content_;
  std::deque<PlannerMessage> inbox_;
};

}  // namespace swiftbalancer
