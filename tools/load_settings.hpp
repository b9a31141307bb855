#pragma once
// The settings by which `plan` and `compare` choose recorded loads. Main thread.

#include <string>
#include <vector>

#include <swiftbalancer/load.hpp>

#include "settings.hpp"

namespace swiftbalancer::tool {

class LoadSettings {
 public:
  void declare(Settings& settings);
  bool given() const noexcept { return !file_.empty(); }
  const std::string& file() const noexcept { return file_; }

  /// Reads the file. @throws Error kIo: not loads; kInvalidArgument: both a window and the sum, a
  /// window out of range.
  void read();
  /// The chosen window, or the sum of all. After read().
  ExpertLoad chosen() const;
  /// @param flag for the message. @throws Error kInvalidArgument: out of range.
  const ExpertLoad& window(int number, const char* flag) const;
  /// "window 3 of 66" or "sum of 66 windows".
  std::string description() const;

 private:
  std::string file_;
  int window_ = -1;
  bool sum_ = false;
  std::vector<ExpertLoad> windows_;
};

}  // namespace swiftbalancer::tool
