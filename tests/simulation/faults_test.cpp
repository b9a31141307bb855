// Every deliberate fault (faulty/active_fault.hpp) must be caught by the general invariants of the
// simulation, none of which knows of it. Prints the table: fault, schedules until caught, by what.

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "active_fault.hpp"
#include "simulation/sim_cluster.hpp"

namespace swiftbalancer::simulation {
namespace {

// Some faults need a schedule of a kind: drawn schedules of that kind, all else as drawn.
enum class Kind { kAny, kSuperseding, kNoCancel, kTinyPool, kGathers, kPatient };

struct Entry {
  Fault fault;
  const char* name;
  const char* rule;
  Kind kind = Kind::kAny;
};

SimOptions draw(std::uint64_t seed, Kind kind) {
  SimOptions options = SimOptions::draw(seed);
  if (kind == Kind::kAny) return options;
  options.clear_faults();
  options.blocking = false;
  options.max_active_sets = 10'000;
  options.packet_lag = options.packet_interval = 1;
  options.num_ranks = options.num_ranks % 3 + 2;
  options.num_logical_experts = options.num_ranks * 2;
  options.num_slots = options.num_logical_experts + 3;
  if (kind == Kind::kPatient) {
    options.max_open_sets = 1'000'000;
    options.planner_loss = 15;
    options.rebalance_interval = 1;
    options.control_mode = ControlMode::kReplicated;
    return options;
  }
  if (kind == Kind::kTinyPool) options.staging_experts = 1;
  options.num_moe_layers = 2;
  options.num_steps = 60;
  options.rebalance_interval = 2;
  options.early_request = 100;
  options.slow_copies = kind == Kind::kGathers ? 0 : 97;
  options.gather_failures = kind == Kind::kGathers ? 3 : 0;
  options.can_cancel = kind != Kind::kNoCancel;
  return options;
}

constexpr Entry kFaults[] = {
    {Fault::kEarlyUse, "early_use", "1"},
    {Fault::kGoOnAlone, "go_on_alone", "1"},
    {Fault::kRefreshPacket, "refresh_packet", "2"},
    {Fault::kLateBase, "late_base", "3"},
    {Fault::kWeakHash, "weak_hash", "3"},
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
    {Fault::kDropOneUnit, "drop_one_unit", "7"},
    {Fault::kNoOlderDrain, "no_older_drain", "8", Kind::kNoCancel},
    {Fault::kFreeOnDrop, "free_on_drop", "9", Kind::kSuperseding},
    {Fault::kTagNoGeneration, "tag_no_generation", "9", Kind::kSuperseding},
    {Fault::kBufferLost, "buffer_lost", "9"},
    {Fault::kPoolIgnored, "pool_ignored", "10", Kind::kTinyPool},
    {Fault::kAnyOrderGrants, "any_order_grants", "10"},
    {Fault::kDrainLate, "drain_late", "9", Kind::kNoCancel},
    {Fault::kLocalAtCommit, "local_at_commit", "10"},
    {Fault::kSplitAnyOrder, "split_any_order", "10"},
    {Fault::kGatherSkipped, "gather_skipped", "11", Kind::kGathers},
    {Fault::kDiscardOnNotice, "discard_on_notice", "12"},
    {Fault::kNoRollForward, "no_roll_forward", "13", Kind::kGathers},
    {Fault::kOldPackets, "old_packets", "14"},
    {Fault::kNoStepSync, "no_step_sync", "14"},
    {Fault::kCountersKept, "counters_kept", "14"},
    {Fault::kPlannerKept, "planner_kept", "14", Kind::kGathers},
    {Fault::kPlannerLossHidden, "planner_loss_hidden", "14"},
    {Fault::kResetKeepsOpen, "reset_keeps_open", "17", Kind::kPatient},
    {Fault::kNeverTooOld, "never_too_old", "18"},
    {Fault::kAllAtOnce, "all_at_once", "-"},
    {Fault::kOneDeadline, "one_deadline", "12"},
    {Fault::kRehomeByRank, "rehome_by_rank", "13"},
    {Fault::kReloadSkipped, "reload_skipped", "13"},
    {Fault::kLoadsByCurrent, "loads_by_current", "15"},
    {Fault::kLoadsUnsplit, "loads_unsplit", "15"},
    {Fault::kStaleTable, "stale_table", "15"},
    {Fault::kTableIgnoresShares, "table_ignores_shares", "-"},
    {Fault::kPlanOnlyMoves, "plan_only_moves", "-"},
    {Fault::kFirstBusyPhase, "first_busy_phase", "-"},
    {Fault::kResetEachFlaggedSet, "reset_each_flagged_set", "11"},
    {Fault::kModeLostInReconfiguration, "mode_lost_in_reconfiguration", "14"},
};

constexpr std::uint64_t kMostSeeds = 3000;

struct Caught {
  std::uint64_t seeds = 0;  // 0: not caught
  bool clean_without = false;
  char by[160] = {};
};

// The same schedule breaks nothing when no rule is switched off.
bool is_clean_without(const Entry& entry, std::uint64_t seed) {
  active_fault = Fault::kNone;
  try {
    SimCluster(draw(seed, entry.kind)).run();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

// In a process of its own: what a fault does to memory stays there.
Caught hunt(const Entry& entry) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return {};
  const pid_t child = fork();
  if (child == 0) {
    active_fault = entry.fault;
    Caught caught;
    for (std::uint64_t seed = 1; seed <= kMostSeeds && caught.seeds == 0; ++seed) {
      try {
        SimCluster(draw(seed, entry.kind)).run();
      } catch (const std::exception& violation) {
        caught.seeds = seed;
        std::strncpy(caught.by, violation.what(), sizeof caught.by - 1);
        if (char* options = std::strstr(caught.by, "  [seed")) *options = '\0';
        caught.clean_without = is_clean_without(entry, seed);
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

class DeliberateFault : public testing::TestWithParam<Entry> {};

TEST_P(DeliberateFault, IsCaughtByTheGeneralInvariants) {
  const Entry& entry = GetParam();
  const Caught caught = hunt(entry);
  std::printf("%-28s rule %-3s %5llu seeds  %s\n", entry.name, entry.rule,
              static_cast<unsigned long long>(caught.seeds), caught.by);
  EXPECT_GT(caught.seeds, 0U) << entry.name << " was not caught: " << caught.by;
  EXPECT_TRUE(caught.clean_without) << "without the fault the schedule fails too";
}

INSTANTIATE_TEST_SUITE_P(All, DeliberateFault, testing::ValuesIn(kFaults),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace swiftbalancer::simulation
