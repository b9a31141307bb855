#include "observe/format.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>

namespace swiftbalancer::observe {
namespace {

/// Three significant digits of a value in [0, 1000).
std::string three_digits(double value) {
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size < 9.995) return fmt::format("{:.2f}", value);
  if (size < 99.95) return fmt::format("{:.1f}", value);
  return fmt::format("{:.0f}", value);
}

template <std::size_t N>
std::string scaled(double value, const std::array<const char*, N>& suffixes) {
  std::size_t i = 0;
  while (i + 1 < N && std::abs(value) >= 999.5) {
    value /= 1000;
    ++i;
  }
  return three_digits(value) + suffixes[i];
}

}  // namespace

std::string format_ratio(double value) { return fmt::format("{:.3f}", value); }

std::string format_count(double value) {
  if (std::abs(value) < 9999.5) return fmt::format("{:.0f}", value);
  return scaled(value, std::array{"", "k", "M", "G", "T"});
}

std::string format_bytes(double value) {
  if (std::abs(value) < 999.5) return fmt::format("{:.0f} B", value);
  return scaled(value, std::array{" B", " kB", " MB", " GB", " TB", " PB"});
}

std::string format_percent(double share) {
  const double percent = share * 100;
  return std::abs(percent) < 9.95 && percent != 0 ? fmt::format("{:.1f} %", percent)
                                                  : fmt::format("{:.0f} %", percent);
}

std::string format_us(double value) { return scaled(value, std::array{" us", " ms", " s"}); }

std::string format_exact(double value) { return fmt::format("{}", value); }

std::string escape_html(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

}  // namespace swiftbalancer::observe
