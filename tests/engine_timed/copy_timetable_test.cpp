#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>

#include "engine/copy_timetable.hpp"
#include "engine_timed/round_profile.hpp"

namespace swiftbalancer::engine {
namespace {

constexpr std::array<std::int64_t, kNumLinks> kCopyNs = {10, 100, 1000};  // memory, link, node link

struct Times {
  std::int64_t start;
  std::int64_t end;
  friend bool operator==(const Times&, const Times&) = default;
  friend void PrintTo(const Times& times, std::ostream* out) {
    *out << times.start << ".." << times.end;
  }
};
constexpr Times kNever = {CopyTimetable::kNotScheduled, CopyTimetable::kNotScheduled};

class CopyTimetableTest : public ::testing::Test {
 protected:
  CopyTimetable timetable(int buffers = 100) {
    return {shape_, kCopyNs,
            std::vector<int>(static_cast<std::size_t>(shape_.num_ranks()), buffers)};
  }
  ExpertCopy copy(int source, int destination) const {
    return copy_between(shape_, source, destination);
  }
  static std::vector<Times> times(const CopyTimetable& timetable) {
    std::vector<Times> result;
    for (const auto& each : timetable.copies()) result.push_back({each.start_ns, each.end_ns});
    return result;
  }

  ClusterShape shape_ = even_shape(4, 2);  // nodes {0, 1}, {2, 3}
};

TEST_F(CopyTimetableTest, CopiesBetweenOtherRanksRunSideBySide) {
  CopyTimetable table = timetable();
  const MigrationPlan plan = plan_of({{copy(0, 1), copy(2, 3)}});
  table.adopt(plan);
  table.update(50);
  EXPECT_EQ(times(table), (std::vector<Times>{{50, 150}, {50, 150}}));
}

TEST_F(CopyTimetableTest, OneCopyAtATimePerDirectionOfARank) {
  CopyTimetable table = timetable();
  const MigrationPlan plan = plan_of({{copy(0, 1), copy(0, 1), copy(1, 0)}});
  table.adopt(plan);
  table.update(0);
  EXPECT_EQ(times(table), (std::vector<Times>{{0, 100}, {100, 200}, {0, 100}}));
}

TEST_F(CopyTimetableTest, MemoryLinkAndNodeLinkAreSeparate) {
  CopyTimetable table = timetable();
  const MigrationPlan plan = plan_of({{copy(0, 0), copy(0, 1), copy(0, 2), copy(0, 3)}});
  table.adopt(plan);
  table.update(0);
  EXPECT_EQ(times(table), (std::vector<Times>{{0, 10}, {0, 100}, {0, 1000}, {1000, 2000}}));
}

TEST_F(CopyTimetableTest, TwoSourcesOfOneDestinationTakeTurns) {
  shape_ = even_shape(3);
  CopyTimetable table = timetable();
  const MigrationPlan plan = plan_of({{copy(0, 2), copy(1, 2)}});
  table.adopt(plan);
  table.update(0);
  EXPECT_EQ(times(table), (std::vector<Times>{{0, 100}, {100, 200}}));
}

TEST_F(CopyTimetableTest, CopiesWithoutABufferWaitForACommit) {
  CopyTimetable table = timetable(1);
  const MigrationPlan plan = plan_of({{copy(0, 1)}, {copy(0, 1)}, {copy(1, 0)}});
  table.adopt(plan);
  table.update(0);
  EXPECT_EQ(times(table), (std::vector<Times>{{0, 100}, kNever, {0, 100}}));
  EXPECT_EQ(table.staged_cursor(1, 500), 1U);
  table.finish_unit(0);
  table.update(500);
  EXPECT_EQ(times(table), (std::vector<Times>{kNever, {500, 600}, {0, 100}}));
  EXPECT_EQ(table.staged_cursor(1, 599), 1U);
  EXPECT_EQ(table.staged_cursor(1, 600), 3U);
}

TEST_F(CopyTimetableTest, BuffersAreGrantedInPlanOrder) {
  CopyTimetable table = timetable(2);
  const MigrationPlan plan = plan_of({{copy(0, 1)}, {copy(0, 1)}, {copy(0, 1)}, {copy(0, 1)}});
  table.adopt(plan);
  table.update(0);
  table.finish_unit(0);
  table.update(1000);
  EXPECT_EQ(times(table), (std::vector<Times>{kNever, {100, 200}, {1000, 1100}, kNever}));
}

TEST_F(CopyTimetableTest, TheCursorIsThePrefixOfUnitsThatHaveArrivedHere) {
  CopyTimetable table = timetable();
  const MigrationPlan plan = plan_of({{copy(0, 1)}, {copy(1, 0)}, {copy(0, 1)}, {}});
  table.adopt(plan);
  table.update(0);
  EXPECT_EQ(table.staged_cursor(1, 99), 0U);
  EXPECT_EQ(table.staged_cursor(1, 100), 2U);  // unit 1 brings nothing to rank 1
  EXPECT_EQ(table.staged_cursor(1, 200), 4U);
  EXPECT_EQ(table.staged_cursor(0, 99), 1U);
  EXPECT_EQ(table.staged_cursor(0, 100), 4U);
  EXPECT_EQ(table.staged_cursor(3, 0), 4U);
}

TEST_F(CopyTimetableTest, ADropFreesLinkAndBufferFromThenOn) {
  CopyTimetable table = timetable(2);
  const MigrationPlan plan = plan_of({{copy(0, 1)}, {copy(0, 1)}, {copy(0, 1)}});
  table.adopt(plan);
  table.update(0);
  EXPECT_EQ(times(table), (std::vector<Times>{{0, 100}, {100, 200}, kNever}));
  table.finish_unit(0);  // under way
  table.update(30);
  EXPECT_EQ(times(table), (std::vector<Times>{kNever, {30, 130}, {130, 230}}));
  EXPECT_EQ(table.staged_cursor(1, 129), 1U);
}

TEST_F(CopyTimetableTest, WhatHasStartedKeepsItsTimes) {
  CopyTimetable table = timetable();
  const MigrationPlan plan = plan_of({{copy(1, 0)}, {copy(0, 1)}, {copy(0, 1)}});
  table.adopt(plan);
  table.update(0);
  table.finish_unit(0);
  table.update(40);
  EXPECT_EQ(times(table), (std::vector<Times>{kNever, {0, 100}, {100, 200}}));
}

TEST_F(CopyTimetableTest, SendingAndReceivingLastFromStartToEndOnTheLinkUsed) {
  CopyTimetable table = timetable();
  const MigrationPlan plan = plan_of({{copy(0, 1)}});
  table.adopt(plan);
  table.update(5);
  EXPECT_FALSE(table.sending(0, Link::kLink, 4));
  EXPECT_TRUE(table.sending(0, Link::kLink, 5));
  EXPECT_TRUE(table.receiving(1, Link::kLink, 104));
  EXPECT_FALSE(table.receiving(1, Link::kLink, 105));
  EXPECT_FALSE(table.sending(1, Link::kLink, 50));
  EXPECT_FALSE(table.receiving(0, Link::kLink, 50));
  EXPECT_FALSE(table.sending(0, Link::kNodeLink, 50));
}

TEST_F(CopyTimetableTest, NothingIsLeftAfterRetirement) {
  CopyTimetable table = timetable();
  const MigrationPlan plan = plan_of({{copy(0, 1)}});
  table.adopt(plan);
  table.update(0);
  table.retire();
  table.update(10);
  EXPECT_TRUE(table.copies().empty());
  EXPECT_EQ(table.staged_cursor(1, 1000), 0U);
  EXPECT_FALSE(table.sending(0, Link::kLink, 50));
}

// Random plans, commits of what is staged everywhere, and drops: no direction of a link ever
// carries two copies at once, no rank holds more experts than buffers, a rank's cursor never falls,
// and every plan ends.
TEST_F(CopyTimetableTest, RandomPlansKeepTheRulesAndEnd) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto draw = [&](int bound) {
      return static_cast<int>(random() % static_cast<unsigned>(bound));
    };
    const int buffers = 1 + draw(3);
    CopyTimetable table = timetable(buffers);
    std::vector<std::vector<ExpertCopy>> units(static_cast<std::size_t>(1 + draw(6)));
    for (auto& copies :
         units) {  // at most one expert per rank and unit, as every pool has a buffer
      for (int destination = 0; destination < 4; ++destination) {
        if (draw(2) == 0) copies.push_back(copy(draw(4), destination));
      }
    }
    const MigrationPlan plan = plan_of(units);
    table.adopt(plan);
    std::int64_t now = 0;
    std::vector<bool> finished(units.size(), false);
    std::array<std::uint32_t, 4> cursors{};
    int rounds = 0;
    while (std::ranges::find(finished, false) != finished.end()) {
      ASSERT_LT(++rounds, 1000);
      table.update(now);
      std::array<int, 4> held{};
      const auto copies = table.copies();
      for (std::size_t a = 0; a < copies.size(); ++a) {
        held[static_cast<std::size_t>(copies[a].destination_rank)] += copies[a].granted ? 1 : 0;
        for (std::size_t b = 0; b < a; ++b) {
          const bool one_lane = copies[a].link == copies[b].link &&
                                (copies[a].source_rank == copies[b].source_rank ||
                                 copies[a].destination_rank == copies[b].destination_rank);
          EXPECT_TRUE(!one_lane || copies[a].start_ns >= copies[b].end_ns ||
                      copies[b].start_ns >= copies[a].end_ns);
        }
      }
      for (const int experts : held) EXPECT_LE(experts, buffers);
      now += 1 + draw(700);
      std::uint32_t smallest = static_cast<std::uint32_t>(units.size());
      for (int rank = 0; rank < 4; ++rank) {
        std::uint32_t& before = cursors[static_cast<std::size_t>(rank)];
        const std::uint32_t cursor = table.staged_cursor(rank, now);
        EXPECT_GE(cursor, before);
        before = cursor;
        smallest = std::min(smallest, cursor);
      }
      for (std::uint32_t unit = 0; unit < units.size(); ++unit) {
        if (finished[unit] || (unit >= smallest && draw(10) != 0)) continue;
        finished[unit] = true;
        table.finish_unit(unit);
      }
    }
  }
}

}  // namespace
}  // namespace swiftbalancer::engine
