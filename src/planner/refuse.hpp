#pragma once
// How settings and problems are refused: one line that says what, the value and what is allowed.

#include <string>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {

[[noreturn]] inline void refuse(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message);
}

inline void require(bool condition, const std::string& message) {
  if (!condition) refuse(message);
}

}  // namespace swiftbalancer
