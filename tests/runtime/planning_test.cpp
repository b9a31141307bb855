// What goes wrong where plans are made costs the load history and nothing else: it is told as an
// event, whatever is thrown and from whichever call, and planning goes on once it is begun anew.

#include <algorithm>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>

#include "runtime/guarded_planning.hpp"

namespace swiftbalancer {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Kind = PlanningEvent::Kind;

const ClusterShape kShape(
    {.num_moe_layers = 2, .num_logical_experts = 4, .num_ranks = 2, .num_slots = 6});
constexpr GenerationId kFirst{1, 9}, kSecond{1, 19};

enum class Call { kRestart, kCommitted, kRebalancing, kObserve, kOpen, kClose, kAdvance };

// Answers everything with the next advance(), and does before each call what it is told.
class ScriptedMaker final : public PlanMaker {
 public:
  using Hook = std::function<void(Call)>;
  explicit ScriptedMaker(Hook hook) : hook_(std::move(hook)) {}

  void restart(const ClusterShape&, const ServedState& served) override {
    if (abandoned_) ++restarts_;
    abandoned_ = false;
    hook_(Call::kRestart);
    row_.assign(served.placement.layer(0).begin(), served.placement.layer(0).end());
  }
  void on_committed(int, std::span<const std::int32_t> placement,
                    std::span<const std::uint32_t>) override {
    hook_(Call::kCommitted);
    row_.assign(placement.begin(), placement.end());
  }
  void on_rebalancing(bool) override { hook_(Call::kRebalancing); }
  void observe(std::uint64_t step, const ExpertLoad&, Phase, PlanAnswers&) override {
    hook_(Call::kObserve);
    observed_.push_back(step);
  }
  void open(const GenerationId&, PlanAnswers&) override {
    hook_(Call::kOpen);
    is_open_ = true;
  }
  void close() override {
    hook_(Call::kClose);
    is_open_ = false;
  }
  bool advance(PlanAnswers& answers) override {
    hook_(Call::kAdvance);
    for (const std::uint64_t step : std::exchange(observed_, {})) answers.observed(step, true);
    if (std::exchange(is_open_, false)) answers.planned({});
    return false;
  }
  void abandon(std::optional<std::chrono::milliseconds> pause) noexcept override {
    abandoned_ = true;
    is_open_ = false;
    observed_.clear();
    pause_ = pause;
  }
  bool running() const noexcept override { return !abandoned_; }
  int restarts() const noexcept override { return restarts_; }
  std::optional<std::chrono::milliseconds> pause() const noexcept { return pause_; }
  /// Placement of the layer that it was told of last.
  const std::vector<std::int32_t>& row() const noexcept { return row_; }

 private:
  const Hook hook_;
  std::vector<std::int32_t> row_;
  std::vector<std::uint64_t> observed_;
  bool is_open_ = false;
  bool abandoned_ = false;
  int restarts_ = 0;
  std::optional<std::chrono::milliseconds> pause_;
};

struct Guarded {
  explicit Guarded(ScriptedMaker::Hook hook, GuardOptions options = {.name = "planner"}) {
    auto made = std::make_unique<ScriptedMaker>(std::move(hook));
    maker = made.get();
    planning = make_guarded_planning(std::move(made), std::move(options));
  }
  Planning* operator->() const noexcept { return planning.get(); }

  void restart() const { planning->restart(kShape, ServedState::initial(kShape)); }
  void observe(std::uint64_t step) const { planning->observe(step, ExpertLoad(2, 4), {}); }
  std::vector<PlanningEvent> events() const {
    std::vector<PlanningEvent> all;
    while (auto event = planning->next_event()) all.push_back(std::move(*event));
    return all;
  }
  std::vector<Kind> kinds() const {
    std::vector<Kind> all;
    for (const PlanningEvent& event : events()) all.push_back(event.kind);
    return all;
  }

  ScriptedMaker* maker;
  std::unique_ptr<Planning> planning;
};

using Thrower = void (*)();
struct Thrown {
  const char* name;
  Thrower thrower;
  const char* said;
};
constexpr Thrown kThrown[] = {
    {"an error", [] { throw Error(ErrorCode::kInternal, "odd"); }, "planner failed: odd; "},
    {"no memory", [] { throw std::bad_alloc(); }, "planner failed: std::bad_alloc; "},
    {"a loss", [] { throw PlannerLost("was killed"); }, "planner was killed; "},
    {"no exception", [] { throw 42; }, "planner failed; "},
};

void everything_once(const Guarded& planning) {
  planning.restart();
  planning.observe(8);
  planning->on_rebalancing(false);
  planning->open(kFirst);
  const ServedState served = ServedState::initial(kShape);
  planning->on_committed(0, served.placement.layer(0), served.shares[0]);
  planning->advance();
  planning->close();
}

class AnyCall : public ::testing::TestWithParam<Call> {};

TEST_P(AnyCall, ThatThrowsOnceIsALostPlannerWhichPlansAgainOnceBegunAnew) {
  for (const Thrown& thrown : kThrown) {
    SCOPED_TRACE(thrown.name);
    bool threw = false;
    const Guarded planning([&](Call call) {
      if (call != GetParam() || std::exchange(threw, true)) return;
      thrown.thrower();
    });
    everything_once(planning);
    ASSERT_TRUE(threw);
    EXPECT_FALSE(planning->running());
    std::vector<PlanningEvent> events = planning.events();
    int losses = 0;
    for (const PlanningEvent& event : events) {
      losses += event.kind == Kind::kLost ? 1 : 0;
      if (event.kind != Kind::kLost) continue;
      EXPECT_THAT(event.why, AllOf(HasSubstr(thrown.said), HasSubstr("(1 of 5 times)")));
    }
    EXPECT_EQ(losses, 1);

    planning->open(kSecond);
    events = planning.events();
    ASSERT_EQ(events.size(), 1U);
    EXPECT_EQ(events[0].kind, Kind::kFailed);
    EXPECT_EQ(events[0].generation, kSecond);
    EXPECT_EQ(events[0].why, "") << "told once already";

    planning.restart();
    EXPECT_TRUE(planning->running());
    EXPECT_EQ(planning->restarts(), 1);
    planning.observe(18);
    planning->open(kSecond);
    planning->advance();
    EXPECT_THAT(planning.kinds(), ElementsAre(Kind::kObserved, Kind::kPlan));
  }
}

INSTANTIATE_TEST_SUITE_P(Calls, AnyCall,
                         ::testing::Values(Call::kRestart, Call::kCommitted, Call::kRebalancing,
                                           Call::kObserve, Call::kOpen, Call::kClose,
                                           Call::kAdvance));

TEST(GuardedPlanning, ALossEndsTheOpenGenerationAndCountsWhatWasNotAnswered) {
  bool lose = false;
  const Guarded planning([&](Call call) {
    if (call == Call::kAdvance && lose) throw PlannerLost("is gone");
  });
  planning.restart();
  planning.observe(7);
  planning->advance();
  planning.observe(8);
  planning->open(kFirst);
  lose = true;
  EXPECT_TRUE(planning->advance());
  const auto events = planning.events();
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].kind, Kind::kObserved);
  EXPECT_EQ(events[0].step, 7U);
  EXPECT_EQ(events[1].kind, Kind::kLost);
  EXPECT_EQ(events[2].kind, Kind::kFailed);
  EXPECT_EQ(events[2].generation, kFirst);
  EXPECT_EQ(planning->ignored(), 1U);
  planning.observe(9);
  EXPECT_EQ(planning->ignored(), 2U);
  EXPECT_THAT(planning.kinds(), IsEmpty());
}

TEST(GuardedPlanning, OneThatAlwaysThrowsIsOffForGoodAfterItsRestarts) {
  const Guarded planning(
      [](Call call) {
        if (call == Call::kObserve) throw Error(ErrorCode::kInternal, "odd");
      },
      {.name = "planner", .max_restarts = 2});
  for (const Kind expected : {Kind::kLost, Kind::kLost, Kind::kOff}) {
    planning.restart();
    planning.observe(1);
    const auto events = planning.events();
    ASSERT_EQ(events.size(), 1U);
    EXPECT_EQ(events[0].kind, expected);
    if (expected == Kind::kOff) {
      EXPECT_THAT(events[0].why, AllOf(HasSubstr("planner failed: odd; it was started again 2 "),
                                       HasSubstr("balancing is off")));
    }
  }
  EXPECT_FALSE(planning->running());
  EXPECT_EQ(planning.maker->pause(), std::nullopt);
  planning.restart();
  planning.observe(2);
  planning->open(kFirst);
  EXPECT_THAT(planning.kinds(), ElementsAre(Kind::kFailed));
  EXPECT_EQ(planning->restarts(), 2);
  EXPECT_EQ(planning->ignored(), 4U);
  EXPECT_FALSE(planning->running());
}

TEST(GuardedPlanning, PausesDoubleUpToTenSeconds) {
  const Guarded planning(
      [](Call) { throw PlannerLost("is gone"); },
      {.name = "planner", .max_restarts = 100, .first_pause = std::chrono::milliseconds(100)});
  std::vector<std::int64_t> pauses;
  for (int loss = 0; loss < 9; ++loss) {
    planning.restart();
    pauses.push_back(planning.maker->pause()->count());
  }
  EXPECT_THAT(pauses, ElementsAre(100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000));
}

// Nobody fetches events between them: what is told is what holds.
TEST(GuardedPlanning, LossesThatNobodyHasFetchedAreToldOnce) {
  const Guarded planning([](Call) { throw PlannerLost("is gone"); },
                         {.name = "planner", .max_restarts = 1});
  for (int loss = 0; loss < 2; ++loss) {
    planning->open(kFirst);
    planning.restart();
  }
  EXPECT_THAT(planning.kinds(), ElementsAre(Kind::kOff, Kind::kFailed));
}

// A reset on behalf of another rank came in between: this loss needs none of its own.
TEST(GuardedPlanning, ALossThatIsFetchedAfterTheNextBeginningIsMended) {
  bool throws = false;
  const Guarded planning([&](Call) {
    if (throws) throw PlannerLost("is gone");
  });
  planning.restart();
  throws = true;
  planning.observe(1);
  throws = false;
  planning.restart();
  const auto mended = planning->next_event();
  ASSERT_TRUE(mended.has_value());
  EXPECT_EQ(mended->kind, Kind::kLost);
  EXPECT_TRUE(mended->mended);
  throws = true;
  planning.observe(2);
  const auto lost = planning->next_event();
  ASSERT_TRUE(lost.has_value());
  EXPECT_FALSE(lost->mended);
}

// Policies know none: what plans come from is the same whoever makes them.
TEST(GuardedPlanning, EmptySlotsAreFilledWithExpertsThatTheirRankDoesNotHold) {
  const Guarded planning([](Call) {});
  ServedState served = ServedState::initial(kShape);
  std::ranges::copy(std::vector<std::int32_t>{0, 1, kEmptySlot, 2, 3, 0},
                    served.placement.layer(0).begin());
  planning->restart(kShape, served);
  EXPECT_THAT(planning.maker->row(), ElementsAre(0, 1, 2, 2, 3, 0));
  planning->on_committed(0, std::vector<std::int32_t>{0, 1, 3, 2, kEmptySlot, 3}, served.shares[0]);
  EXPECT_THAT(planning.maker->row(), ElementsAre(0, 1, 3, 2, 0, 3));
}

// ---- In the worker's thread ----

ExpertLoad skewed(std::uint64_t step) {
  ExpertLoad load(2, 4);
  for (int layer = 0; layer < 2; ++layer)
    load.layer(layer)[(step / 50 + static_cast<std::uint64_t>(layer)) % 4] = 6000;
  for (int layer = 0; layer < 2; ++layer) {
    for (std::int64_t& tokens : load.layer(layer)) tokens += 500;
  }
  return load;
}

// A planner that is told of single layers is the planner that is told of all of them.
TEST(PlannerCommits, LayerByLayerIsTheSameAsAllOfThem) {
  Planner whole(kShape, {}), by_layer(kShape, {});
  ServedState served = ServedState::initial(kShape);
  whole.on_served(served, false);
  by_layer.on_served(served, false);
  int moves = 0;
  for (std::uint64_t step = 1; step <= 300; ++step) {
    whole.observe(skewed(step));
    by_layer.observe(skewed(step));
    ASSERT_EQ(whole.wants_rebalance(), by_layer.wants_rebalance()) << "step " << step;
    if (step % 10 != 0 && !whole.wants_rebalance()) continue;
    const auto job = whole.begin_plan(step), other = by_layer.begin_plan(step);
    whole.on_served(served, true);
    by_layer.on_rebalancing(true);
    while (!job->advance()) ASSERT_FALSE(other->advance());
    ASSERT_TRUE(other->advance());
    const Plan plan = job->take(), same = other->take();
    ASSERT_EQ(plan.changes.size(), same.changes.size());
    for (std::size_t i = 0; i < plan.changes.size(); ++i) {
      const LayerChange& change = plan.changes[i];
      ASSERT_EQ(change.moe_layer_id, same.changes[i].moe_layer_id);
      ASSERT_EQ(change.plan.placement, same.changes[i].plan.placement);
      ASSERT_EQ(change.plan.shares, same.changes[i].plan.shares);
      std::ranges::copy(change.plan.placement, served.placement.layer(change.moe_layer_id).begin());
      served.shares[static_cast<std::size_t>(change.moe_layer_id)] = change.plan.shares;
      whole.on_served(served, true);
      by_layer.on_committed(change.moe_layer_id, change.plan.placement, change.plan.shares);
      ASSERT_EQ(whole.wants_rebalance(), by_layer.wants_rebalance());
    }
    moves += plan.moves;
    whole.on_served(served, false);
    by_layer.on_rebalancing(false);
    ASSERT_EQ(whole.wants_rebalance(), by_layer.wants_rebalance()) << "step " << step;
  }
  EXPECT_GT(moves, 0);
}

TEST(ThreadPlanning, RefusesAnUnknownPolicyAndANegativeLimit) {
  EXPECT_THAT([] { make_thread_planning({.policy = "best"}, 5); },
              ::testing::ThrowsMessage<Error>(HasSubstr("best")));
  EXPECT_THAT([] { make_thread_planning({}, -1); },
              ::testing::ThrowsMessage<Error>(HasSubstr("planner_restarts is -1; allowed")));
}

// A planner that cannot be made is as good as one that is lost.
TEST(ThreadPlanning, APlannerThatCannotBeMadeIsLostAndTheLastTimeOff) {
  const auto planning = make_thread_planning({.imbalance_trigger = 0.0}, 1);
  const ServedState served = ServedState::initial(kShape);
  for (const Kind expected : {Kind::kLost, Kind::kOff}) {
    planning->restart(kShape, served);
    const auto event = planning->next_event();
    ASSERT_TRUE(event);
    EXPECT_EQ(event->kind, expected);
    EXPECT_THAT(event->why, HasSubstr("planner failed: imbalance_trigger is 0"));
    EXPECT_FALSE(planning->next_event());
    EXPECT_FALSE(planning->running());
  }
  EXPECT_EQ(planning->restarts(), 1);
}

}  // namespace
}  // namespace swiftbalancer
