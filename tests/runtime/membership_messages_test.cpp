// What ranks tell each other in a reconfiguration: it arrives as it was sent, and a wrong bit or a
// missing byte anywhere in it is noticed.

#include <gtest/gtest.h>

#include "runtime/membership_messages.hpp"
#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using testing_support::make_shape;

constexpr int kLayers = 2;
const std::vector<std::uint64_t> kEpochs = {7, 0};

std::vector<std::byte> a_snapshot() {
  Snapshot snapshot;
  snapshot.membership = 3;
  snapshot.newest_agreed = 5;
  snapshot.begun_step = 1000;
  snapshot.used_step = 998;
  snapshot.last_open_step = 900;
  snapshot.mode = BalancingMode::kPlanOnly;
  std::string("policy swift\n").copy(snapshot.config.text, 100);
  return encode_snapshot(snapshot, kEpochs, kLayers);
}

std::vector<std::byte> a_verdict() {
  return encode_verdict({.ready = true, .ok = false, .digest = 77, .why = "a file is missing"});
}

// Of ranks 0 and 2 of three.
const ClusterShape& first_shape() {
  static const ClusterShape shape = make_shape(kLayers, 8, 3, 18);
  return shape;
}
const std::vector<int> kRanks = {0, 2};
std::vector<std::byte> a_state() {
  const ClusterShape shape = shape_of_ranks(first_shape(), kRanks);
  return encode_membership_state(kRanks, first_shape(),
                                 ServedState::even(Placement::initial(shape), shape));
}

bool reads_snapshot(std::span<const std::byte> bytes) {
  Snapshot snapshot;
  std::vector<std::uint64_t> epochs;
  return decode_snapshot(bytes, kLayers, snapshot, epochs).ok();
}
bool reads_verdict(std::span<const std::byte> bytes) {
  Verdict verdict;
  return decode_verdict(bytes, verdict).ok();
}
bool reads_state(std::span<const std::byte> bytes) {
  std::vector<int> ranks;
  ServedState state;
  return decode_membership_state(bytes, first_shape(), ranks, state).ok();
}

TEST(MembershipMessages, ArriveAsTheyWereSent) {
  Snapshot snapshot;
  std::vector<std::uint64_t> epochs;
  ASSERT_TRUE(decode_snapshot(a_snapshot(), kLayers, snapshot, epochs).ok());
  EXPECT_EQ(epochs, kEpochs);
  EXPECT_FALSE(snapshot.joins);
  EXPECT_EQ(snapshot.membership, 3U);
  EXPECT_EQ(snapshot.newest_agreed, 5U);
  EXPECT_EQ(snapshot.begun_step, 1000U);
  EXPECT_EQ(snapshot.used_step, 998U);
  EXPECT_EQ(snapshot.last_open_step, 900U);
  EXPECT_EQ(snapshot.mode, BalancingMode::kPlanOnly);
  EXPECT_STREQ(snapshot.config.text, "policy swift\n");

  Verdict verdict;
  ASSERT_TRUE(decode_verdict(a_verdict(), verdict).ok());
  EXPECT_TRUE(verdict.ready);
  EXPECT_FALSE(verdict.ok);
  EXPECT_EQ(verdict.digest, 77U);
  EXPECT_EQ(verdict.why, "a file is missing");

  std::vector<int> ranks;
  ServedState state;
  std::vector<std::byte> longer = a_state();
  longer.resize(membership_state_capacity(first_shape()));
  ASSERT_TRUE(decode_membership_state(longer, first_shape(), ranks, state).ok());
  EXPECT_EQ(ranks, kRanks);
  EXPECT_EQ(state.placement, Placement::initial(shape_of_ranks(first_shape(), kRanks)));
}

TEST(MembershipMessages, AWrongBitIsNoticedWhereverItIs) {
  const struct {
    std::vector<std::byte> bytes;
    bool (*reads)(std::span<const std::byte>);
    const char* name;
  } messages[] = {{a_snapshot(), reads_snapshot, "snapshot"},
                  {a_verdict(), reads_verdict, "verdict"},
                  {a_state(), reads_state, "state"}};
  for (const auto& message : messages) {
    EXPECT_TRUE(message.reads(message.bytes)) << message.name;
    std::vector<std::byte> damaged = message.bytes;
    for (std::size_t bit = 0; bit < damaged.size() * 8; ++bit) {
      const auto flipped = static_cast<std::byte>(1U << bit % 8);
      damaged[bit / 8] ^= flipped;
      EXPECT_FALSE(message.reads(damaged)) << message.name << ", bit " << bit;
      damaged[bit / 8] ^= flipped;
    }
    for (std::size_t size = 0; size < damaged.size(); ++size)
      EXPECT_FALSE(message.reads(std::span(damaged).first(size))) << message.name << ", " << size;
  }
}

}  // namespace
}  // namespace swiftbalancer
