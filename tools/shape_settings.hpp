#pragma once
// The settings that say what a placement is for: ranks, slots, nodes, expert groups, model. `plan`
// makes a shape from them; where `plan` and `compare` read placements, they add what the file does
// not say. Main thread.

#include <swiftbalancer/shape.hpp>

#include "formats/facts.hpp"
#include "settings.hpp"

namespace swiftbalancer::tool {

class ShapeSettings {
 public:
  void declare(Settings& settings);
  /// Without nodes and expert groups, which do not matter to `compare`.
  void declare_slots(Settings& settings);
  /// @param num_logical_experts 0: not known.
  formats::PlacementFacts facts(const Settings& settings, int num_logical_experts) const;
  /// The shape that the settings alone say. @throws Error kInvalidArgument: ranks missing, lists
  /// and counts that contradict each other.
  ShapeOptions shape(const Settings& settings, int num_moe_layers, int num_logical_experts) const;

 private:
  formats::PlacementFacts facts_;
};

}  // namespace swiftbalancer::tool
