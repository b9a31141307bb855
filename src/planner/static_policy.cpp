#include <memory>

#include "planner/layer_problem.hpp"
#include "planner/registry.hpp"

namespace swiftbalancer {
namespace {

class StaticPolicy final : public Policy {
 public:
  std::string_view name() const noexcept override { return "static"; }
  PolicyCapabilities capabilities() const noexcept override {
    // It keeps the shares that it finds, whatever they are.
    return {.moves = false,
            .incremental = true,
            .gated = true,
            .planned_shares = true,
            .hierarchical = false};
  }
  LayerPlan plan_layer(const LayerProblem& problem) const override {
    check_problem(problem);
    return unchanged_plan(problem);
  }
};

}  // namespace

std::unique_ptr<Policy> make_static_policy() { return std::make_unique<StaticPolicy>(); }

}  // namespace swiftbalancer
