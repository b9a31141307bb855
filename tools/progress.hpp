#pragma once
// Progress on standard output: one line that is overwritten on a terminal, plain lines elsewhere.
// Main thread, or one thread at a time.

#include <cstdint>
#include <string>

namespace swiftbalancer::tool {

class Progress {
 public:
  explicit Progress(bool quiet);
  /// @param step of total_steps; lines that tell of no step have step 0.
  void report(const std::string& what, std::uint64_t step, std::uint64_t total_steps,
              const std::string& line);
  /// Ends an overwritten line, so that other output starts on its own.
  void finish();

 private:
  bool quiet_;
  bool terminal_;
  bool open_ = false;  // the cursor stands behind an unfinished line
};

}  // namespace swiftbalancer::tool
