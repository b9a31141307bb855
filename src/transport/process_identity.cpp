#include "transport/process_identity.hpp"

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace swiftbalancer::ring {
namespace {

struct ProcessStat {
  bool readable = false;
  bool ended = false;  // a zombie: nobody has waited for it yet
  std::uint64_t start_time = 0;
};

// Fields of /proc/<pid>/stat, counted from 1. The name, field 2, is in brackets and may hold any
// characters.
constexpr int kFirstAfterName = 3, kState = 3, kNumThreads = 20, kStartTime = 22;

ProcessStat parse_stat(std::string_view text) noexcept {
  ProcessStat stat;
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string_view::npos) return stat;
  text.remove_prefix(name_end + 1);
  bool zombie = false;
  std::uint64_t threads = 0;
  for (int field = kFirstAfterName; field <= kStartTime; ++field) {
    const std::size_t begin = text.find_first_not_of(' ');
    if (begin == std::string_view::npos) return stat;
    text.remove_prefix(begin);
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(word.size());
    const auto number = [&](std::uint64_t& value) {
      return std::from_chars(word.data(), word.data() + word.size(), value).ec == std::errc();
    };
    if (field == kState) zombie = word == "Z" || word == "X";
    if (field == kNumThreads && !number(threads)) return stat;
    if (field == kStartTime) stat.readable = number(stat.start_time);
  }
  // While other threads run, a process whose first thread has returned looks like a zombie, too.
  stat.ended = zombie && threads <= 1;
  return stat;
}

ProcessStat read_stat(std::int32_t pid) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/stat", static_cast<int>(pid));
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  char text[1024];
  const ssize_t bytes = ::read(file, text, sizeof text);
  ::close(file);
  return bytes > 0 ? parse_stat({text, static_cast<std::size_t>(bytes)}) : ProcessStat{};
}

std::uint64_t inode_of(const char* path) noexcept {
  struct stat info{};
  return ::stat(path, &info) == 0 ? info.st_ino : 0;
}

// /proc may have been mounted in another pid namespace: its numbers are then not ours.
bool proc_is_of_our_namespace() noexcept {
  char number[16];
  const ssize_t length = ::readlink("/proc/self", number, sizeof number);
  std::int32_t pid = 0;
  return length > 0 && std::from_chars(number, number + length, pid).ec == std::errc() &&
         pid == ::getpid();
}

bool has_exited(int descriptor) noexcept {
  pollfd wanted{descriptor, POLLIN, 0};
  return ::poll(&wanted, 1, 0) == 1 && (wanted.revents & POLLIN) != 0;
}

// Where there are no pidfds (before Linux 5.3, forbidden, or no descriptors left).
Life look_without_descriptor(const ProcessIdentity& process) noexcept {
  const ProcessStat stat = read_stat(process.pid);
  if (stat.readable) {
    return stat.ended || stat.start_time != process.start_time ? Life::kEnded : Life::kRuns;
  }
  // /proc may hide the processes of others; EPERM: some process has that id, perhaps another one.
  return ::kill(process.pid, 0) != 0 && errno == ESRCH ? Life::kEnded : Life::kUnknown;
}

}  // namespace

ProcessIdentity own_process() noexcept {
  const std::int32_t pid = ::getpid();
  if (!proc_is_of_our_namespace()) return {.pid = pid};
  const ProcessStat stat = read_stat(pid);
  if (!stat.readable) return {.pid = pid};
  return {.pid = pid,
          .start_time = stat.start_time,
          .time_namespace = inode_of("/proc/self/ns/time"),  // 0 before Linux 5.6
          .pid_namespace = inode_of("/proc/self/ns/pid")};
}

ProcessWatch::~ProcessWatch() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

ProcessWatch::ProcessWatch(ProcessWatch&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

Life ProcessWatch::look(const ProcessIdentity& process, const ProcessIdentity& own) noexcept {
  if (process.pid <= 0 || process.pid_namespace == 0 ||
      process.pid_namespace != own.pid_namespace || process.time_namespace != own.time_namespace)
    return Life::kUnknown;
  if (descriptor_ < 0) return open(process);
  return has_exited(descriptor_) ? Life::kEnded : Life::kRuns;
}

Life ProcessWatch::open(const ProcessIdentity& process) noexcept {
  descriptor_ = static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0));
  if (descriptor_ < 0) return errno == ESRCH ? Life::kEnded : look_without_descriptor(process);
  // Read first, then asked whether it still runs: so what was read is of the process that the
  // descriptor names.
  const ProcessStat stat = read_stat(process.pid);
  if (has_exited(descriptor_)) return Life::kEnded;
  if (stat.readable && stat.start_time == process.start_time) return Life::kRuns;
  ::close(std::exchange(descriptor_, -1));
  return stat.readable ? Life::kEnded : Life::kUnknown;
}

}  // namespace swiftbalancer::ring
