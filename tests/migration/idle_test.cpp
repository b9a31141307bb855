// A progress() that finds nothing to do allocates nothing: it runs between packets for as long as
// an engine serves.

#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "fake_cluster.hpp"

namespace {
long num_allocations = 0;
}

// Not inlined: g++ takes an inlined malloc() and free() for a mismatch with delete and new.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++num_allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace swiftbalancer::testing {
namespace {

TEST(CopyExecutorIdle, AllocatesNothingWithoutAPlanNorWhenAllIsStaged) {
  OneCopyCluster cluster(3, 1);
  const MigrationPlan plan = cluster.plan();
  const auto allocations_of_progress = [&] {
    const long before = num_allocations;
    cluster.progress(100);
    return num_allocations - before;
  };
  EXPECT_EQ(allocations_of_progress(), 0);
  cluster.adopt(plan);
  EXPECT_GT(allocations_of_progress(), 0);
  // The only buffer holds the first unit, which waits to be committed.
  ASSERT_EQ(cluster.executor(1).staged_cursor(), 1U);
  EXPECT_EQ(allocations_of_progress(), 0);
}

}  // namespace
}  // namespace swiftbalancer::testing
