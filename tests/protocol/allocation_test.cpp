// The agreement allocates nothing once it is made, whatever sets it uses: begin_step and end_step
// are built on it.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

#include "allocations.hpp"
#include "protocol/agreement.hpp"

namespace swiftbalancer::testing {
namespace {

using testing_support::allocations;

constexpr std::size_t kUnits = 522;

class AgreementMemory : public ::testing::Test {
 protected:
  static AgreementConfig config() {
    AgreementConfig config;
    config.num_moe_layers = 3;
    config.packet_lag = 1;
    config.rebalance_interval = 1;
    config.max_active_sets = 5;
    config.max_units = kUnits;
    return config;
  }
  AgreementMemory() : agreement(config(), {.step = 10'000'000'000}) {
    decisions.reserve(Agreement::max_decisions(kUnits));
    for (MigrationPlan* plan : {&first, &second}) {
      plan->units.resize(kUnits);
      for (std::size_t unit = 0; unit < kUnits; ++unit)
        plan->units[unit].moe_layer_id = static_cast<int>(unit % 3);
    }
    second.hash = 9;
    first.hash = 7;
  }
  // One set of one rank.
  void use() {
    PacketHeader packet;
    agreement.fill_packet(agreement.next_set(), packet);
    ASSERT_TRUE(agreement.use_set(agreement.next_set(), {&packet, 1}, decisions).ok());
  }
  void open() {
    while (!agreement.open_generation()) use();
  }
  void hold(MigrationPlan& plan) {
    open();
    plan.generation = agreement.open_generation();
    agreement.plan_ready(plan);
    while (agreement.active_plan() != &plan && agreement.open_generation()) use();
  }

  Agreement agreement;
  std::vector<BalancerEvent> decisions;
  MigrationPlan first, second;
};

TEST_F(AgreementMemory, IsTakenOnceForTheLargestPlans) {
  const std::uint64_t before = allocations.made;
  for (int round = 0; round < 3; ++round) {
    hold(first);
    agreement.staged(first.generation, kUnits / 2);
    use();  // commits
    agreement.set_wants_rebalance(true);
    hold(second);  // supersedes
    EXPECT_EQ(agreement.active_plan(), &second);
    agreement.set_wants_rebalance(false);
    agreement.unit_failed(second.generation, 0);
    use();                                             // aborts
    while (agreement.active_plan() != nullptr) use();  // too old
    open();
    agreement.plan_failed(agreement.open_generation());
    use();  // closes
    agreement.planner_lost();
    agreement.ask_mode(BalancingMode::kOn);
    open();
    use();  // resets
  }
  hold(first);
  agreement.staged(first.generation, kUnits);
  PacketHeader promised;
  agreement.fill_packet(agreement.next_set(), promised);
  std::array<std::uint64_t, 3> target{};
  std::ranges::copy(agreement.epochs(), target.begin());
  for (std::uint64_t& epoch : target) epoch += kUnits / 3 / 2;
  ASSERT_TRUE(agreement.roll_forward(target, decisions).ok());
  EXPECT_EQ(allocations.made - before, 0U);
}

// All units of the plan before and of the new one fall in one set: the most that there can be.
TEST_F(AgreementMemory, DecisionsOfOneSetFitTheirBound) {
  hold(first);
  agreement.set_wants_rebalance(true);
  open();
  // All layers change after the base is fixed, in the set that adopts.
  second.generation = agreement.open_generation();
  agreement.plan_ready(second);
  agreement.staged(first.generation, 3);
  agreement.planner_lost();
  const std::uint64_t before = allocations.made;
  use();
  EXPECT_EQ(allocations.made - before, 0U);
  EXPECT_EQ(decisions.size(), Agreement::max_decisions(kUnits));
}

}  // namespace
}  // namespace swiftbalancer::testing
