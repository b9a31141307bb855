// Every allocation of a planning fails once, in turn, and all from it on: nothing is thrown out of
// its calls, every generation is answered, and once memory is back and the planner begun anew, it
// plans. In the worker's thread, and on the engine's side of a planner process.

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "allocations.hpp"
#include "planner_process/processes.hpp"
#include "wait_limit.hpp"

namespace swiftbalancer {
namespace {

using testing::skewed_load;
using Kind = PlanningEvent::Kind;

const ClusterShape kShape = testing::shape_of(2, 8, 2, 10);
constexpr GenerationId kScarce{1, 4}, kPlenty{1, 14};

// Calls of a planning, each with as little memory as is left.
class Scarce {
 public:
  Scarce(std::int64_t allocations, bool for_good) {
    testing_support::allocations = {.watched = false, .left = allocations, .for_good = for_good};
  }
  ~Scarce() { testing_support::allocations = {}; }
  Scarce(const Scarce&) = delete;
  Scarce& operator=(const Scarce&) = delete;

  template <typename Call>
  auto operator()(const Call& call) const {
    struct Window {
      Window() { testing_support::allocations.watched = true; }
      ~Window() { testing_support::allocations.watched = false; }
    } const window;
    return call();
  }
  bool has_failed() const noexcept { return testing_support::allocations.has_failed; }
};

struct Subject {
  std::function<std::unique_ptr<Planning>()> make;
  std::function<void()> pass_time;  // until it may have been started again
};

// What was heard of a generation.
struct Heard {
  bool plan = false, failed = false;
  int moves = 0;
  void take(const PlanningEvent& event, const GenerationId& generation) {
    const bool own = event.generation == generation;
    plan |= event.kind == Kind::kPlan && own;
    failed |= event.kind == Kind::kFailed && own;
    if (event.kind == Kind::kPlan && own) moves = event.plan.moves;
  }
  bool answered() const noexcept { return plan || failed; }
};

template <typename Around>
Heard plan_once(Planning& planning, const GenerationId& generation, const Around& around,
                const std::function<void()>& pass_time) {
  static const ServedState served = ServedState::initial(kShape);
  static const std::vector<ExpertLoad> loads = {skewed_load(kShape, 0), skewed_load(kShape, 0),
                                                skewed_load(kShape, 0)};
  Heard heard;
  const auto fetch = [&] {
    while (const auto event = around([&] { return planning.next_event(); }))
      heard.take(*event, generation);
  };
  around([&] { planning.restart(kShape, served); });
  for (std::size_t i = 0; i < loads.size(); ++i)
    around([&] { planning.observe(generation.step - 3 + i, loads[i], Phase::kMixed); });
  around([&] { planning.open(generation); });
  around([&] { planning.on_rebalancing(true); });
  const auto end = std::chrono::steady_clock::now() + testing_support::kWaitLimit;
  while (!heard.answered() && std::chrono::steady_clock::now() < end) {
    if (!around([&] { return planning.advance(); })) pass_time();
    fetch();
  }
  around([&] { planning.on_committed(0, served.placement.layer(0), served.shares[0]); });
  around([&] { planning.close(); });
  around([&] { planning.on_rebalancing(false); });
  around([&] { planning.advance(); });
  fetch();
  return heard;
}

// @returns whether any allocation failed.
bool fail_allocation(const Subject& subject, std::int64_t allocation, bool for_good) {
  const auto planning = subject.make();
  const Scarce scarce(allocation, for_good);
  const Heard first = plan_once(*planning, kScarce, scarce, subject.pass_time);
  EXPECT_TRUE(first.answered()) << "a generation hangs open";
  const Heard again =
      plan_once(*planning, kPlenty, [](const auto& call) { return call(); }, subject.pass_time);
  EXPECT_TRUE(again.plan) << "memory is back, and nothing is planned";
  EXPECT_GT(again.moves, 0);
  EXPECT_TRUE(planning->running());
  return scarce.has_failed();
}

std::int64_t fail_each(const Subject& subject, bool for_good) {
  std::int64_t allocation = 0;
  while (fail_allocation(subject, allocation, for_good)) {
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "allocation " << allocation << (for_good ? " and all after it" : "");
      break;
    }
    ++allocation;
  }
  return allocation;
}

TEST(PlanningWithoutMemory, InTheWorkersThread) {
  const Subject thread{[] { return make_thread_planning({}, 5); }, [] {}};
  EXPECT_GT(fail_each(thread, false), 100);
  EXPECT_GT(fail_each(thread, true), 10);
}

TEST(PlanningWithoutMemory, OnTheEnginesSideOfAProcess) {
  std::chrono::steady_clock::time_point now{std::chrono::hours(1)};
  const Subject process{[&] {
                          ProcessPlanningOptions options{.program = testing::planner_program()};
                          options.deadline = std::chrono::hours(1'000'000);
                          options.clock = [&] { return now; };
                          return make_process_planning({}, std::move(options));
                        },
                        [&] {
                          now += std::chrono::milliseconds(10);
                          std::this_thread::yield();
                        }};
  EXPECT_GT(fail_each(process, false), 30);
  EXPECT_GT(fail_each(process, true), 10);
}

// A plan that could not be begun has taken nothing from the planner: the next one is as if it had
// never been asked for.
TEST(PlanningWithoutMemory, APlanThatCannotBeBegunChangesNothing) {
  const auto begun = [](Planner& planner) {
    auto job = planner.begin_plan(7);
    while (!job->advance()) {
    }
    return job->take();
  };
  Planner expected(kShape, {});
  expected.observe(skewed_load(kShape, 0));
  const Plan plan = begun(expected);
  ASSERT_GT(plan.moves, 0);
  int num_failed = 0;
  for (std::int64_t allocation = 0;; ++allocation) {
    Planner planner(kShape, {});
    planner.observe(skewed_load(kShape, 0));
    const bool wanted = planner.wants_rebalance();
    const Scarce scarce(allocation, false);
    try {
      scarce([&] { return planner.begin_plan(7); });
      if (!scarce.has_failed()) break;
      continue;  // It could do without.
    } catch (const std::bad_alloc&) {
      ++num_failed;
    }
    ASSERT_EQ(planner.wants_rebalance(), wanted);
    const Plan again = begun(planner);
    ASSERT_EQ(again.changes.size(), plan.changes.size()) << "allocation " << allocation;
    ASSERT_EQ(again.changes.front().plan.placement, plan.changes.front().plan.placement);
    ASSERT_EQ(again.changes.front().plan.shares, plan.changes.front().plan.shares);
  }
  EXPECT_GT(num_failed, 5);
}

}  // namespace
}  // namespace swiftbalancer
