#pragma once
// Starting the ranks of a run and collecting their records: as forked processes over shared memory,
// or as threads of this process. Both return the records by rank, or throw one Error for the whole
// run: the first cause, naming the rank. Called by serve(), on the caller's thread, which is also
// where progress is reported with processes.

#include <functional>
#include <string>
#include <vector>

#include "engine/rank_engine.hpp"

namespace swiftbalancer::engine {

/// progress(step, line), called now and then.
using ProgressLine = std::function<void(std::uint64_t step, const std::string& line)>;

/// What the ranks leave behind.
struct RanksResult {
  std::vector<RankRecord> records;            ///< Of those that went to the end, by rank.
  std::vector<MembershipRecord> memberships;  ///< Entered after the first.
  std::vector<LossRecord> losses;             ///< The others.
  std::vector<std::string> faults;            ///< As in RunRecord.
};

RanksResult run_threads(const RunPlan& plan, const ProgressLine& progress);
/// Forks the ranks, one that joins while the others serve. Leaves no process and no shared-memory
/// name behind, whatever happens (also on SIGINT and SIGTERM, which end the run with an Error).
RanksResult run_processes(const RunPlan& plan, const ProgressLine& progress);

/// What ended a rank.
struct RankFailure {
  int rank = 0;
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  bool died = false;  ///< The process is gone without a word.
};
/// @throws Error for the cause among failures, in the order in which they came: a rank that died,
/// else one that failed by
///         itself, else the first that noticed.
[[noreturn]] void throw_cause(const std::vector<RankFailure>& failures);

}  // namespace swiftbalancer::engine
