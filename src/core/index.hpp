#pragma once
// Ids and counts are int; containers are indexed by std::size_t. No id is negative where it is used
// as an index.

#include <cstddef>

namespace swiftbalancer {

constexpr std::size_t index(int id) noexcept { return static_cast<std::size_t>(id); }

}  // namespace swiftbalancer
