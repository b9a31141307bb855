#include "runtime/planner_process/channel.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <swiftbalancer/error.hpp>

#include "transport/doorbell.hpp"

namespace swiftbalancer {
namespace {

constexpr int kEngine = 0;
constexpr int kProgram = 1;
constexpr RingOptions kRings{.ring_bytes = std::size_t{1} << 18};
// Message kinds take the low bits of a frame's tag, the life the others.
constexpr int kKindBits = 8;
constexpr std::size_t kMostBytes = std::size_t{1} << 30;

[[noreturn]] void fail(const std::string& what) {
  throw Error(ErrorCode::kIo, "cannot " + what + " shared memory: " + std::strerror(errno));
}

ring::Mapping map(int descriptor, std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) fail("map");
  return {memory, bytes};
}

std::size_t padded(std::size_t bytes) { return ring::frame_bytes(bytes); }

}  // namespace

std::unique_ptr<PlannerChannel> PlannerChannel::create() {
  const std::size_t bytes = ring::Region::bytes_for(2, kRings);
  const int descriptor = ::memfd_create("swiftbalancer.planner", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) fail("make");
  try {
    // Its memory is taken now, and nobody can take it away: a later access cannot kill the engine.
    if (const int error = ring::take_memory(descriptor, bytes); error != 0) {
      errno = error;
      fail("get " + std::to_string(bytes) + " bytes of");
    }
    if (::fchmod(descriptor, S_IRUSR | S_IWUSR) != 0 ||
        ::fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
      fail("protect");
    return std::unique_ptr<PlannerChannel>(new PlannerChannel(
        descriptor, std::make_unique<ring::Region>(map(descriptor, bytes), 2, kRings), kEngine));
  } catch (...) {
    ::close(descriptor);
    throw;
  }
}

std::unique_ptr<PlannerChannel> PlannerChannel::open(int descriptor) {
  struct stat info{};
  if (::fstat(descriptor, &info) != 0) fail("look at");
  if (info.st_size <= 0) throw Error(ErrorCode::kInvalidArgument, "the shared memory is empty");
  const auto bytes = static_cast<std::size_t>(info.st_size);
  auto region = std::make_unique<ring::Region>(map(descriptor, bytes), "the shared memory");
  if (region->num_ranks() != 2)
    throw Error(ErrorCode::kInvalidArgument, "the shared memory is not for two");
  std::unique_ptr<PlannerChannel> channel(
      new PlannerChannel(descriptor, std::move(region), kProgram));
  channel->close_descriptor();
  return channel;
}

PlannerChannel::PlannerChannel(int descriptor, std::unique_ptr<ring::Region> region, int side)
    : region_(std::move(region)),
      self_(region_->rank(side)),
      other_(region_->rank(1 - side)),
      descriptor_(descriptor),
      out_(region_->ring(side, 1 - side, ring::kMessages),
           region_->ring_data(side, 1 - side, ring::kMessages), region_->ring_bytes()),
      in_(region_->ring(1 - side, side, ring::kMessages),
          region_->ring_data(1 - side, side, ring::kMessages), region_->ring_bytes()),
      most_bytes_(kMostBytes) {}

PlannerChannel::~PlannerChannel() { close_descriptor(); }

void PlannerChannel::close_descriptor() noexcept {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

void PlannerChannel::ring_other() noexcept { ring::ring_doorbell_now(other_.doorbell); }

void PlannerChannel::send(PlannerMessage message) {
  unsent_bytes_ += padded(message.content.size());
  outbox_.push_back(std::move(message));
}

bool PlannerChannel::pump() {
  if (!fault_.empty()) return false;
  const bool taken = take();
  const bool pushed = fault_.empty() && push();
  return taken || pushed;
}

std::optional<PlannerMessage> PlannerChannel::receive() {
  if (inbox_.empty()) return std::nullopt;
  PlannerMessage message = std::move(inbox_.front());
  inbox_.pop_front();
  return message;
}

// The amount is fixed by one look: a sender that never stops does not keep this side here.
bool PlannerChannel::take() {
  const bool any = in_.look() != 0;
  while (fault_.empty() && in_.available() != 0) {
    if (!take_frame()) fault_ = "sent a message that makes no sense";
  }
  if (in_.corrupt()) fault_ = "left its shared memory in a state that makes no sense";
  if (any && in_.take_space_wish()) ring_other();
  return any;
}

bool PlannerChannel::take_frame() {
  const std::size_t available = in_.available();
  ring::FrameHeader header;
  if (available < sizeof header) return false;
  in_.read(&header, sizeof header);
  if (header.kind != ring::FrameKind::kEager || header.total > most_bytes_ ||
      header.length > ring::max_piece(region_->ring_bytes()) ||
      ring::frame_bytes(header.length) > available || header.offset > header.total ||
      header.length > header.total - header.offset ||
      (header.length == 0 && header.total != header.offset))
    return false;
  const bool first = !is_arriving_;
  if (first) {
    arriving_ = header;
    content_.clear();
  }
  if (header.serial != arriving_.serial || header.tag != arriving_.tag ||
      header.total != arriving_.total || header.offset != content_.size())
    return false;
  // Grows by what has come: the announced total is not trusted with memory.
  content_.resize(content_.size() + header.length);
  in_.read(content_.data() + header.offset, header.length);
  in_.release();
  is_arriving_ = content_.size() != header.total;
  if (is_arriving_) return true;
  inbox_.push_back({static_cast<PlannerMessageKind>(header.tag & ((1U << kKindBits) - 1)),
                    static_cast<std::uint32_t>(header.tag >> kKindBits),
                    std::exchange(content_, {})});
  return true;
}

std::size_t PlannerChannel::next_piece() const noexcept {
  return std::min(outbox_.front().content.size() - pushed_, ring::max_piece(region_->ring_bytes()));
}

bool PlannerChannel::push() {
  std::size_t moved = 0;
  bool wish = false;
  while (!outbox_.empty() && moved < region_->ring_bytes()) {
    const std::size_t length = next_piece();
    if (!out_.reserve(ring::frame_bytes(length), wish)) break;
    const PlannerMessage& message = outbox_.front();
    const ring::FrameHeader header{.tag = static_cast<std::uint64_t>(message.life) << kKindBits |
                                          static_cast<std::uint64_t>(message.kind),
                                   .serial = serial_,
                                   .offset = pushed_,
                                   .total = message.content.size(),
                                   .length = static_cast<std::uint32_t>(length),
                                   .kind = ring::FrameKind::kEager};
    out_.write(&header, sizeof header);
    out_.write(message.content.data() + pushed_, length);
    out_.publish();
    moved += ring::frame_bytes(length);
    pushed_ += length;
    if (pushed_ != message.content.size()) continue;
    unsent_bytes_ -= padded(message.content.size());
    outbox_.pop_front();
    pushed_ = 0;
    ++serial_;
  }
  if (out_.corrupt()) fault_ = "left its shared memory in a state that makes no sense";
  if (moved != 0 || wish) ring_other();
  return moved != 0;
}

void PlannerChannel::wait(std::chrono::steady_clock::time_point deadline) {
  ring::arm_doorbell(self_.doorbell, 1);
  // What came before the doorbell was armed may have rung in vain: look again.
  bool wish = false;
  const bool busy = in_.look() != 0 || !fault_.empty() ||
                    (!outbox_.empty() && out_.reserve(ring::frame_bytes(next_piece()), wish));
  if (wish) ring_other();
  if (!busy) ring::sleep_on_doorbell(self_.doorbell, deadline);
  ring::disarm_doorbell(self_.doorbell);
}

}  // namespace swiftbalancer
