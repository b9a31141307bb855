#pragma once
// The life of a rank's process, from the fork to its end.

#include "engine/rank_engine.hpp"
#include "engine/rank_groups.hpp"

namespace swiftbalancer::engine {

/// A rank goes on when others are lost.
bool survives_losses(const RunPlan& plan);

/// Runs a rank and ends the process.
/// @param groups of the first membership; without names the rank joins a run at work, when it is
/// told.
/// @param frames up to the parent. @param notices down from it. @param released reads as ended when
/// the parent lets the rank go, or is gone.
[[noreturn]] void run_rank_process(const RunPlan& plan, int rank, const GroupNames& groups,
                                   FrameWriter& frames, FrameReader& notices, int released);

}  // namespace swiftbalancer::engine
