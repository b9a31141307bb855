#pragma once
// A number out of a text that is nothing else. Any thread.

#include <charconv>
#include <optional>
#include <string_view>

namespace swiftbalancer::tool {

/// @returns none where the text is no such number, or goes on behind it.
template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end) return std::nullopt;
  return number;
}

}  // namespace swiftbalancer::tool
