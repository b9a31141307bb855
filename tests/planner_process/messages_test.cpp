// What a planner is made from reaches its process as it is, and nothing else does.

#include "runtime/planner_process/messages.hpp"

#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <swiftbalancer/error.hpp>

#include "planner_process/processes.hpp"

namespace swiftbalancer {
namespace {

using ::testing::HasSubstr;
namespace messages = planner_messages;

const ClusterShape kSmallShape = testing::shape_of(2, 8, 2, 12);

PlannerConfig full_config() {
  PlannerConfig config;
  config.policy = "swift";
  config.max_moves_per_layer = 7;
  config.limits = {.max_moves_per_rebalance = 11,
                   .max_bytes_per_rebalance = std::int64_t{1} << 40,
                   .max_bytes_per_rank = 12345,
                   .gate = CostGate{1e-4, 3e-4, 2000.0},
                   .max_rank_moves = 3,
                   .max_replicas = 4,
                   .rank_speeds = {1.0, 0.5},
                   .pinned_experts = {3, 5}};
  config.expert_bytes = {100, 200};
  return config;
}

messages::Bytes encoded(const PlannerConfig& config) {
  return messages::encode_restart(kSmallShape, config, ServedState::initial(kSmallShape));
}

std::string refusal(std::span<const std::byte> bytes) {
  try {
    messages::decode_restart(bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(PlannerMessages, LimitsAndSizesComeBackAsTheyWere) {
  for (const PlannerConfig& config : {full_config(), PlannerConfig()}) {
    const messages::Restart restart = messages::decode_restart(encoded(config));
    EXPECT_EQ(restart.config.policy, config.policy);
    EXPECT_EQ(restart.config.max_moves_per_layer, config.max_moves_per_layer);
    EXPECT_EQ(restart.config.limits, config.limits);
    EXPECT_EQ(restart.config.expert_bytes, config.expert_bytes);
    EXPECT_EQ(restart.served.placement, ServedState::initial(kSmallShape).placement);
  }
}

TEST(PlannerMessages, ARestartCutAnywhereIsRefused) {
  const messages::Bytes bytes = encoded(full_config());
  for (std::size_t length = 0; length < bytes.size(); ++length)
    EXPECT_NE(refusal(std::span(bytes).first(length)), "accepted") << length;
}

TEST(PlannerMessages, ACommitComesBackAsItWasAndNothingElseIsOne) {
  const ServedState served = ServedState::initial(kShape);
  const auto encoded_as = [&](int layer, std::int32_t expert) {
    std::vector<std::int32_t> row(served.placement.layer(1).begin(),
                                  served.placement.layer(1).end());
    row[3] = expert;
    return messages::encode_committed(layer, row, served.shares[1]);
  };
  const messages::Bytes bytes = encoded_as(1, 7);
  const messages::Committed committed = messages::decode_committed(bytes, kShape);
  EXPECT_EQ(committed.moe_layer_id, 1);
  EXPECT_EQ(committed.placement[3], 7);
  EXPECT_EQ(committed.shares, served.shares[1]);
  const auto is_refused = [](std::span<const std::byte> given) {
    try {
      messages::decode_committed(given, kShape);
    } catch (const Error& error) {
      return error.code() == ErrorCode::kTransport;
    }
    return false;
  };
  for (std::size_t length = 0; length < bytes.size(); ++length)
    EXPECT_TRUE(is_refused(std::span(bytes).first(length))) << length;
  messages::Bytes longer = bytes;
  longer.emplace_back();
  EXPECT_TRUE(is_refused(longer));
  EXPECT_TRUE(is_refused(encoded_as(kShape.num_moe_layers(), 7)));
  EXPECT_TRUE(is_refused(encoded_as(-1, 7)));
  EXPECT_TRUE(is_refused(encoded_as(1, kShape.num_logical_experts())));
  EXPECT_TRUE(is_refused(encoded_as(1, -1)));
}

TEST(PlannerMessages, ListsLongerThanTheirMessageTakeNoMemory) {
  messages::Bytes bytes = encoded(full_config());
  const double speeds[] = {1.0, 0.5};
  const auto* const list = reinterpret_cast<const std::byte*>(speeds);
  const auto found = std::search(bytes.begin(), bytes.end(), list, list + sizeof speeds);
  ASSERT_NE(found, bytes.end());
  const std::uint64_t count = std::uint64_t{1} << 61;  // times 8 bytes: 0
  std::memcpy(&*(found - sizeof count), &count, sizeof count);
  EXPECT_THAT(refusal(bytes), HasSubstr("too short for a list"));
}

}  // namespace
}  // namespace swiftbalancer
