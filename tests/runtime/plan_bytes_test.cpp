#include "runtime/plan_bytes.hpp"

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/placement.hpp>

#include "migration/random_rows.hpp"
#include "protocol/packet.hpp"

namespace swiftbalancer {
namespace {

using testing::below;
using testing::Random;
using Bytes = std::vector<std::byte>;

constexpr GenerationId kGeneration{3, 77};
// Where the fields of a message lie: header 40 bytes, totals of a plan 48, then its layers.
constexpr std::size_t kChecksumAt = 16;
constexpr std::size_t kRowsAt = 36;
constexpr std::size_t kTotalMovesAt = 52;
constexpr std::size_t kImbalanceAt = 56;
constexpr std::size_t kLayersAt = 88;

ClusterShape shape_of(int layers, int experts, int ranks, int slots) {
  ShapeOptions options;
  options.num_moe_layers = layers;
  options.num_logical_experts = experts;
  options.num_ranks = ranks;
  options.num_slots = slots;
  return ClusterShape(options);
}

ClusterShape random_shape(Random& random) {
  const int ranks = 1 + below(random, 4);
  const int experts = ranks + below(random, 12);
  return shape_of(1 + below(random, 5), experts, ranks, experts + below(random, 6));
}

Plan random_plan(const ClusterShape& shape, Random& random) {
  Plan plan;
  for (int layer = shape.num_moe_layers(); layer-- > 0;) {
    if (below(random, 3) == 0) continue;
    LayerChange& change = plan.changes.emplace_back();
    change.moe_layer_id = layer;
    change.plan.placement = testing::random_row(shape, random);
    change.plan.shares = even_shares(change.plan.placement, shape.num_logical_experts());
    change.plan.imbalance_before = 1.0 + below(random, 1000) / 700.0;
    change.plan.imbalance_after = 1.0 + below(random, 1000) / 7000.0;
    change.plan.moves = below(random, shape.num_slots() + 1);
    change.plan.work = below(random, 1 << 30);
    plan.moves += change.plan.moves;
  }
  plan.imbalance_before = {1.25, 1.75};
  plan.imbalance_after = {1.0 / 3.0 + 1.0, 1.5};
  return plan;
}

// As a rank that has joined leaves it: empty slots where the expert has another one.
ServedState random_state(const ClusterShape& shape, Random& random) {
  Placement placement(shape.num_moe_layers(), shape.num_slots());
  ServedState state;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const auto row = testing::random_row(shape, random);
    auto shares = even_shares(row, shape.num_logical_experts());
    std::ranges::copy(row, placement.layer(layer).begin());
    for (std::size_t slot = 0; slot < row.size(); ++slot) {
      const auto other = std::ranges::find(row, row[slot]) - row.begin();
      if (other == static_cast<std::ptrdiff_t>(slot) || below(random, 2) == 0) continue;
      shares[static_cast<std::size_t>(other)] += std::exchange(shares[slot], 0U);
      placement.layer(layer)[slot] = kEmptySlot;
    }
    state.shares.push_back(std::move(shares));
  }
  state.placement = std::move(placement);
  return state;
}

Bytes encoded(const Plan& plan, const ClusterShape& shape) {
  Bytes bytes(most_plan_bytes(shape));
  bytes.resize(encode_plan(kGeneration, plan, shape, bytes));
  return bytes;
}

Bytes encoded(const ServedState& state, const ClusterShape& shape) {
  Bytes bytes(state_bytes(shape));
  bytes.resize(encode_state(state, shape, bytes));
  return bytes;
}

Status decode(const Bytes& bytes, const ClusterShape& shape) {
  Plan plan;
  return decode_plan(bytes, kGeneration, shape, plan);
}

// A hostile sender: overwrites a value and seals the message anew.
template <typename T>
Bytes forged(Bytes bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
  const std::uint64_t checksum =
      checksum_of(std::span<const std::byte>(bytes).subspan(kChecksumAt + sizeof(std::uint64_t)));
  std::memcpy(bytes.data() + kChecksumAt, &checksum, sizeof checksum);
  return bytes;
}

// A plan of two layers on [4 layers, 3 experts, 2 ranks, 4 slots].
struct SmallPlan {
  ClusterShape shape = shape_of(4, 3, 2, 4);
  std::size_t layer_bytes = 32 + 4 * 8;
  std::size_t placement_at = kLayersAt + 32;
  std::size_t shares_at = placement_at + 4 * 4;
  Bytes bytes;
  SmallPlan() {
    Plan plan;
    for (int layer : {2, 0}) {
      LayerPlan row;
      row.placement = {0, 1, 2, 1};
      row.shares = even_shares(row.placement, 3);
      row.moves = 1;
      plan.changes.push_back({layer, row});
    }
    plan.moves = 2;
    bytes = encoded(plan, shape);
  }
};

void expect_refused(const Status& status, const std::string& why) {
  EXPECT_EQ(status.code(), ErrorCode::kTransport);
  EXPECT_THAT(status.message(), ::testing::HasSubstr(why));
}

RC_GTEST_PROP(PlanMessage, ComesBackAsItWasSent, (std::uint64_t seed)) {
  Random random(seed);
  const ClusterShape shape = random_shape(random);
  const Plan plan = random_plan(shape, random);
  const Bytes bytes = encoded(plan, shape);
  RC_ASSERT(!bytes.empty());
  RC_ASSERT(bytes.size() <= most_plan_bytes(shape));
  Plan read;
  RC_ASSERT(decode_plan(bytes, kGeneration, shape, read).ok());
  RC_ASSERT(encoded(read, shape) == bytes);
  RC_ASSERT(read.moves == plan.moves);
  RC_ASSERT(read.imbalance_after.mean_over_layers == plan.imbalance_after.mean_over_layers);
  RC_ASSERT(read.changes.size() == plan.changes.size());
  for (std::size_t i = 0; i < plan.changes.size(); ++i) {
    RC_ASSERT(read.changes[i].moe_layer_id == plan.changes[i].moe_layer_id);
    RC_ASSERT(read.changes[i].plan.placement == plan.changes[i].plan.placement);
    RC_ASSERT(read.changes[i].plan.shares == plan.changes[i].plan.shares);
    RC_ASSERT(read.changes[i].plan.work == plan.changes[i].plan.work);
  }
}

RC_GTEST_PROP(PlanMessage, EveryFlippedByteAndEveryTruncationIsRefused, (std::uint64_t seed)) {
  Random random(seed);
  const ClusterShape shape = random_shape(random);
  const Bytes bytes = encoded(random_plan(shape, random), shape);
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    Bytes broken = bytes;
    broken[at] ^= static_cast<std::byte>(1 + below(random, 255));
    RC_ASSERT(decode(broken, shape).code() == ErrorCode::kTransport);
    broken.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
    RC_ASSERT(decode(broken, shape).code() == ErrorCode::kTransport);
  }
}

RC_GTEST_PROP(StateMessage, ComesBackAsItWasSent, (std::uint64_t seed)) {
  Random random(seed);
  const ClusterShape shape = random_shape(random);
  const ServedState state = random_state(shape, random);
  ServedState read;
  RC_ASSERT(decode_state(encoded(state, shape), shape, read).ok());
  RC_ASSERT(read.placement == state.placement);
  RC_ASSERT(read.shares == state.shares);
}

RC_GTEST_PROP(StateMessage, EveryFlippedByteAndEveryTruncationIsRefused, (std::uint64_t seed)) {
  Random random(seed);
  const ClusterShape shape = random_shape(random);
  const ServedState state = random_state(shape, random);
  const Bytes bytes = encoded(state, shape);
  ServedState read = state;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    Bytes broken = bytes;
    broken[at] ^= static_cast<std::byte>(1 + below(random, 255));
    RC_ASSERT(decode_state(broken, shape, read).code() == ErrorCode::kTransport);
    broken.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
    RC_ASSERT(decode_state(broken, shape, read).code() == ErrorCode::kTransport);
  }
  RC_ASSERT(read.placement == state.placement);  // A refused message changes nothing.
}

TEST(PlanMessage, ASealedButHostileOneIsRefusedByWhatIsWrong) {
  const SmallPlan plan;
  ASSERT_TRUE(decode(forged(plan.bytes, kTotalMovesAt, 2), plan.shape).ok());
  const auto second = kLayersAt + plan.layer_bytes;
  const double not_finite = std::numeric_limits<double>::quiet_NaN();
  const struct {
    Bytes bytes;
    const char* why;
  } cases[] = {
      {forged(plan.bytes, kRowsAt, 0xFFFFFFFFU), "for 4294967295 of 4 layers"},
      {forged(plan.bytes, kRowsAt, 1U), "for 1 of 4 layers"},
      {forged(plan.bytes, kTotalMovesAt, 3), "says 3 moves, its layers have 2"},
      {forged(plan.bytes, kImbalanceAt, not_finite), "not finite"},
      {forged(plan.bytes, second, 4), "layer 4; allowed are 0 to 3"},
      {forged(plan.bytes, second, -1), "layer -1; allowed are 0 to 3"},
      {forged(plan.bytes, second, 2), "layer 2 appears twice"},
      {forged(plan.bytes, kLayersAt + 4, 5), "layer 2: 5 moves; allowed are 0 to 4"},
      {forged(plan.bytes, kLayersAt + 16, not_finite), "layer 2: an imbalance is not finite"},
      {forged(plan.bytes, plan.placement_at, 3), "slot 0 holds expert 3; allowed are 0 to 2"},
      {forged(plan.bytes, plan.placement_at, kEmptySlot), "slot 0 holds expert -1"},
      {forged(plan.bytes, plan.placement_at, 1), "shares of expert 0 sum to 0"},
      {forged(plan.bytes, plan.shares_at, kShareUnit - 1), "shares of expert 0 sum to 65535"},
      // A sum that would be right modulo 2^32.
      {forged(forged(plan.bytes, plan.shares_at + 4, 0xFFFFFFFFU), plan.shares_at + 12,
              kShareUnit + 1),
       "shares of expert 1 sum to 4295032832"},
  };
  for (const auto& each : cases) expect_refused(decode(each.bytes, plan.shape), each.why);
}

TEST(PlanMessage, OfAnotherGenerationShapeOrKindIsRefusedByName) {
  const SmallPlan plan;
  Plan read;
  expect_refused(decode_plan(plan.bytes, {3, 78}, plan.shape, read), "is of generation 77");
  expect_refused(decode_plan(plan.bytes, {4, 77}, plan.shape, read), "of membership 3");
  expect_refused(decode(plan.bytes, shape_of(4, 2, 2, 4)), "[4 layers, 3 experts, 4 slots]");
  expect_refused(decode(forged(plan.bytes, 4, 2U), plan.shape), "version 2");
  ServedState state;
  expect_refused(decode_state(plan.bytes, plan.shape, state), "magic");
}

TEST(PlanMessage, WhatDoesNotFitIsNotWritten) {
  const ClusterShape shape = shape_of(2, 3, 2, 4);
  Plan plan;
  plan.changes.push_back({0, {{0, 1, 2, 1}, even_shares(std::vector{0, 1, 2, 1}, 3), 1, 1, 0, 0}});
  Bytes out(encoded(plan, shape).size() - 1);
  EXPECT_EQ(encode_plan(kGeneration, plan, shape, out), 0U);
  plan.changes[0].plan.shares.pop_back();
  EXPECT_TRUE(encoded(plan, shape).empty());
  EXPECT_TRUE(encoded(ServedState::initial(shape_of(2, 3, 2, 5)), shape).empty());
}

TEST(StateMessage, AnEmptySlotWithAShareIsRefused) {
  const ClusterShape shape = shape_of(1, 3, 2, 4);
  const SmallPlan plan;
  ServedState state = ServedState::initial(shape);
  state.placement.layer(0)[3] = kEmptySlot;
  ServedState read;
  expect_refused(decode_state(encoded(state, shape), shape, read), "layer 0: ");
}

}  // namespace
}  // namespace swiftbalancer
