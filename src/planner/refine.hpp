#pragma once
// Improves a packing of one layer from its hottest rank: exchanges of one slot or two first,
// replica counts where no exchange helps. Used by the full planner. Pure; budgets count steps.

#include "planner/packing.hpp"

namespace swiftbalancer {

struct RefineOptions {
  float target = 0.0F;  ///< Largest rank load to stop at.
  int max_steps = 256;
  bool change_replicas = true;
};

/// @param best [num_slots] scratch. @returns steps made. The packing ends as the best one met.
int refine(Packing& packing, const RefineOptions& options, std::span<std::int32_t> best);

}  // namespace swiftbalancer
