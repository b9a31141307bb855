#pragma once
// The pipes between a rank and its parent: frames of a kind, a step and text or bytes. Upwards the
// writing end is used by the engine thread and the worker of the rank, the reading end by the
// parent's thread; downwards by the parent's thread and the engine thread.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/error.hpp>

#include "runtime/mutex.hpp"

namespace swiftbalancer::engine {

enum class FrameKind : std::uint32_t {
  // From a rank to its parent.
  kOpened,    ///< Both transports are open; `step` is the membership.
  kProgress,  ///< A line.
  kLog,       ///< A line of the balancer.
  kSnapshot,  ///< A RankSnapshot, now and then, if somebody watches the run.
  kStep,      ///< A step is made; the lowest live rank tells.
  kResumed,   ///< A membership is entered and `step` is its first one; the content is its number.
              ///< The lowest live rank tells, before that step.
  kAnswers,   ///< Requests answered since the last time, as in a RankRecord.
  kWaiting,   ///< The rank waits in vain for others; `step` is its membership.
  kRecord,    ///< The rank's record: it is done and waits to be released. `step` is its membership.
  kError,     ///< What ended the rank.
  // From the parent to a rank.
  kMode,        ///< The BalancingMode that the rank shall ask for, one byte.
  kMembership,  ///< A MembershipNotice.
  kCorrupt,     ///< A byte of the next packet set that comes in shall be changed.
};

struct FrameHeader {
  FrameKind kind = FrameKind::kOpened;
  ErrorCode code = ErrorCode::kOk;  ///< kError
  std::uint64_t step = 0;           ///< kProgress, kStep; others as they say.
  std::uint64_t bytes = 0;          ///< That follow.
};

/// Closes a file descriptor. Move-only.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor() { close(); }
  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  void close() noexcept;

 private:
  int fd_;
};

struct Pipe {
  FileDescriptor read, write;
};
/// @throws Error kIo.
Pipe make_pipe();

using FrameHandler = std::function<void(const FrameHeader&, std::span<const std::byte>)>;

/// Thread-safe.
class FrameWriter {
 public:
  explicit FrameWriter(FileDescriptor fd) : fd_(std::move(fd)) {}
  /// A reader that is gone is no error here: a rank without its parent is ended, a lost rank is
  /// noticed by its other pipe.
  void write(FrameHeader header, std::span<const std::byte> content);
  void write(FrameHeader header, const std::string& content) {
    write(header, std::as_bytes(std::span(content)));
  }

 private:
  Mutex mutex_;
  FileDescriptor fd_ SWIFTBALANCER_GUARDED_BY(mutex_);  // whole frames, one after the other
};

class FrameReader {
 public:
  explicit FrameReader(FileDescriptor fd) : fd_(std::move(fd)) {}
  int fd() const noexcept { return fd_.get(); }
  /// Reads what is there and hands out complete frames; waits for some only where the pipe is
  /// blocking. @returns false at the end of the pipe.
  bool read(const FrameHandler& handle);

 private:
  FileDescriptor fd_;
  std::vector<std::byte> buffer_;
};

}  // namespace swiftbalancer::engine
