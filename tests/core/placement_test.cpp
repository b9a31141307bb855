#include <swiftbalancer/placement.hpp>

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {
namespace {

using testing::ElementsAre;

// Three ranks of two slots, four experts; node 0 holds ranks 0 and 1.
ClusterShape small_shape() {
  ShapeOptions options;
  options.num_moe_layers = 1;
  options.num_logical_experts = 4;
  options.num_ranks = 3;
  options.num_slots = 6;
  options.node_of_rank = {0, 0, 1};
  return ClusterShape(options);
}

TEST(Placement, DerivedMapsFollowTheSlots) {
  const ClusterShape shape = small_shape();
  const std::vector<std::int32_t> slots{0, 1, 2, 0, 3, 2};
  EXPECT_THAT(replica_count(slots, 4), ElementsAre(2, 1, 2, 1));
  EXPECT_THAT(expert_map(slots, shape, 0), ElementsAre(0, 1, -1, -1));
  EXPECT_THAT(expert_map(slots, shape, 2), ElementsAre(-1, -1, 1, 0));
  // Own slot first, then the node, then anywhere: expert 2 of rank 0 goes to slot 2 (its node), not
  // slot 5.
  EXPECT_THAT(log2phy(slots, shape, 0), ElementsAre(0, 1, 2, 4));
  EXPECT_THAT(log2phy(slots, shape, 2), ElementsAre(0, 1, 5, 4));
}

TEST(Placement, Log2phyRotatesAmongEqualChoices) {
  const ClusterShape shape = small_shape();
  const std::vector<std::int32_t> slots{0, 1, 0, 3, 2, 2};
  // Rank 2 has no slot of expert 0; slots 0 and 2 are equally far: rank 2 takes 2 % 2 = the first.
  EXPECT_EQ(log2phy(slots, shape, 2)[0], 0);
}

TEST(Placement, CountsMovesOncePerRankAndExpert) {
  const ClusterShape shape = small_shape();
  const std::vector<std::int32_t> before{0, 1, 2, 0, 3, 2};
  EXPECT_EQ(count_moves(before, before, shape), 0);
  EXPECT_EQ(count_moves(before, std::vector<std::int32_t>{1, 0, 2, 0, 3, 2}, shape), 0)
      << "a permutation inside a rank";
  EXPECT_EQ(count_moves(before, std::vector<std::int32_t>{0, 3, 2, 1, 3, 2}, shape), 2);
  EXPECT_EQ(count_moves(before, std::vector<std::int32_t>{3, 3, 2, 0, 1, 2}, shape), 2)
      << "a duplicate is not sent twice";
}

TEST(Placement, ValidateNamesLayerSlotAndExpert) {
  const ClusterShape shape = small_shape();
  Placement placement = Placement::initial(shape);
  EXPECT_NO_THROW(validate(placement, shape));
  placement.layer(0)[3] = 9;
  try {
    validate(placement, shape);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                testing::AllOf(testing::HasSubstr("slot 3"), testing::HasSubstr("expert 9")));
  }
  std::fill(placement.layer(0).begin(), placement.layer(0).end(), 0);
  EXPECT_FALSE(is_valid_layer(placement.layer(0), shape));
  EXPECT_THROW(validate(placement, shape), Error);
}

RC_GTEST_PROP(PlacementProperty, InitialIsLegalAndWithoutAvoidableDuplicates, ()) {
  ShapeOptions options;
  options.num_moe_layers = *rc::gen::inRange(1, 4);
  options.num_ranks = *rc::gen::inRange(1, 20);
  options.num_logical_experts = *rc::gen::inRange(1, 80);
  options.num_slots =
      std::max(options.num_ranks, options.num_logical_experts) + *rc::gen::inRange(0, 40);
  const ClusterShape shape(options);
  const Placement placement = Placement::initial(shape);
  validate(placement, shape);
  // A rank can hold different experts only while it has no more slots than there are experts.
  if (shape.max_slots_per_rank() <= shape.num_logical_experts()) {
    RC_ASSERT(count_same_rank_duplicates(placement.layer(0), shape) == 0);
  }
}

}  // namespace
}  // namespace swiftbalancer
