#pragma once
// Which process this is, so that another one can tell whether it still runs: a process id alone
// comes back after a while, and means another process in another pid namespace (containers that
// share /dev/shm). Nothing here allocates or throws. One thread per ProcessWatch.

#include <cstdint>

namespace swiftbalancer::ring {

/// Plain data: lies in shared memory too.
struct ProcessIdentity {
  std::int32_t pid = 0;
  std::uint64_t start_time = 0;      ///< Field 22 of /proc/<pid>/stat, clock ticks since boot.
  std::uint64_t time_namespace = 0;  ///< Inode of /proc/self/ns/time: start times are read in it.
  std::uint64_t pid_namespace = 0;   ///< Inode of /proc/self/ns/pid; 0: nobody can judge it.
};

/// Of the calling process. pid alone where /proc is missing or shows another pid namespace.
ProcessIdentity own_process() noexcept;

enum class Life { kRuns, kEnded, kUnknown };

/// Looks after one process.
class ProcessWatch {
 public:
  ProcessWatch() = default;
  ~ProcessWatch();
  ProcessWatch(ProcessWatch&& other) noexcept;
  ProcessWatch& operator=(ProcessWatch&&) = delete;

  /// Whether `process` runs, always the same one; `own` is own_process(). kUnknown for a process of
  /// another namespace and for one that the system says nothing of: then only deadlines tell.
  /// A process that ended counts as ended before its parent has waited for it.
  Life look(const ProcessIdentity& process, const ProcessIdentity& own) noexcept;

 private:
  Life open(const ProcessIdentity& process) noexcept;

  int descriptor_ = -1;  // a pidfd of the very process
};

}  // namespace swiftbalancer::ring
