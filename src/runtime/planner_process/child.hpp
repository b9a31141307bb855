#pragma once
// A running planner program, as its parent sees it: started without forking the engine, watched
// without waiting, ended by force (it keeps nothing that could be lost). Worker thread only; that
// thread outlives it, for the program ends with the thread that started it.

#include <cstddef>
#include <string>

#include <sys/types.h>

namespace swiftbalancer {

/// Descriptor under which the program finds its shared memory.
inline constexpr int kPlannerDescriptor = 3;

/// How the program ends by itself.
enum PlannerExit : int {
  kPlannerExitParentGone = 0,
  kPlannerExitFailed = 1,  ///< Said why on stderr.
  kPlannerExitUsage = 2,
  kPlannerExitOutOfMemory = 3,
};

/// Where the program lies. @param configured path, or name to be searched for in PATH; empty:
/// `swiftbalancer-planner` beside this program, else where it was installed, else in PATH.
/// @throws Error kInvalidArgument: there is none, or it is not executable. Any thread.
std::string find_planner_program(const std::string& configured);

class PlannerChild {
 public:
  /// The program gets the descriptor, stderr and no other one.
  /// @param max_memory_bytes of its address space; 0: no limit. @throws Error kIo.
  PlannerChild(const std::string& program, int descriptor, std::size_t max_memory_bytes);
  /// Kills it and waits for its end.
  ~PlannerChild();
  PlannerChild(const PlannerChild&) = delete;
  PlannerChild& operator=(const PlannerChild&) = delete;

  /// Whether it has ended. Never waits.
  bool ended() noexcept;
  /// Once it has: "was killed by signal 9 (Killed)".
  std::string how_it_ended() const;
  /// Ends it by force; ended() tells when it is gone.
  void kill() noexcept;

 private:
  pid_t pid_ = 0;
  bool ended_ = false;
  bool status_is_known_ = false;
  int status_ = 0;  // as of waitpid()
};

}  // namespace swiftbalancer
