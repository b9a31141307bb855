// Every deliberate fault (src/core/test_fault.hpp) must be caught by the general invariants of the
// simulation, none of which knows of it. Prints the table: fault, schedules until caught, by what.

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "core/test_fault.hpp"
#include "simulation/sim_cluster.hpp"

namespace swiftbalancer::simulation {
namespace {

struct Entry {
  Fault fault;
  const char* name;
  const char* rule;
};

constexpr Entry kFaults[] = {
    {Fault::kEarlyUse, "early_use", "1"},
    {Fault::kGoOnAlone, "go_on_alone", "1"},
    {Fault::kRefreshPacket, "refresh_packet", "2"},
    {Fault::kLateBase, "late_base", "3"},
    {Fault::kWeakHash, "weak_hash", "3"},
    {Fault::kHashNoSources, "hash_no_sources", "3"},
    {Fault::kNoBaseCheck, "no_base_check", "4"},
    {Fault::kReadopt, "readopt", "4"},
    {Fault::kAdoptMajority, "adopt_majority", "4"},
    {Fault::kFirstHashWins, "first_hash_wins", "4"},
    {Fault::kCloseOnNotReady, "close_on_not_ready", "4"},
    {Fault::kKeepOldPlan, "keep_old_plan", "4"},
    {Fault::kStagedUntagged, "staged_untagged", "6"},
    {Fault::kStagedRelative, "staged_relative", "6"},
    {Fault::kMaxStaged, "max_staged", "6"},
    {Fault::kOwnStaged, "own_staged", "6"},
    {Fault::kMissingIsStaged, "missing_is_staged", "6"},
    {Fault::kSkipFailed, "skip_failed", "6"},
    {Fault::kAbortOwnOnly, "abort_own_only", "7"},
    {Fault::kAbortOnce, "abort_once", "7"},
    {Fault::kDropOneUnit, "drop_one_unit", "7"},
    {Fault::kNoOlderDrain, "no_older_drain", "8"},
    {Fault::kNoOlderSend, "no_older_send", "8"},
    {Fault::kFreeOnDrop, "free_on_drop", "9"},
    {Fault::kTagNoGeneration, "tag_no_generation", "9"},
    {Fault::kBufferLost, "buffer_lost", "9"},
    {Fault::kPoolIgnored, "pool_ignored", "10"},
    {Fault::kAnyOrderGrants, "any_order_grants", "10"},
    {Fault::kDrainLate, "drain_late", "9"},
    {Fault::kLocalAtCommit, "local_at_commit", "10"},
    {Fault::kSplitAnyOrder, "split_any_order", "10"},
    {Fault::kGatherSkipped, "gather_skipped", "11"},
    {Fault::kDiscardOnNotice, "discard_on_notice", "12"},
    {Fault::kNoRollForward, "no_roll_forward", "13"},
    {Fault::kOldPackets, "old_packets", "14"},
    {Fault::kNoStepSync, "no_step_sync", "14"},
    {Fault::kCountersKept, "counters_kept", "14"},
    {Fault::kPlannerKept, "planner_kept", "14"},
    {Fault::kPlannerLossHidden, "planner_loss_hidden", "14"},
    {Fault::kRehomeByRank, "rehome_by_rank", "13"},
    {Fault::kReloadSkipped, "reload_skipped", "13"},
    {Fault::kLoadsByCurrent, "loads_by_current", "15"},
    {Fault::kLoadsUnsplit, "loads_unsplit", "15"},
    {Fault::kStaleTable, "stale_table", "15"},
};

constexpr std::uint64_t kMostSeeds = 4000;

struct Caught {
  std::uint64_t seeds = 0;  // 0: not caught
  char by[160] = {};
};

// In a process of its own: what a fault does to memory stays there.
Caught hunt(Fault fault) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return {};
  const pid_t child = fork();
  if (child == 0) {
    active_fault = fault;
    Caught caught;
    for (std::uint64_t seed = 1; seed <= kMostSeeds && caught.seeds == 0; ++seed) {
      try {
        SimCluster(SimOptions::draw(seed)).run();
      } catch (const std::exception& violation) {
        caught.seeds = seed;
        std::strncpy(caught.by, violation.what(), sizeof caught.by - 1);
        if (char* options = std::strstr(caught.by, "  [seed")) *options = '\0';
      }
    }
    const auto written = write(ends[1], &caught, sizeof caught);
    _exit(written == sizeof caught ? 0 : 1);
  }
  close(ends[1]);
  Caught caught;
  if (read(ends[0], &caught, sizeof caught) != sizeof caught)
    std::strncpy(caught.by, "(the process died)", sizeof caught.by - 1);
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return caught;
}

TEST(DeliberateFaults, AreAllCaughtByTheGeneralInvariants) {
  std::printf("%-20s %-5s %-6s %s\n", "fault", "rule", "seeds", "caught by");
  for (const Entry& entry : kFaults) {
    const Caught caught = hunt(entry.fault);
    std::printf("%-20s %-5s %-6llu %s\n", entry.name, entry.rule,
                static_cast<unsigned long long>(caught.seeds), caught.by);
    std::fflush(stdout);
    EXPECT_GT(caught.seeds, 0U) << entry.name << " was not caught: " << caught.by;
  }
}

}  // namespace
}  // namespace swiftbalancer::simulation
