#pragma once
// All commit units of one layer at once.

#include <span>
#include <utility>
#include <vector>

#include "migration/commit_units.hpp"

namespace swiftbalancer::testing {

inline std::vector<CommitUnit> add_layer(CommitUnitBuilder& builder, int moe_layer_id,
                                         std::span<const std::int32_t> before,
                                         std::span<const std::uint32_t> shares_before,
                                         std::span<const std::int32_t> after,
                                         std::span<const std::uint32_t> shares_after) {
  builder.begin_layer(moe_layer_id, before, shares_before, after, shares_after);
  while (!builder.advance()) {
  }
  std::vector<CommitUnit> units;
  while (auto unit = builder.next_unit()) units.push_back(std::move(*unit));
  return units;
}

}  // namespace swiftbalancer::testing
