#include "control_socket.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::tool {
namespace {

constexpr std::size_t kLongestLine = 256;
// A mode is agreed within a few steps, but a step may take long.
constexpr timeval kPatience = {60, 0};

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, "control socket " + path + ": " + what);
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    fail(path, fmt::format("the path has {} bytes; allowed: 1 to {}", path.size(),
                           sizeof address.sun_path - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

engine::FileDescriptor make_socket(const std::string& path, int flags) {
  engine::FileDescriptor fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!fd) fail(path, std::string("no socket: ") + std::strerror(errno));
  return fd;
}

bool connect_to(const engine::FileDescriptor& fd, const sockaddr_un& address) {
  return connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

// Of a serve that was killed.
void remove_stale(const std::string& path, const sockaddr_un& address) {
  struct stat status = {};
  if (lstat(path.c_str(), &status) != 0) return;
  if (!S_ISSOCK(status.st_mode)) fail(path, "there is a file of that name; choose another path");
  if (connect_to(make_socket(path, 0), address) || errno != ECONNREFUSED)
    fail(path, "another serve listens there; choose another path");
  unlink(path.c_str());
}

}  // namespace

ControlSocket::ControlSocket(const std::string& path)
    : path_(path), ready_(epoll_create1(EPOLL_CLOEXEC)) {
  const sockaddr_un address = address_of(path);
  remove_stale(path, address);
  listener_ = make_socket(path, SOCK_NONBLOCK);
  const mode_t old_mask = umask(0077);
  const int bound =
      bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int cause = errno;
  umask(old_mask);
  if (bound != 0) fail(path, std::string("cannot be made: ") + std::strerror(cause));
  if (listen(listener_.get(), 16) != 0) {
    unlink(path.c_str());
    fail(path, std::string("cannot be listened at: ") + std::strerror(errno));
  }
  watch(listener_.get());
}

ControlSocket::~ControlSocket() { unlink(path_.c_str()); }

void ControlSocket::watch(int fd) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(ready_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
    fail(path_, std::string("cannot be watched: ") + std::strerror(errno));
}

void ControlSocket::accept_all() {
  while (true) {
    const int client = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0) return;
    clients_[client].socket = engine::FileDescriptor(client);
    watch(client);
  }
}

std::vector<ControlSocket::Request> ControlSocket::take() {
  std::vector<Request> requests;
  std::array<epoll_event, 16> events;
  const int count = epoll_wait(ready_.get(), events.data(), std::ssize(events), 0);
  for (int i = 0; i < count; ++i) {
    const int fd = events[static_cast<std::size_t>(i)].data.fd;
    if (fd == listener_.get()) {
      accept_all();
      continue;
    }
    std::array<char, kLongestLine> bytes;
    const ssize_t n = recv(fd, bytes.data(), bytes.size(), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    std::string& received = clients_[fd].received;
    if (n > 0) received.append(bytes.data(), static_cast<std::size_t>(n));
    const std::size_t end = received.find('\n');
    if (end != std::string::npos && end < kLongestLine) {
      requests.push_back({fd, received.substr(0, end)});
      received.clear();
    } else if (n <= 0 || received.size() >= kLongestLine) {
      clients_.erase(fd);  // gone, or talks nonsense
    }
  }
  return requests;
}

void ControlSocket::answer(int client, std::string_view line) {
  const std::string text = std::string(line) + "\n";
  // Does not fit or is gone: nothing to be done about it.
  static_cast<void>(send(client, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
  clients_.erase(client);
}

std::string ask(const std::string& path, const std::string& line) {
  const sockaddr_un address = address_of(path);
  const engine::FileDescriptor fd = make_socket(path, 0);
  if (!connect_to(fd, address)) {
    fail(path, fmt::format("{}; `swiftbalancer serve --control {}` listens while it runs",
                           std::strerror(errno), path));
  }
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  const std::string text = line + "\n";
  std::string answer;
  std::array<char, 4096> bytes;
  ssize_t n = send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
  while (n > 0 && answer.find('\n') == std::string::npos) {
    n = recv(fd.get(), bytes.data(), bytes.size(), 0);
    if (n > 0) answer.append(bytes.data(), static_cast<std::size_t>(n));
  }
  const std::size_t end = answer.find('\n');
  if (end == std::string::npos) {
    throw Error(ErrorCode::kUnavailable,
                "control socket " + path +
                    (n == 0 ? ": the run ended before it answered"
                            : fmt::format(": no answer within {} s", kPatience.tv_sec)));
  }
  return answer.substr(0, end);
}

}  // namespace swiftbalancer::tool
