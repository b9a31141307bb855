#include "planner/planner.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <utility>

#include <swiftbalancer/error.hpp>

#include "generated_loads.hpp"
#include "planner/routing_traffic.hpp"
#include "planner/service.hpp"

namespace swiftbalancer {
namespace {

using testing::RecordedRouting;
using testing::RoutingTraffic;
using testing::Service;

constexpr int kStepsPerWindow = 4;  // 256 requests, top-4: 1,024 assignments per layer and step

ClusterShape shape_of(int num_ranks, int num_slots) {
  return ClusterShape({.num_moe_layers = RecordedRouting::kLayers,
                       .num_logical_experts = RecordedRouting::kExperts,
                       .num_ranks = num_ranks,
                       .num_slots = num_slots});
}

void serve_windows(Service& service, RoutingTraffic& traffic, int windows) {
  for (int step = 0; step < windows * kStepsPerWindow; ++step) service.step(traffic.next_step());
}

struct Ranks {
  int num_ranks, num_slots;
};
class PlannerOnRanks : public ::testing::TestWithParam<Ranks> {
 protected:
  ClusterShape shape() const { return shape_of(GetParam().num_ranks, GetParam().num_slots); }
};
INSTANTIATE_TEST_SUITE_P(Shapes, PlannerOnRanks,
                         ::testing::Values(Ranks{3, 72}, Ranks{8, 80}, Ranks{16, 96}),
                         [](const auto& test) {
                           return std::to_string(test.param.num_ranks) + "Ranks";
                         });

TEST_P(PlannerOnRanks, MovesNothingInOneDomainAfterItsFirstPlanAndItsCorrections) {
  const RecordedRouting routing;
  int all = 0;  // Of one domain alone shares may do on few ranks.
  for (unsigned seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    Service service(shape(), {});
    RoutingTraffic traffic(routing, RoutingTraffic::kRequests,
                           static_cast<int>(seed) % RecordedRouting::kDomains, 1000 + seed);
    serve_windows(service, traffic, 5);
    const int first = service.moves();
    all += first;
    serve_windows(service, traffic, 100);
    EXPECT_EQ(service.moves(), first);
  }
  EXPECT_GT(all, 0);
}

TEST_P(PlannerOnRanks, RespondsToASwitchWithinTwoWindows) {
  const RecordedRouting routing;
  for (unsigned seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    const int from = static_cast<int>(seed) % RecordedRouting::kDomains;
    const int to =
        (from + 1 + static_cast<int>(seed) / RecordedRouting::kDomains) % RecordedRouting::kDomains;
    Service service(shape(), {});
    RoutingTraffic traffic(routing, RoutingTraffic::kRequests, from, seed);
    serve_windows(service, traffic, 10 + static_cast<int>(seed));
    const int before = service.moves();
    traffic.switch_to(to);
    serve_windows(service, traffic, 2);
    EXPECT_GT(service.moves(), before);
  }
}

// The promise as a whole: nearly the balance of replanning everything every window, for a few of
// its moves.
TEST_P(PlannerOnRanks, KeepsUpWithEplbEveryWindowAtASmallPartOfItsMoves) {
  const RecordedRouting routing;
  Service none(shape(), {.policy = "static"}), swift(shape(), {}),
      eplb(shape(), {.policy = "eplb"});
  double sum_none = 0.0, sum_swift = 0.0, sum_eplb = 0.0;
  int windows = 0;
  RoutingTraffic traffic(routing, RoutingTraffic::kRequests, 0, 42);
  for (int domain : {0, 2, 1, 3, 0}) {
    traffic.switch_to(domain);
    for (int window = 0; window < 12; ++window) {
      for (int step = 0; step < kStepsPerWindow; ++step) {
        const ExpertLoad load = traffic.next_step();
        for (Service* service : {&none, &swift, &eplb}) service->step(load);
      }
      eplb.commit(eplb.plan());
      const double now_none = none.window_imbalance(), now_swift = swift.window_imbalance(),
                   now_eplb = eplb.window_imbalance();
      if (window < 1)
        continue;  // the response may take up to two windows; measured from the second
      sum_none += now_none, sum_swift += now_swift, sum_eplb += now_eplb;
      ++windows;
    }
  }
  EXPECT_EQ(none.moves(), 0);
  EXPECT_LT((sum_swift - windows), 0.5 * (sum_none - windows));
  EXPECT_LT(sum_swift / windows, sum_eplb / windows + 0.02);
  EXPECT_LT(3 * swift.moves(), eplb.moves());
}

// Where a step holds several windows, the first plan is made on few steps. More data corrects it,
// by moves too; one correction alone leaves 0.8 of its excess. After some doublings it is left
// alone.
TEST(Planner, CorrectsItsPlanOfADomainThatItComesToKnowWellAndThenRests) {
  constexpr double kTokens = 32768;
  constexpr int kExperts = 256, kCorrecting = 400;
  const ClusterShape shape(
      {.num_moe_layers = 4, .num_logical_experts = kExperts, .num_ranks = 32, .num_slots = 320});
  double excess_at_first = 0.0, excess = 0.0;
  int corrections = 0;
  for (unsigned seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    const auto domain = testing::generated_distribution(shape.num_moe_layers(), kExperts,
                                                        testing::Skew::kLognormal, seed);
    const ExpertLoad truth = testing::sampled(domain, 1e8, seed);
    Service service(shape, {});
    unsigned step = 10000 * seed;
    const auto serve = [&](int steps) {
      for (int i = 0; i < steps; ++i) service.step(testing::sampled(domain, kTokens, ++step));
    };
    const auto true_excess = [&] {
      return aggregate_imbalance(imbalance_per_layer(shape, service.served(), truth))
                 .mean_over_layers -
             1.0;
    };
    serve(Service::kInterval - 1);
    excess_at_first += true_excess();
    const int first = service.moves();
    serve(kCorrecting);
    excess += true_excess();
    const int all = service.moves();
    corrections += all - first;
    serve(600);
    EXPECT_EQ(service.moves(), all);
  }
  EXPECT_GT(corrections, 0);
  EXPECT_LT(excess, 0.6 * excess_at_first);
}

TEST(Planner, OneRankNeverMoves) {
  const RecordedRouting routing;
  Service service(shape_of(1, 64), {});
  RoutingTraffic traffic(routing, RoutingTraffic::kRequests, 0, 1);
  serve_windows(service, traffic, 6);
  traffic.switch_to(2);
  serve_windows(service, traffic, 6);
  EXPECT_EQ(service.moves(), 0);
}

TEST(Planner, EvenTrafficMovesNothing) {
  Service service(shape_of(8, 80), {});
  std::mt19937 random(9);
  for (int step = 0; step < 400; ++step) {
    ExpertLoad load(RecordedRouting::kLayers, RecordedRouting::kExperts);
    for (int layer = 0; layer < RecordedRouting::kLayers; ++layer) {
      for (int i = 0; i < 1024; ++i) ++load.layer(layer)[random() % RecordedRouting::kExperts];
    }
    service.step(load);
  }
  EXPECT_EQ(service.moves(), 0);
}

TEST(Planner, WantsNothingBeforeAWindowAndPlansNothingWithoutLoad) {
  const RecordedRouting routing;
  Service service(shape_of(8, 80), {});
  EXPECT_TRUE(service.plan().changes.empty());
  RoutingTraffic traffic(routing, RoutingTraffic::kRequests, 0, 1);
  for (int step = 0; step < kStepsPerWindow - 1; ++step) {
    service.planner().observe(traffic.next_step());
    EXPECT_FALSE(service.planner().wants_rebalance());
    EXPECT_TRUE(service.plan().changes.empty());
  }
  service.planner().observe(traffic.next_step());
  EXPECT_TRUE(service.planner().wants_rebalance());
}

TEST(Planner, DoesNotAskWhileRebalancingNorTwiceOnTheSameEvidence) {
  const RecordedRouting routing;
  Service service(shape_of(8, 80), {});
  RoutingTraffic traffic(routing, RoutingTraffic::kRequests, 0, 1);
  for (int step = 0; step < kStepsPerWindow; ++step) service.planner().observe(traffic.next_step());
  service.planner().on_served(service.served(), true);
  EXPECT_FALSE(service.planner().wants_rebalance());
  service.planner().on_served(service.served(), false);
  EXPECT_TRUE(service.planner().wants_rebalance());
  EXPECT_FALSE(service.plan().changes.empty());
  // The plan was dropped, not served: the next request waits for twice the data.
  for (int step = 0; step < kStepsPerWindow - 1; ++step) {
    service.planner().observe(traffic.next_step());
    EXPECT_FALSE(service.planner().wants_rebalance());
  }
  service.planner().observe(traffic.next_step());
  EXPECT_TRUE(service.planner().wants_rebalance());
}

ExpertLoad in_every_layer(int num_moe_layers, const std::vector<std::int64_t>& counts) {
  ExpertLoad load(num_moe_layers, static_cast<int>(counts.size()));
  for (int layer = 0; layer < num_moe_layers; ++layer)
    std::ranges::copy(counts, load.layer(layer).begin());
  return load;
}

// Experts 0 and 1 are hot in prefill, 2 and 3 in decode: beside each other on a rank they are 1.6
// times its mean load in every step, though the sum of both phases is even.
TEST(Planner, KeepsPhasesApartAndBalancesEach) {
  const ClusterShape shape(
      {.num_moe_layers = 2, .num_logical_experts = 4, .num_ranks = 2, .num_slots = 4});
  const ExpertLoad prefill = in_every_layer(2, {400, 400, 100, 100});
  const ExpertLoad decode = in_every_layer(2, {100, 100, 400, 400});
  const ExpertLoad both = in_every_layer(2, {500, 500, 500, 500});
  const auto imbalance_of = [&](const ServedState& served, const ExpertLoad& load) {
    return aggregate_imbalance(imbalance_per_layer(shape, served, load)).worst_layer;
  };
  Service apart(shape, {}), together(shape, {});
  ASSERT_NEAR(imbalance_of(apart.served(), prefill), 1.6, 1e-9);
  for (int step = 0; step < 8; ++step) {
    apart.step(prefill, Phase::kPrefill);
    apart.step(decode, Phase::kDecode);
    together.step(both);
  }
  EXPECT_EQ(together.moves(), 0) << "the sum alone shows nothing to do";
  EXPECT_EQ(apart.moves(), 2 * 2) << "per layer, one expert each way";
  EXPECT_NEAR(imbalance_of(apart.served(), prefill), 1.0, 1e-9);
  EXPECT_NEAR(imbalance_of(apart.served(), decode), 1.0, 1e-9);
}

// A phase that hardly has tokens is not worth moves that the other one would pay for.
TEST(Planner, PlansForThePhaseThatHasTheTokens) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 4, .num_ranks = 2, .num_slots = 4});
  const ExpertLoad prefill = in_every_layer(1, {5000, 5000, 5000, 5000});
  const ExpertLoad decode = in_every_layer(1, {4, 4, 1, 1});
  Service service(shape, {});
  for (int step = 0; step < 2000; ++step) {
    service.step(prefill, Phase::kPrefill);
    service.step(decode, Phase::kDecode);
  }
  EXPECT_EQ(service.moves(), 0);
}

TEST(Planner, APlanBelowTheGainThatPaysIsEmpty) {
  const RecordedRouting routing;
  Service service(shape_of(8, 80), {.min_gain = 5.0});
  RoutingTraffic traffic(routing, RoutingTraffic::kRequests, 0, 1);
  serve_windows(service, traffic, 3);
  EXPECT_EQ(service.moves(), 0);
}

TEST(Planner, StressChangesEveryLayerDifferentlyAtEveryOpportunity) {
  const RecordedRouting routing;
  const ClusterShape shape = shape_of(8, 80);
  Service service(shape, {.policy = "stress"});
  RoutingTraffic traffic(routing, RoutingTraffic::kRequests, 0, 1);
  service.planner().observe(traffic.next_step());
  for (int i = 0; i < 3; ++i) {
    service.planner().observe(traffic.next_step());
    const auto job = service.planner().begin_plan(static_cast<std::uint64_t>(i));
    while (!job->advance()) continue;
    const Plan plan = job->take();
    ASSERT_EQ(plan.changes.size(), static_cast<std::size_t>(RecordedRouting::kLayers));
    EXPECT_NE(plan.changes[0].plan.placement, plan.changes[1].plan.placement);
    service.commit(plan);
  }
}

TEST(Planner, CommitsTheMostGainPerMoveFirstAndReportsAllLayers) {
  const RecordedRouting routing;
  Service service(shape_of(8, 80), {});
  RoutingTraffic traffic(routing, RoutingTraffic::kRequests, 2, 5);
  for (int step = 0; step < kStepsPerWindow; ++step) service.planner().observe(traffic.next_step());
  const Plan plan = service.plan();
  ASSERT_GT(plan.changes.size(), 1U);
  double last = std::numeric_limits<double>::infinity();
  int moves = 0;
  for (const LayerChange& change : plan.changes) {
    moves += change.plan.moves;
    if (change.plan.moves == 0) continue;
    const double ratio =
        (change.plan.imbalance_before - change.plan.imbalance_after) / change.plan.moves;
    EXPECT_LE(ratio, last);
    last = ratio;
  }
  EXPECT_EQ(plan.moves, moves);
  EXPECT_LT(plan.imbalance_after.mean_over_layers, plan.imbalance_before.mean_over_layers);
  EXPECT_LE(plan.imbalance_after.mean_over_layers, plan.imbalance_after.worst_layer);
}

TEST(Planner, TheSameCallsGiveTheSamePlans) {
  const RecordedRouting routing;
  const auto run = [&](const std::string& policy) {
    Service service(shape_of(8, 80), {.policy = policy});
    RoutingTraffic traffic(routing, RoutingTraffic::kRequests, 0, 3);
    serve_windows(service, traffic, 5);
    traffic.switch_to(1);
    serve_windows(service, traffic, 20);
    return service.served();
  };
  for (const std::string policy : {"swift", "eplb", "stress"}) {
    const ServedState a = run(policy), b = run(policy);
    EXPECT_EQ(a.placement, b.placement) << policy;
    EXPECT_EQ(a.shares, b.shares) << policy;
  }
}

std::string refusal(const ClusterShape& shape, const PlannerConfig& config) {
  try {
    Planner planner(shape, config);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(Planner, RefusesValuesThatMakeNoSenseAndSaysWhatIsAllowed) {
  const ClusterShape shape = shape_of(8, 80);
  EXPECT_EQ(refusal(shape, {.policy = "fast"}),
            "unknown policy 'fast'; the policies are: eplb, static, stress, swift");
  EXPECT_EQ(refusal(shape, {.imbalance_trigger = 0.5}),
            "imbalance_trigger is 0.500000; it must be at least 1 (max / mean rank load)");
  EXPECT_EQ(refusal(shape, {.min_gain = -1.0}), "min_gain is -1.000000; it must be at least 0");
  EXPECT_EQ(refusal(shape, {.window_assignments = 0}),
            "window_assignments is 0; it must be at least 1");
  Planner planner(shape, {});
  EXPECT_THROW(planner.observe(ExpertLoad(4, 63)), Error);
}

}  // namespace
}  // namespace swiftbalancer
