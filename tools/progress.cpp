#include "progress.hpp"

#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

namespace swiftbalancer::tool {

Progress::Progress(bool quiet) : quiet_(quiet), terminal_(isatty(STDOUT_FILENO) == 1) {}

void Progress::report(const std::string& what, std::uint64_t step, std::uint64_t total_steps,
                      const std::string& line) {
  if (quiet_) return;
  const bool overwritten = terminal_ && step > 0 && step < total_steps;
  if (terminal_) fmt::print("\r\x1b[K");
  if (step == 0 || total_steps == 0) {
    fmt::print("{}", line);
  } else {
    fmt::print("{:<7} {:3} %  {}", what, std::min<std::uint64_t>(100, step * 100 / total_steps),
               line);
  }
  if (!overwritten) fmt::print("\n");
  open_ = overwritten;
  std::fflush(stdout);
}

void Progress::finish() {
  if (open_) fmt::print("\r\x1b[K");
  open_ = false;
}

}  // namespace swiftbalancer::tool
