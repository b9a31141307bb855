#pragma once
// Random legal rows of one layer, from a seeded generator, for the tests of this folder.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer::testing {

using Random = std::mt19937_64;

inline int below(Random& random, int limit) {
  return static_cast<int>(random() % static_cast<std::uint64_t>(limit));
}

/// Every expert once at least, the rest at random.
inline std::vector<std::int32_t> random_row(const ClusterShape& shape, Random& random) {
  std::vector<std::int32_t> row(static_cast<std::size_t>(shape.num_slots()));
  for (std::size_t slot = 0; slot < row.size(); ++slot) {
    row[slot] = slot < static_cast<std::size_t>(shape.num_logical_experts())
                    ? static_cast<std::int32_t>(slot)
                    : below(random, shape.num_logical_experts());
  }
  for (std::size_t slot = row.size(); slot > 1; --slot) {
    std::swap(row[slot - 1], row[static_cast<std::size_t>(below(random, static_cast<int>(slot)))]);
  }
  return row;
}

/// A row that differs from `row` in a few slots: experts change places, spare slots get other
/// experts.
inline std::vector<std::int32_t> changed_row(std::vector<std::int32_t> row,
                                             const ClusterShape& shape, int changes,
                                             Random& random) {
  std::vector<int> replicas(static_cast<std::size_t>(shape.num_logical_experts()), 0);
  for (std::int32_t expert : row) ++replicas[static_cast<std::size_t>(expert)];
  for (int i = 0; i < changes; ++i) {
    std::int32_t& first = row[static_cast<std::size_t>(below(random, shape.num_slots()))];
    std::int32_t& second = row[static_cast<std::size_t>(below(random, shape.num_slots()))];
    if (replicas[static_cast<std::size_t>(first)] > 1 && below(random, 2) == 0) {
      --replicas[static_cast<std::size_t>(first)];
      first = below(random, shape.num_logical_experts());
      ++replicas[static_cast<std::size_t>(first)];
    } else {
      std::swap(first, second);
    }
  }
  return row;
}

}  // namespace swiftbalancer::testing
