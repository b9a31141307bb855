#include <memory>
#include <numeric>
#include <utility>

#include "planner/layer_problem.hpp"
#include "planner/registry.hpp"

#include <swiftbalancer/placement.hpp>

namespace swiftbalancer {
namespace {

template <typename T>
void shuffle(std::vector<T>& values, Mixer& mixer) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[mixer.below(i)]);
}

std::vector<std::int32_t> random_placement(const ClusterShape& shape, Mixer& mixer) {
  const auto experts = static_cast<std::size_t>(shape.num_logical_experts());
  std::vector<std::int32_t> slots(static_cast<std::size_t>(shape.num_slots()), -1);
  // Each expert once, on slots drawn without replacement.
  std::vector<std::size_t> order(slots.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  shuffle(order, mixer);
  for (std::size_t expert = 0; expert < experts; ++expert)
    slots[order[expert]] = static_cast<std::int32_t>(expert);
  // The rest: an expert that the rank lacks, where one exists.
  std::vector<std::int32_t> lacking;
  for (std::size_t i = experts; i < order.size(); ++i) {
    const int rank = shape.rank_of_slot(static_cast<int>(order[i]));
    std::vector<bool> held(experts, false);
    for (int slot = shape.first_slot(rank); slot < shape.first_slot(rank + 1); ++slot) {
      const std::int32_t expert = slots[static_cast<std::size_t>(slot)];
      if (expert >= 0) held[static_cast<std::size_t>(expert)] = true;
    }
    lacking.clear();
    for (std::size_t expert = 0; expert < experts; ++expert) {
      if (!held[expert]) lacking.push_back(static_cast<std::int32_t>(expert));
    }
    slots[order[i]] = lacking.empty() ? static_cast<std::int32_t>(mixer.below(experts))
                                      : lacking[mixer.below(lacking.size())];
  }
  return slots;
}

std::vector<std::uint32_t> random_shares(const ClusterShape& shape,
                                         const std::vector<std::int32_t>& slots, Mixer& mixer) {
  std::vector<std::uint32_t> left(static_cast<std::size_t>(shape.num_logical_experts()),
                                  kShareUnit);
  std::vector<std::int32_t> replicas_left = replica_count(slots, shape.num_logical_experts());
  std::vector<std::uint32_t> shares(slots.size());
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    const auto expert = static_cast<std::size_t>(slots[slot]);
    shares[slot] = --replicas_left[expert] == 0
                       ? left[expert]
                       : static_cast<std::uint32_t>(mixer.below(left[expert] + 1));
    left[expert] -= shares[slot];
  }
  return shares;
}

// A random legal placement with random shares: what a test serves to show that outputs do not
// depend on placement.
class StressPolicy final : public Policy {
 public:
  std::string_view name() const noexcept override { return "stress"; }
  PolicyCapabilities capabilities() const noexcept override {
    return {.moves = true,
            .incremental = false,
            .gated = false,
            .planned_shares = true,
            .hierarchical = false};
  }
  LayerPlan plan_layer(const LayerProblem& problem) const override {
    check_problem(problem);
    Mixer mixer(problem.seed);
    std::vector<std::int32_t> slots = random_placement(*problem.shape, mixer);
    std::vector<std::uint32_t> shares = random_shares(*problem.shape, slots, mixer);
    return make_plan(problem, std::move(slots), std::move(shares), problem.shape->num_slots());
  }
};

}  // namespace

std::unique_ptr<Policy> make_stress_policy() { return std::make_unique<StressPolicy>(); }

}  // namespace swiftbalancer
