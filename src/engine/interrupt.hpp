#pragma once
// Catches SIGINT and SIGTERM while a run has child processes and shared-memory names, so that it
// can clean up, and lets writing to a rank that is gone be no signal. One at a time, on the thread
// that waits; the earlier handlers come back at the end.

#include <csignal>

#include "engine/rank_pipe.hpp"

namespace swiftbalancer::engine {

class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;
  /// Becomes readable when a signal has come.
  int fd() const noexcept { return pipe_.read.get(); }
  /// For the child after fork(): Ctrl-C reaches it too, but it is the parent who ends it.
  static void ignore_in_child() noexcept;
  /// The signal that came, 0 if none. Does not wait.
  int received();

 private:
  Pipe pipe_;
  struct sigaction old_int_ = {};
  struct sigaction old_term_ = {};
  struct sigaction old_pipe_ = {};
};

}  // namespace swiftbalancer::engine
