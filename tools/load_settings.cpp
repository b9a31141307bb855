#include "load_settings.hpp"

#include <fmt/format.h>

#include <swiftbalancer/error.hpp>

#include "io/load_file.hpp"

namespace swiftbalancer::tool {

void LoadSettings::declare(Settings& settings) {
  settings.text("loads", file_,
                "Loads, .npy or JSON: [layers, experts] or [windows, layers, experts] tokens");
  settings.integer("window", window_, -1, 1'000'000'000, "Window to take, from 0; -1: their sum");
  settings.flag("sum", sum_, "Take the sum of all windows, as is done without --window");
}

void LoadSettings::read() {
  if (sum_ && window_ >= 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--sum and --window {} are given; choose one", window_));
  }
  windows_ = io::read_loads(file_);
  if (window_ >= 0) window(window_, "--window");
}

ExpertLoad LoadSettings::chosen() const {
  if (window_ >= 0) return windows_[static_cast<std::size_t>(window_)];
  try {
    return io::sum_of_windows(windows_);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", file_, error.what()));
  }
}

const ExpertLoad& LoadSettings::window(int number, const char* flag) const {
  if (number >= static_cast<int>(windows_.size())) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{} is {}; {} has windows 0 to {}", flag,
                                                         number, file_, windows_.size() - 1));
  }
  return windows_[static_cast<std::size_t>(number)];
}

std::string LoadSettings::description() const {
  return window_ >= 0 ? fmt::format("window {} of {}", window_, windows_.size())
                      : fmt::format("sum of {} windows", windows_.size());
}

}  // namespace swiftbalancer::tool
