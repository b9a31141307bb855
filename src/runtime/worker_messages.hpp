#pragma once
// What engine thread and balancer worker tell each other, through one lock-free queue each way.

#include <cstdint>
#include <memory>

#include <swiftbalancer/balancer_events.hpp>

#include "runtime/prepared_plan.hpp"

namespace swiftbalancer {

/// Engine thread to worker, carried out in order.
struct Command {
  enum class Kind : std::uint8_t {
    kPostPacket,  ///< Ring slot `slot` holds the packet of `step`: gather it.
    kDecision,    ///< The ranks have decided `decision`; kAdopted: `plan` is the one.
    kObserve,     ///< The set of `step` in ring slot `slot` was used: its loads are evidence now.
    kRelease,     ///< Nobody reads `released` any more: it is deleted here.
  };
  Kind kind = Kind::kPostPacket;
  std::uint32_t slot = 0;
  std::uint64_t step = 0;
  BalancerEvent decision{};
  PreparedPlan* plan = nullptr;  ///< The engine's; the worker fills in what is staged.
  std::unique_ptr<PreparedPlan> released{};
};

/// Worker to engine thread.
struct Report {
  enum class Kind : std::uint8_t {
    kSetReady,     ///< The packet set of `step` is complete and checked.
    kPlanReady,    ///< `plan` was made for its generation; it is the engine's from here on.
    kPlanFailed,   ///< Planning `generation` failed.
    kStaged,       ///< Units of `generation` staged: `cursor`; their installs are filled.
    kUnitFailed,   ///< `cursor` names the unit of `generation` that cannot be staged.
    kObserved,     ///< Loads of the set of `step` are evidence; `wants_rebalance` as of then.
    kPlannerLost,  ///< The load history is gone; `cursor` counts the planner's restarts, with
                   ///< the one that follows. `mended`: it has begun anew since then.
    kPlannerOff,   ///< The planner is gone for good.
  };
  Kind kind = Kind::kSetReady;
  bool wants_rebalance = false;
  bool mended = false;
  std::uint32_t cursor = 0;
  std::uint64_t step = 0;
  GenerationId generation{};
  std::unique_ptr<PreparedPlan> plan{};
};

}  // namespace swiftbalancer
