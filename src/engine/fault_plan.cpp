#include "engine/fault_plan.hpp"

#include <signal.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::engine {
namespace {

constexpr std::array<const char*, 6> kWords{"kill",         "stop", "cont",
                                            "kill-planner", "join", "corrupt"};
// Steps after a fault in which its effect is looked for.
constexpr std::uint64_t kAround = 16;

template <typename Number>
bool parse_number(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

Fault parse_fault(const std::string& text) {
  const auto colon = text.find(':');
  const auto at = text.find('@');
  if (colon != std::string::npos && at != std::string::npos && colon < at) {
    const auto word = std::ranges::find(kWords, std::string_view(text).substr(0, colon));
    Fault fault;
    if (word != kWords.end() &&
        parse_number(std::string_view(text).substr(colon + 1, at - colon - 1), fault.rank) &&
        parse_number(std::string_view(text).substr(at + 1), fault.step) && fault.rank >= 0 &&
        fault.step >= 1) {
      fault.kind = static_cast<FaultKind>(word - kWords.begin());
      return fault;
    }
  }
  throw Error(ErrorCode::kInvalidArgument,
              "inject: \"" + text +
                  "\" is no fault; write KIND:RANK@STEP with KIND kill, stop, cont, "
                  "kill-planner, join or corrupt and STEP from 1, e.g. kill:3@40,join:3@60");
}

// A rank starts no other processes.
pid_t child_of(pid_t parent) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    std::ifstream file(entry.path() / "stat");
    std::string line;
    if (!std::getline(file, line)) continue;
    std::istringstream fields(line.substr(line.rfind(')') + 2));
    char state = 0;
    pid_t ppid = 0;
    if (fields >> state >> ppid && ppid == parent && state != 'Z')
      return static_cast<pid_t>(std::stol(line));
  }
  return 0;
}

bool carry_out(FaultKind kind, pid_t rank) {
  static constexpr std::array<int, 4> kSignals{SIGKILL, SIGSTOP, SIGCONT, SIGKILL};
  const pid_t target = kind == FaultKind::kKillPlanner && rank > 0 ? child_of(rank) : rank;
  return target > 0 && kill(target, kSignals[static_cast<std::size_t>(kind)]) == 0;
}

}  // namespace

std::vector<Fault> parse_faults(const std::string& text) {
  std::vector<Fault> faults;
  std::istringstream entries(text);
  for (std::string entry; std::getline(entries, entry, ',');) faults.push_back(parse_fault(entry));
  return faults;
}

std::string to_string(const Fault& fault) {
  return std::string(kWords[static_cast<std::size_t>(fault.kind)]) + ":" +
         std::to_string(fault.rank) + "@" + std::to_string(fault.step);
}

std::vector<std::string> FaultInjector::on_step(std::uint64_t step, const std::vector<pid_t>& pids,
                                                const std::function<bool(const Fault&)>& act) {
  const auto now = std::chrono::steady_clock::now();
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < faults_.size(); ++i) {
    State& state = states_[i];
    if (state.done && step <= state.until) state.longest = std::max(state.longest, now - last_);
    if (state.done || step < faults_[i].step) continue;
    state.done = true;
    state.until = step + kAround;
    const Fault& fault = faults_[i];
    state.hit = fault.kind == FaultKind::kJoin || fault.kind == FaultKind::kCorrupt
                    ? act(fault)
                    : carry_out(fault.kind, pids[static_cast<std::size_t>(fault.rank)]);
    lines.push_back("inject " + to_string(faults_[i]) +
                    (state.hit ? ": done at step " + std::to_string(step) : ": not possible"));
  }
  last_ = now;
  return lines;
}

std::vector<std::string> FaultInjector::report() const {
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < faults_.size(); ++i) {
    const State& state = states_[i];
    char text[64];
    std::snprintf(text, sizeof text, "longest step around it %.1f ms",
                  std::chrono::duration<double, std::milli>(state.longest).count());
    lines.push_back("inject " + to_string(faults_[i]) + ": " +
                    (!state.done                           ? "the run ended before that step"
                     : state.hit                           ? text
                     : faults_[i].kind == FaultKind::kJoin ? "the rank was not lost"
                                                           : "no such process any more"));
  }
  return lines;
}

}  // namespace swiftbalancer::engine
