#pragma once
// The pipe from a rank's process to its parent: frames of a kind, a step and text or bytes. The
// writing end is used by the engine thread and the worker of the rank, the reading end by the
// parent's thread.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::engine {

enum class FrameKind : std::uint32_t {
  kOpened,    ///< Both transports are open.
  kProgress,  ///< A line.
  kLog,       ///< A line of the balancer.
  kRecord,    ///< The rank's record: it is done and waits to be released.
  kError,     ///< What ended the rank.
};

struct FrameHeader {
  FrameKind kind = FrameKind::kOpened;
  ErrorCode code = ErrorCode::kOk;  ///< kError
  std::uint64_t step = 0;           ///< kProgress
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

/// Thread-safe.
class FrameWriter {
 public:
  explicit FrameWriter(FileDescriptor fd) : fd_(std::move(fd)) {}
  /// A parent that is gone is no error here: the rank ends by the signal that this sends it.
  void write(FrameHeader header, std::span<const std::byte> content);
  void write(FrameHeader header, const std::string& content) {
    write(header, std::as_bytes(std::span(content)));
  }

 private:
  std::mutex mutex_;
  FileDescriptor fd_;
};

class FrameReader {
 public:
  explicit FrameReader(FileDescriptor fd) : fd_(std::move(fd)) {}
  int fd() const noexcept { return fd_.get(); }
  /// Reads what is there and hands out complete frames. @returns false at the end of the pipe.
  bool read(const std::function<void(const FrameHeader&, std::span<const std::byte>)>& handle);

 private:
  FileDescriptor fd_;
  std::vector<std::byte> buffer_;
};

}  // namespace swiftbalancer::engine
