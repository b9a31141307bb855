// The planner's expected step time is what the timed device charges for the same tokens.

#include "planner/step_time.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include <swiftbalancer/load.hpp>

#include "engine/step_model.hpp"
#include "engine_timed/round_profile.hpp"

namespace swiftbalancer::engine {
namespace {

// One layer on the device: the longest way through it of all ranks.
double device_layer_ns(const ClusterShape& shape, const std::vector<std::int64_t>& load,
                       const std::vector<std::int32_t>& slots, int tokens, int context) {
  const auto num_ranks = static_cast<std::size_t>(shape.num_ranks());
  const std::vector<double> rank_tokens = rank_load(shape, slots, {}, load);
  std::int64_t longest = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    TimedDevice device(round_profile(), shape, rank, options_for(shape));
    const int own = tokens / shape.num_ranks();
    device.attention(own, std::int64_t{own} * context);
    std::vector<int> to;
    for (double other : rank_tokens) to.push_back(static_cast<int>(other) / shape.num_ranks());
    const std::vector<int> from(num_ranks, to[static_cast<std::size_t>(rank)]);
    device.dispatch(to, from);
    std::vector<std::uint32_t> per_slot;
    for (int slot = shape.first_slot(rank); slot < shape.first_slot(rank + 1); ++slot) {
      per_slot.push_back(static_cast<std::uint32_t>(
          load[static_cast<std::size_t>(slots[static_cast<std::size_t>(slot)])]));
    }
    device.experts(per_slot);
    device.combine(from, to);
    longest = std::max(longest, device.now_ns());
  }
  return static_cast<double>(longest);
}

class StepTime : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Nodes, StepTime, ::testing::Values(1, 2));

TEST_P(StepTime, OfALayerIsWhatTheTimedDeviceCharges) {
  const ClusterShape shape({.num_moe_layers = 1,
                            .num_logical_experts = 8,
                            .num_ranks = 4,
                            .num_slots = 8,
                            .num_nodes = GetParam()});
  const std::vector<std::int32_t> slots = {0, 1, 2, 3, 4, 5, 6, 7};
  for (const std::vector<std::int64_t>& load :
       {std::vector<std::int64_t>{40, 40, 40, 40, 40, 40, 40, 40},
        std::vector<std::int64_t>{120, 40, 40, 40, 20, 20, 20, 20}}) {
    StepModel model = step_model(round_profile());
    model.top_k = 4;
    model.tokens_per_step = 80;
    model.context_length = 10;
    const double expected =
        layer_seconds(model, {.shape = &shape, .load = load, .placement = slots}, slots, {});
    EXPECT_NEAR(expected * 1e9, device_layer_ns(shape, load, slots, 80, 10), 4.0);
  }
}

TEST(StepTime, OutsideLayersIsHeadAndTheAgreementOfRanks) {
  StepModel model = step_model(round_profile());
  model.tokens_per_step = 80;
  // 5 + max(20 * 300, 800), and 11 for the agreement
  EXPECT_NEAR(seconds_outside_layers(model, 4) * 1e9, 6016.0, 0.5);
  EXPECT_NEAR(seconds_outside_layers(model, 1) * 1e9, 24005.0, 0.5);
}

}  // namespace
}  // namespace swiftbalancer::engine
