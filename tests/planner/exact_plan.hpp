#pragma once
// The exact optimum of a small layer by branch and bound: what plans and bounds are tested against.

#include <cstdint>
#include <span>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// The smallest largest rank load of any placement without same-rank duplicates, even split.
/// For about 10 experts on 4 ranks of 3 slots, or 8 on 8 of 2. No rank may have more slots than
/// there are experts.
double exact_hottest_rank(const ClusterShape& shape, std::span<const std::int64_t> load);

}  // namespace swiftbalancer
