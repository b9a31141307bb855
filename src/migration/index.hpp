#pragma once
// Counts and positions are int in the shapes, and std::size_t in containers.

#include <cstddef>

namespace swiftbalancer {

constexpr std::size_t index(int value) noexcept { return static_cast<std::size_t>(value); }

}  // namespace swiftbalancer
