#pragma once
// Orders the copies of one layer that is larger than the staging pool into commit units, one unit
// at a time. Pure; used by CommitUnitBuilder.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// Splits copies into as few units as a greedy order finds: at most `capacity` arrivals per rank
/// and unit, and a slot is read before, or in the same unit as, it is overwritten. Every expert is
/// then live after every unit: a holder that is overwritten was read no later by the copy that
/// keeps its expert, and no destination is written twice. Copies that read each other's
/// destinations in a cycle share a unit; a cycle too large for that is broken by reading another
/// holder where one exists.
class UnitSplit {
 public:
  /// @param copies one per destination slot, sources in `before`, which holds every expert. @param
  /// before [num_slots].
  UnitSplit(std::vector<ExpertCopy> copies, std::span<const std::int32_t> before,
            const ClusterShape& shape, int capacity);
  ~UnitSplit();

  /// False when a cycle neither fits nor can be broken: then there are no units.
  bool is_possible() const noexcept;
  /// Fills one unit. Cost: the copies that are left. @returns true when none is left.
  bool advance();
  /// The units, copies by destination slot. After advance() returned true.
  std::vector<std::vector<ExpertCopy>> take();

 private:
  class Search;
  std::unique_ptr<Search> search_;
  bool is_possible_;
};

}  // namespace swiftbalancer
