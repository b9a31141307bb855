#pragma once
// How a file is refused: which, and what is wrong with it, in one line.

#include <string>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::io {

[[noreturn]] inline void fail(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kIo, path + ": " + what);
}

}  // namespace swiftbalancer::io
