#pragma once
// A limit that a JSON parser lacks. Used by every reader of JSON files before it parses.
// Thread-safe.

#include <string_view>

namespace swiftbalancer::io {

/// Lists and objects inside each other that a file may hold; ours have six.
inline constexpr int kMaxJsonDepth = 100;

/// Whether the text nests deeper than kMaxJsonDepth: parsing that works, but printing a value in a
/// message calls itself per level and would overflow the stack.
bool is_too_deep(std::string_view json) noexcept;

}  // namespace swiftbalancer::io
