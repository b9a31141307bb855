#include "planner/domain_memory.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "planner/load_estimator.hpp"
#include "planner/routing_traffic.hpp"
#include "planner/scenarios.hpp"
#include "planner/traffic.hpp"

namespace swiftbalancer {
namespace {

using testing::RecordedRouting;
using testing::RoutingTraffic;

ExpertLoad none() { return {RecordedRouting::kLayers, RecordedRouting::kExperts}; }

ExpertLoad sum_of_steps(RoutingTraffic& traffic, int steps) {
  ExpertLoad sum = none();
  for (int i = 0; i < steps; ++i) {
    const ExpertLoad load = traffic.next_step();
    for (int layer = 0; layer < RecordedRouting::kLayers; ++layer) {
      for (std::size_t expert = 0; expert < RecordedRouting::kExperts; ++expert)
        sum.layer(layer)[expert] += load.layer(layer)[expert];
    }
  }
  return sum;
}

ExpertLoad sample(const RecordedRouting& routing, int domain, int steps, unsigned seed) {
  RoutingTraffic traffic(routing, RoutingTraffic::kRequests, domain, seed);
  return sum_of_steps(traffic, steps);
}

DomainMemory memory_of(const RecordedRouting& routing, std::initializer_list<int> domains) {
  DomainMemory memory(RecordedRouting::kLayers, RecordedRouting::kExperts);
  for (const int domain : domains)
    memory.remember(sample(routing, domain, 100, static_cast<unsigned>(domain)), 1.3);
  return memory;
}

// Sum over layers and experts of |share - share of the truth|.
double error(const ExpertLoad& load, const ExpertLoad& truth) {
  double sum = 0.0;
  for (int layer = 0; layer < load.num_moe_layers(); ++layer) {
    double n = 0.0, m = 0.0;
    for (std::size_t e = 0; e < load.layer(layer).size(); ++e) {
      n += static_cast<double>(load.layer(layer)[e]);
      m += static_cast<double>(truth.layer(layer)[e]);
    }
    for (std::size_t e = 0; e < load.layer(layer).size(); ++e)
      sum += std::abs(static_cast<double>(load.layer(layer)[e]) / n -
                      static_cast<double>(truth.layer(layer)[e]) / m);
  }
  return sum;
}

TEST(DomainMemory, RecognisesADomainByItsFirstStepsAndKnowsItBetterThanTheyShow) {
  const RecordedRouting routing;
  const DomainMemory memory = memory_of(routing, {0, 1, 2, 3});
  ASSERT_EQ(memory.num_domains(), 4U);
  for (int domain = 0; domain < RecordedRouting::kDomains; ++domain) {
    SCOPED_TRACE(domain);
    const ExpertLoad first = sample(routing, domain, 2, 900 + static_cast<unsigned>(domain));
    const ExpertLoad truth = sample(routing, domain, 200, 500);
    const Expectation expectation = memory.expect(first, 1.3);
    EXPECT_TRUE(expectation.recognised);
    EXPECT_LT(error(estimate_load(first, 1.3, expectation).load, truth), 0.7 * error(first, truth));
  }
}

TEST(DomainMemory, DoesNotTakeADomainNeverSeenForAnother) {
  const RecordedRouting routing;
  const DomainMemory memory = memory_of(routing, {0, 1, 2});
  for (unsigned seed = 0; seed < 8; ++seed) {
    const ExpertLoad first = sample(routing, 3, 3, seed);
    EXPECT_FALSE(memory.expect(first, 1.3).recognised) << seed;
  }
}

TEST(DomainMemory, DrawsFewCountsOfANewDomainTowardsTheLongRun) {
  const RecordedRouting routing;
  const DomainMemory memory = memory_of(routing, {0, 1, 2});
  double raw = 0.0, drawn = 0.0;
  const ExpertLoad truth = sample(routing, 3, 200, 77);
  for (unsigned seed = 0; seed < 8; ++seed) {
    RoutingTraffic traffic(routing, 32, 3, seed);
    const ExpertLoad first = sum_of_steps(traffic, 2);
    raw += error(first, truth);
    drawn += error(estimate_load(first, 1.3, memory.expect(first, 1.3)).load, truth);
  }
  EXPECT_LT(drawn, 0.95 * raw);
}

TEST(DomainMemory, IsBoundedAndAddsToADomainItKnows) {
  const RecordedRouting routing;
  DomainMemory memory = memory_of(routing, {0, 0, 1, 0});
  EXPECT_EQ(memory.num_domains(), 2U);
  for (int domain = 0; domain < 20; ++domain) {
    ExpertLoad load = none();
    for (int layer = 0; layer < RecordedRouting::kLayers; ++layer) {
      for (std::size_t expert = 0; expert < RecordedRouting::kExperts; ++expert)
        load.layer(layer)[expert] = expert % 21 == static_cast<std::size_t>(domain) ? 9000 : 300;
    }
    memory.remember(load, 1.0);
  }
  EXPECT_EQ(memory.num_domains(), DomainMemory::kMostDomains);
}

TEST(Traffic, ADomainSeenBeforeIsAnsweredOnLessEvidence) {
  const RecordedRouting routing;
  Traffic traffic(RecordedRouting::shape(), 8192);
  RoutingTraffic requests(routing, RoutingTraffic::kRequests, 0, 3);
  const auto steps_until_evidence = [&](int domain) {
    requests.switch_to(domain);
    const int changes = traffic.history().num_changes();
    for (int steps = 1; steps < 100; ++steps) {
      traffic.add(requests.next_step());
      if (traffic.history().num_changes() > changes && traffic.has_new_evidence()) {
        traffic.note_look();
        for (int i = 0; i < 60; ++i) traffic.add(requests.next_step());
        return steps;
      }
    }
    return 100;
  };
  for (int i = 0; i < 60; ++i) traffic.add(requests.next_step());
  const int unknown = steps_until_evidence(2);
  const int known = steps_until_evidence(0);
  EXPECT_LT(unknown, 100);
  EXPECT_LT(known, unknown);
  EXPECT_EQ(steps_until_evidence(2), known);
}

TEST(Scenarios, BinsThatTakeTurnsAreTwoAndBinsOfOneKindNone) {
  const RecordedRouting routing;
  std::vector<ExpertLoad> alternating, alike;
  for (unsigned bin = 0; bin < 12; ++bin) {
    alternating.push_back(sample(routing, bin % 3 == 0 ? 1 : 2, 4, bin));
    alike.push_back(sample(routing, 1, 4, bin));
  }
  const auto views = [](const std::vector<ExpertLoad>& bins) {
    std::vector<const ExpertLoad*> result;
    for (const ExpertLoad& bin : bins) result.push_back(&bin);
    return result;
  };
  EXPECT_TRUE(scenarios_of(views(alike), 1.3).empty());
  const std::vector<Scenario> scenarios = scenarios_of(views(alternating), 1.3);
  ASSERT_EQ(scenarios.size(), 2U);
  EXPECT_EQ(std::min(scenarios[0].weight, scenarios[1].weight), 4.0);
  EXPECT_EQ(std::max(scenarios[0].weight, scenarios[1].weight), 8.0);
}

}  // namespace
}  // namespace swiftbalancer
