#pragma once
// Counter-based random numbers: a draw depends on its key only, never on what was drawn before or
// on which rank it happens. Used by traffic and sampling. Pure, thread-safe. Finaliser: splitmix64
// (Steele, Lea, Flood 2014).

#include <cstdint>

namespace swiftbalancer::engine {

constexpr std::uint64_t mix64(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// The draw number `counter` of the stream named by (seed, stream).
constexpr std::uint64_t draw(std::uint64_t seed, std::uint64_t stream,
                             std::uint64_t counter) noexcept {
  return mix64(mix64(mix64(seed) ^ stream) ^ counter);
}

/// The same in [0, 1).
constexpr double draw_unit(std::uint64_t seed, std::uint64_t stream,
                           std::uint64_t counter) noexcept {
  return static_cast<double>(draw(seed, stream, counter) >> 11) * 0x1.0p-53;
}

/// The same in [low, high], both included.
constexpr int draw_between(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter, int low,
                           int high) noexcept {
  return low +
         static_cast<int>(draw(seed, stream, counter) % static_cast<std::uint64_t>(high - low + 1));
}

}  // namespace swiftbalancer::engine
