// The agreement allocates nothing once it is made, whatever sets it uses: begin_step and end_step
// are built on it.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <new>
#include <vector>

#include "protocol/agreement.hpp"

namespace {
long num_allocations = 0;
}

// Not inlined: g++ takes an inlined malloc() and free() for a mismatch with delete and new.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++num_allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace swiftbalancer::testing {
namespace {

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
  const long before = num_allocations;
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
  EXPECT_EQ(num_allocations - before, 0);
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
  const long before = num_allocations;
  use();
  EXPECT_EQ(num_allocations - before, 0);
  EXPECT_EQ(decisions.size(), Agreement::max_decisions(kUnits));
}

}  // namespace
}  // namespace swiftbalancer::testing
