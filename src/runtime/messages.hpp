#pragma once
// What engine thread and worker tell each other, through one lock-free queue each way. Plain
// values; pointers hand over ownership as said.

#include <cstdint>

#include <swiftbalancer/migration_plan.hpp>

#include "runtime/prepared_plan.hpp"

namespace swiftbalancer {

/// Engine thread to worker, carried out in order.
struct Command {
  enum class Kind : std::uint8_t {
    kPostPacket,    ///< ring slot `slot` holds the packet of `step`: gather it.
    kObserve,       ///< The set of `step` in ring slot `slot` was used: its loads are evidence now.
    kOpen,          ///< Plan `generation` on what is served now.
    kClose,         ///< `generation` ended without a plan: stop planning it.
    kAdopt,         ///< Start the copies of `plan`.
    kDrop,          ///< Cancel `unit` of the active plan.
    kCommitted,     ///< `unit` of the active plan was installed.
    kRetire,        ///< The active plan has no pending unit any more.
    kResetPlanner,  ///< All ranks begin their load histories anew.
    kRelease,       ///< Nobody reads `plan` any more: delete it.
  };
  Kind kind = Kind::kPostPacket;
  std::uint32_t unit = 0;
  std::uint32_t slot = 0;
  Reason reason = Reason::kNone;  ///< kDrop, kClose.
  std::uint64_t step = 0;
  GenerationId generation{};
  PreparedPlan* plan = nullptr;
};

/// Worker to engine thread.
struct Report {
  enum class Kind : std::uint8_t {
    kSetReady,     ///< The packet set of `step` is complete and checked.
    kPlanReady,    ///< `plan` was made for `generation`; the engine releases it.
    kPlanFailed,   ///< Planning `generation` failed.
    kStaged,       ///< Units of `generation` staged: `cursor`; their installs are filled.
    kUnitFailed,   ///< `cursor` names the unit of `generation` that cannot be staged.
    kObserved,     ///< Loads of the set of `step` are evidence; `wants_rebalance` as of then.
    kPlannerLost,  ///< The load history is gone; `cursor` counts the planner's restarts, with
                   ///< the one that follows.
    kPlannerOff,   ///< The planner is gone for good.
    kStopped,      ///< The worker ended: transport failed or a peer is lost. The text is in
                   ///< Worker::failure().
  };
  Kind kind = Kind::kSetReady;
  bool wants_rebalance = false;
  std::uint32_t cursor = 0;
  std::uint64_t step = 0;
  GenerationId generation{};
  PreparedPlan* plan = nullptr;
};

}  // namespace swiftbalancer
