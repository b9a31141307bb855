#pragma once
// Numbers and texts as people read them, the same in the page and in the terminal table. Pure;
// thread-safe.

#include <optional>
#include <string>
#include <string_view>

namespace swiftbalancer::observe {

std::string format_ratio(double value);    ///< 1.124
std::string format_count(double value);    ///< 9876, 12.3k, 4.56M
std::string format_bytes(double value);    ///< 36.9 kB, 1.20 GB (powers of 1000)
std::string format_percent(double share);  ///< 0.934 -> 93 %
std::string format_us(double value);       ///< Microseconds as us, ms or s.
std::string format_exact(
    double value);  ///< Shortest text that reads back the same: constants, settings.

/// `format(value)`, or "n/a" where the file has none.
template <typename Format>
std::string or_na(const std::optional<double>& value, Format format) {
  return value ? format(*value) : "n/a";
}

/// For element content and quoted attributes.
std::string escape_html(std::string_view text);

}  // namespace swiftbalancer::observe
