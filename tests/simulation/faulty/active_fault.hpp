#pragma once
// Deliberate faults: each switches one rule off, so that a test can show that the general
// invariants of the simulation catch it. They exist in the fault build only, in which the headers
// of this folder take the place of the product's (src/protocol/agreement_rules.hpp and so on).

#include <cstdint>

namespace swiftbalancer {

enum class Fault : std::uint8_t {
  kNone,
  // Sets and packets (rules 1, 2, 11, 14)
  kEarlyUse,       ///< A set is used as soon as it is complete.
  kGoOnAlone,      ///< begin_step does not wait for its set.
  kRefreshPacket,  ///< A packet is not frozen: the poster reads its own as of now.
  kGatherSkipped,  ///< A failed gather counts as complete.
  kOldPackets,     ///< Sets posted before a reconfiguration are used.
  // Generations and hashes (rules 3, 4, 5)
  kLateBase,         ///< The base is taken when planning ends.
  kWeakHash,         ///< The hash covers the generation only.
  kNoBaseCheck,      ///< Layers whose base epoch changed are adopted.
  kReadopt,          ///< A hash for another generation adopts.
  kAdoptMajority,    ///< One rank that is not ready is ignored.
  kFirstHashWins,    ///< Different hashes are not compared.
  kCloseOnNotReady,  ///< "Not ready" on this rank closes.
  kKeepOldPlan,      ///< Adoption leaves the units of the plan before pending.
  // Staging (rules 6, 7, 8)
  kStagedUntagged,   ///< A cursor of another generation counts.
  kStagedRelative,   ///< The cursor counts from the first pending unit.
  kMaxStaged,        ///< The largest cursor of the set.
  kOwnStaged,        ///< This rank's own cursor.
  kMissingIsStaged,  ///< A unit counts as staged before its last copy is here.
  kSkipFailed,       ///< A failed unit counts as passed.
  kAbortOwnOnly,     ///< Aborts of other ranks are ignored.
  kDropOneUnit,      ///< A drop spares the later units of its layer.
  kNoOlderDrain,     ///< Staged although copies of an older generation are outstanding.
  // Buffers and copies (rules 9, 10)
  kFreeOnDrop,       ///< A dropped copy's buffer is returned at once, its transfer goes on.
  kTagNoGeneration,  ///< Tags do not name the generation.
  kPoolIgnored,      ///< Units may be larger than the pool.
  kAnyOrderGrants,   ///< Buffers are granted from the last unit on.
  kDrainLate,        ///< Owed receives get buffers after new ones.
  kLocalAtCommit,    ///< Copies within a rank are made when the unit is committed.
  kBufferLost,       ///< A dropped unit's buffers are never returned.
  kSplitAnyOrder,    ///< Units of a split layer in reversed order.
  // Loads and tables (rule 15, invariants 3 and 6)
  kLoadsByCurrent,  ///< Loads are read with the placement of now.
  kLoadsUnsplit,    ///< A commit does not split the window.
  kStaleTable,      ///< A commit leaves the dispatch table as it was.
  // Membership (rules 11 to 14)
  kNoRollForward,              ///< A rank that is behind stays behind.
  kDiscardOnNotice,            ///< Promised bytes are dropped when the notice comes.
  kNoStepSync,                 ///< Each rank goes on from its own step.
  kCountersKept,               ///< The agreement's private counters are not made equal.
  kPlannerKept,                ///< The planner keeps its history.
  kRehomeByRank,               ///< Lost experts go where this rank thinks best.
  kReloadSkipped,              ///< Lost experts are placed but not loaded.
  kPlannerLossHidden,          ///< A rank whose planner began anew does not tell.
  kModeLostInReconfiguration,  ///< The agreed mode ends with its membership.
  // Modes, planners, shares
  kPlanOnlyMoves,        ///< Plan-only adopts.
  kResetEachFlaggedSet,  ///< Flags posted before a reset was known reset again.
  kFirstBusyPhase,       ///< The phase of a set is that of the first rank with tokens.
  kTableIgnoresShares,   ///< Dispatch rows are even, whatever was planned.
  // Ends and bounds (rules 17, 18)
  kResetKeepsOpen,  ///< Planners that begin anew leave the generation open.
  kNeverTooOld,     ///< A plan that does not get on stays active.
  kAllAtOnce,       ///< A set commits all that is staged, however much is to be copied.
  kOneDeadline,     ///< All exchanges of a reconfiguration share one deadline.
};

inline Fault active_fault = Fault::kNone;
inline bool faulty(Fault fault) noexcept { return active_fault == fault; }

}  // namespace swiftbalancer
