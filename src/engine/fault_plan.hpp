#pragma once
// Faults that a run brings on itself, to show what it does about them. Parsed by the tool, carried
// out by the parent of the rank processes.

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace swiftbalancer::engine {

enum class FaultKind : std::uint8_t {
  kKill,         ///< SIGKILL to the rank.
  kStop,         ///< SIGSTOP to the rank.
  kContinue,     ///< SIGCONT to the rank.
  kKillPlanner,  ///< SIGKILL to the rank's planner process.
  kJoin,         ///< A new process takes the place of a rank that was lost.
  kCorrupt,      ///< A byte of the next packets that the rank receives is changed.
};

struct Fault {
  FaultKind kind = FaultKind::kKill;
  int rank = 0;
  std::uint64_t step = 0;  ///< Once the lowest live rank has made it.
};

/// "KIND:RANK@STEP", separated by commas; kinds kill, stop, cont, kill-planner, join,
/// corrupt.
/// @throws Error kInvalidArgument: names the entry and what is allowed.
std::vector<Fault> parse_faults(const std::string& text);
std::string to_string(const Fault& fault);

/// Carries the faults out as steps are reported, and measures how long each disturbed serving.
class FaultInjector {
 public:
  explicit FaultInjector(std::vector<Fault> faults) : faults_(std::move(faults)) {}
  /// @param pids by rank, 0: gone. @param act brings on what is not done by a signal; false: it is
  /// not possible. @returns what was done, a line each.
  std::vector<std::string> on_step(std::uint64_t step, const std::vector<pid_t>& pids,
                                   const std::function<bool(const Fault&)>& act);
  /// For the end of the run: a line for each fault, with the longest step around it.
  std::vector<std::string> report() const;

 private:
  struct State {
    bool done = false;
    bool hit = false;         ///< The process was there.
    std::uint64_t until = 0;  ///< Last step that counts as around it.
    std::chrono::nanoseconds longest{0};
  };
  std::vector<Fault> faults_;
  std::vector<State> states_ = std::vector<State>(faults_.size());
  std::chrono::steady_clock::time_point last_{};
};

}  // namespace swiftbalancer::engine
