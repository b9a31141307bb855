// What a configuration may hold; how ranks that were started differently are told apart; and which
// shape is left of a cluster.

#include "runtime/config.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/membership_messages.hpp"
#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using ::testing::HasSubstr;
using testing::Not;
using testing_support::make_shape;

using Change = std::function<void(BalancerConfig&)>;

ConfigText text_with(const Change& change) {
  BalancerConfig config;
  change(config);
  const std::vector<std::vector<std::size_t>> part_bytes = {{8}};
  return config_text(config, make_shape(1, 4, 2, 6), nullptr, part_bytes);
}

ConfigText text_of(const std::string& checkpoint) {
  return text_with([&](BalancerConfig& config) { config.checkpoint = checkpoint; });
}

std::string refusal_of(const Change& change) {
  BalancerConfig config;
  change(config);
  try {
    validate(config, make_shape(1, 4, 2, 6));
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Configuration, WhatNobodyCanMeanIsRefusedByNameAndValue) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  const struct {
    const char* said;
    Change change;
  } cases[] = {
      {"imbalance_trigger is inf", [](auto& c) { c.imbalance_trigger = kInfinity; }},
      {"imbalance_trigger is nan", [](auto& c) { c.imbalance_trigger = std::nan(""); }},
      {"min_gain is inf", [](auto& c) { c.min_gain = kInfinity; }},
      {"min_gain is nan", [](auto& c) { c.min_gain = std::nan(""); }},
      {"packet_interval is 1000001; allowed: 1 to 1000000 steps",
       [](auto& c) { c.packet_interval = 1'000'001; }},
      {"packet_lag is 1001; allowed: 1 to 1000 steps", [](auto& c) { c.packet_lag = 1001; }},
      {"max_open_sets is 18446744073709551615; allowed: 1 to 9223372036854775807 packet sets",
       [](auto& c) {
         c.max_open_sets = kMost;
         c.packet_interval = 2;
       }},
      {"max_open_sets is 4; allowed: 5 to 18446744073709551615 packet sets",
       [](auto& c) {
         c.max_open_sets = 4;
         c.packet_lag = 5;
       }},
      {"max_open_sets is 1; allowed: 2 to 6148914691236517205 packet sets",
       [](auto& c) {
         c.max_open_sets = 1;
         c.packet_lag = 4;
         c.packet_interval = 3;
       }},
      {"window_assignments is 9223372036854775807; allowed: at least 1, at most",
       [](auto& c) { c.window_assignments = std::numeric_limits<std::int64_t>::max(); }},
      {"deadline is 9223372036854775807 ms", [](auto& c) { c.deadline = milliseconds::max(); }},
      {"planner_deadline is 9223372036854775807 ms",
       [](auto& c) { c.planner_deadline = milliseconds::max(); }},
  };
  for (const auto& each : cases) EXPECT_THAT(refusal_of(each.change), HasSubstr(each.said));
}

TEST(Configuration, WhatMeansNeverOrAYearIsAccepted) {
  EXPECT_EQ(refusal_of([](auto& c) {
              c.rebalance_interval = std::numeric_limits<std::uint64_t>::max();
              c.max_open_sets = std::numeric_limits<std::uint64_t>::max();
              c.deadline = c.planner_deadline = std::chrono::hours(24 * 365);
              c.min_gain = 1e9;
            }),
            "accepted");
}

TEST(ConfigurationText, FindsADifferenceAtTheEndOfALongName) {
  const std::string name(10 * 1024, 'x');
  const std::string difference = first_difference(text_of(name + "1"), text_of(name + "2"));
  EXPECT_THAT(difference, AllOf(HasSubstr("checkpoint xxx"), HasSubstr("10241 characters")));
  EXPECT_EQ(first_difference(text_of(name + "1"), text_of(name + "1")), "");
  EXPECT_LT(difference.size(), 1000U) << "one line of a log";
}

TEST(ConfigurationText, ALongValuePushesNothingOut) {
  const std::string name(10 * 1024, 'x');
  const auto with_lag = [&](std::uint64_t lag) {
    return text_with([&](BalancerConfig& config) {
      config.policy = config.checkpoint = name;
      config.packet_lag = lag;
    });
  };
  EXPECT_EQ(first_difference(with_lag(2), with_lag(3)),
            "\"packet_lag 2\" on the one, \"packet_lag 3\" on the other");
}

TEST(ConfigurationText, ANameWithNewlinesStaysOnItsLine) {
  EXPECT_EQ(first_difference(text_of("one"), text_of("one\nmin_gain 7\r\t\\")),
            "\"checkpoint one\" on the one, "
            "\"checkpoint one\\x0amin_gain 7\\x0d\\x09\\x5c\" on the other");
  const auto lines = [](const ConfigText& text) {
    return std::ranges::count(std::string(text.text), '\n');
  };
  EXPECT_EQ(lines(text_of("one")), lines(text_of("one\n\ntwo")));
  EXPECT_NE(first_difference(text_of("a\nb"), text_of("a\\x0ab")), "") << "escapes are escaped";
  EXPECT_NE(first_difference(text_of(std::string("a\0b", 3)), text_of(std::string("a\0c", 3))), "");
}

TEST(ConfigurationText, ManyEscapesAreBoundedToo) {
  const std::string name(3000, '\n');
  EXPECT_THAT(first_difference(text_of(name), text_of(name + "\n")),
              AllOf(HasSubstr("3000 characters"), HasSubstr("3001 characters")));
}

// As on a cluster whose ranks alternate between its nodes.
std::vector<int> nodes_left(const std::vector<int>& node_of_rank, const std::vector<int>& ranks) {
  ShapeOptions options;
  options.num_moe_layers = 1;
  options.num_logical_experts = 2;
  options.num_ranks = static_cast<int>(node_of_rank.size());
  options.num_slots = 2 * options.num_ranks;
  options.node_of_rank = node_of_rank;
  const ClusterShape left = shape_of_ranks(ClusterShape(options), ranks);
  std::vector<int> nodes;
  for (int rank = 0; rank < left.num_ranks(); ++rank) nodes.push_back(left.node_of_rank(rank));
  EXPECT_EQ(left.num_nodes(), std::ranges::max(nodes) + 1);
  return nodes;
}

TEST(ShapeOfRanks, RanksThatShareANodeStillDo) {
  using Nodes = std::vector<int>;
  EXPECT_EQ(nodes_left({0, 1, 0, 1}, {0, 1, 2, 3}), (Nodes{0, 1, 0, 1}));
  EXPECT_EQ(nodes_left({0, 1, 0, 1}, {0, 2, 3}), (Nodes{0, 0, 1}));
  EXPECT_EQ(nodes_left({1, 0, 1, 0}, {0, 1, 2, 3}), (Nodes{1, 0, 1, 0}));
  EXPECT_EQ(nodes_left({2, 0, 1, 2, 0}, {0, 1, 3, 4}), (Nodes{1, 0, 1, 0}));
  EXPECT_EQ(nodes_left({0, 0, 1, 1, 2, 2}, {2, 4, 5}), (Nodes{0, 1, 1}));
}

}  // namespace
}  // namespace swiftbalancer
