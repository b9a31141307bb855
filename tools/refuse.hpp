#pragma once
// How a setting is refused: one line that says what is wrong and what is allowed.

#include <string>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::tool {

[[noreturn]] inline void refuse(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message);
}

}  // namespace swiftbalancer::tool
