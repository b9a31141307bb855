#include <memory>
#include <utility>

#include "planner/align.hpp"
#include "planner/eplb.hpp"
#include "planner/layer_problem.hpp"
#include "planner/registry.hpp"

namespace swiftbalancer {
namespace {

// The published placement made fit to serve: no wasted slot, and as close to what is served as
// renaming allows.
class EplbPolicy final : public Policy {
 public:
  std::string_view name() const noexcept override { return "eplb"; }
  PolicyCapabilities capabilities() const noexcept override {
    return {.moves = true,
            .incremental = false,
            .gated = false,
            .planned_shares = false,
            .hierarchical = true};
  }
  LayerPlan plan_layer(const LayerProblem& problem) const override {
    check_problem(problem);
    const ClusterShape& shape = *problem.shape;
    const bool keep_nodes = eplb_is_hierarchical(shape);
    std::vector<std::int32_t> slots = eplb_rebalance(shape, problem.load);
    repair_same_rank_duplicates(shape, problem.load, keep_nodes, slots);
    align_ranks(shape, problem.placement, keep_nodes, slots);
    align_slots(shape, problem.placement, slots);
    std::vector<std::uint32_t> shares = even_shares(slots, shape.num_logical_experts());
    return make_plan(problem, std::move(slots), std::move(shares), shape.num_slots());
  }
};

}  // namespace

std::unique_ptr<Policy> make_eplb_policy() { return std::make_unique<EplbPolicy>(); }

}  // namespace swiftbalancer
