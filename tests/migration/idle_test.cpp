// A progress() that finds nothing to do allocates nothing: it runs between packets for as long as
// an engine serves.

#include <gtest/gtest.h>

#include "allocations.hpp"
#include "fake_cluster.hpp"

namespace swiftbalancer::testing {
namespace {

using testing_support::allocations;

TEST(CopyExecutorIdle, AllocatesNothingWithoutAPlanNorWhenAllIsStaged) {
  OneCopyCluster cluster(3, 1);
  const MigrationPlan plan = cluster.plan();
  const auto allocations_of_progress = [&] {
    const std::uint64_t before = allocations.made;
    cluster.progress(100);
    return allocations.made - before;
  };
  EXPECT_EQ(allocations_of_progress(), 0U);
  cluster.adopt(plan);
  EXPECT_GT(allocations_of_progress(), 0U);
  // The only buffer holds the first unit, which waits to be committed.
  ASSERT_EQ(cluster.executor(1).staged_cursor(), 1U);
  EXPECT_EQ(allocations_of_progress(), 0U);
}

}  // namespace
}  // namespace swiftbalancer::testing
