#pragma once
// The hook for deliberate faults of src/runtime. The fault build of the simulation replaces this
// header (tests/simulation/faulty/). Here faulty() is a constant false, and the compiler drops what
// hangs on it.

#include <cstdint>

namespace swiftbalancer {

enum class Fault : std::uint8_t {
  kEarlyUse,
  kGoOnAlone,
  kRefreshPacket,
  kGatherSkipped,
  kLateBase,
  kWeakHash,
  kPoolIgnored,
  kLoadsByCurrent,
  kLoadsUnsplit,
  kStaleTable,
  kDiscardOnNotice,
  kNoStepSync,
  kCountersKept,
  kPlannerKept,
  kRehomeByRank,
  kReloadSkipped,
};

constexpr bool faulty(Fault) noexcept { return false; }

}  // namespace swiftbalancer
