// StagingPool: how many buffers a budget gives, and that none is given twice.

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>

#include <swiftbalancer/error.hpp>

#include "migration/copy_executor.hpp"

namespace swiftbalancer::testing {
namespace {

const std::vector<std::size_t> kParts{100, 0, 28};

TEST(StagingPool, HasAsManyBuffersAsTheBudgetHolds) {
  EXPECT_EQ(StagingPool(kParts, 128).capacity(), 1);
  EXPECT_EQ(StagingPool(kParts, 128 * 5 - 1).capacity(), 4);
}

TEST(StagingPool, SaysHowManyBytesOneExpertNeeds) {
  try {
    StagingPool pool(kParts, 127);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("127"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("at least 128 bytes"), std::string::npos);
  }
  EXPECT_THROW(StagingPool(std::vector<std::size_t>{0}, 10), Error);
}

TEST(StagingPool, GrantsEachBufferOnceAndAgainAfterItsRelease) {
  StagingPool pool(kParts, 128 * 3);
  std::set<int> granted;
  while (const auto buffer = pool.grant()) EXPECT_TRUE(granted.insert(*buffer).second);
  EXPECT_EQ(granted.size(), 3U);
  EXPECT_EQ(pool.num_free(), 0);
  pool.release(1);
  EXPECT_EQ(pool.grant(), 1);
}

TEST(StagingPool, BuffersAreAlignedAndDoNotOverlap) {
  StagingPool pool(kParts, 128 * 3);
  std::set<std::byte*> bytes;
  for (int buffer = 0; buffer < 3; ++buffer) {
    for (std::size_t part = 0; part < kParts.size(); ++part) {
      std::byte* start = pool.parts(buffer)[part];
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(start) % 64, 0U);
      for (std::size_t i = 0; i < kParts[part]; ++i) EXPECT_TRUE(bytes.insert(start + i).second);
    }
  }
}

TEST(StagingPool, RefusesToReleaseWhatIsNotGranted) {
  StagingPool pool(kParts, 128 * 2);
  EXPECT_THROW(pool.release(0), Error);
  EXPECT_THROW(pool.release(2), Error);
  EXPECT_THROW(pool.release(-1), Error);
  const int buffer = *pool.grant();
  pool.release(buffer);
  EXPECT_THROW(pool.release(buffer), Error);
}

}  // namespace
}  // namespace swiftbalancer::testing
