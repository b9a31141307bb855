#pragma once
// The transport tag of one expert copy. Both ends derive it from the plan; used by CopyExecutor
// alone.
//
//   bit 63      always 1: copies. Every other message of the worker leaves it 0.
//   bits 60-62  membership, low 3 bits      bits 36-59  step of the generation, low 24 bits
//   bits 16-35  unit                        bits 0-15   copy within the unit
//
// Two copies that a transport may know at the same time never share a tag: units and copies are
// checked against their bits, and a rank leaves one generation before it adopts the next.
// Generations wrap after 2^24 steps: a unit whose tags belong to a copy that has been left over for
// so long is not begun.

#include <cstdint>

#include <swiftbalancer/migration_plan.hpp>

#include "migration/copy_rules.hpp"

namespace swiftbalancer {

inline constexpr std::uint64_t kMaxUnits = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kMaxCopiesPerUnit = std::uint64_t{1} << 16;

inline std::uint64_t copy_tag(const GenerationId& of, std::uint32_t unit,
                              std::uint32_t copy) noexcept {
  const GenerationId generation = CopyRules{}.named(of);
  return std::uint64_t{1} << 63 | (std::uint64_t{generation.membership} & 0x7) << 60 |
         (generation.step & 0xFF'FFFF) << 36 | std::uint64_t{unit} << 16 | copy;
}

/// The part of a tag that all copies of a unit share.
constexpr std::uint64_t without_copy(std::uint64_t tag) noexcept { return tag / kMaxCopiesPerUnit; }

}  // namespace swiftbalancer
