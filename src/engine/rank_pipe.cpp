#include "engine/rank_pipe.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace swiftbalancer::engine {

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = other.fd_;
    other.fd_ = -1;
  }
  return *this;
}

void FileDescriptor::close() noexcept {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Pipe make_pipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0)
    throw Error(ErrorCode::kIo, std::string("cannot make a pipe: ") + std::strerror(errno));
  return {FileDescriptor(fds[0]), FileDescriptor(fds[1])};
}

void FrameWriter::write(FrameHeader header, std::span<const std::byte> content) {
  header.bytes = content.size();
  std::vector<std::byte> frame(sizeof header + content.size());
  std::memcpy(frame.data(), &header, sizeof header);
  if (!content.empty()) std::memcpy(frame.data() + sizeof header, content.data(), content.size());
  const MutexLock lock(mutex_);
  for (std::size_t sent = 0; sent < frame.size();) {
    const ssize_t n = ::write(fd_.get(), frame.data() + sent, frame.size() - sent);
    if (n > 0) sent += static_cast<std::size_t>(n);
    if (n < 0 && errno != EINTR) return;
  }
}

bool FrameReader::read(const FrameHandler& handle) {
  constexpr std::size_t kChunk = std::size_t{1} << 16;
  const std::size_t held = buffer_.size();
  buffer_.resize(held + kChunk);
  ssize_t n = -1;
  do {
    n = ::read(fd_.get(), buffer_.data() + held, kChunk);
  } while (n < 0 && errno == EINTR);
  buffer_.resize(held + static_cast<std::size_t>(n > 0 ? n : 0));
  if (n < 0 && errno == EAGAIN) return true;
  if (n <= 0) return false;
  std::size_t at = 0;
  FrameHeader header;
  while (buffer_.size() - at >= sizeof header) {
    std::memcpy(&header, buffer_.data() + at, sizeof header);
    if (buffer_.size() - at - sizeof header < header.bytes) break;
    handle(header, std::span<const std::byte>(buffer_).subspan(at + sizeof header, header.bytes));
    at += sizeof header + header.bytes;
  }
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(at));
  return true;
}

}  // namespace swiftbalancer::engine
