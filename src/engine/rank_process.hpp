#pragma once
// The life of a rank's process, from the fork to its end.

#include <string>

#include "engine/rank_engine.hpp"

namespace swiftbalancer::engine {

/// A rank goes on when others are lost.
bool survives_losses(const RunPlan& plan);

/// Runs a rank over the groups of that name and ends the process.
/// @param frames up to the parent. @param notices down from it. @param released reads as ended when
/// the parent lets the rank go, or is gone.
[[noreturn]] void run_rank_process(const RunPlan& plan, int rank, const std::string& exchange,
                                   const std::string& balancer, FrameWriter& frames,
                                   FrameReader& notices, int released);

}  // namespace swiftbalancer::engine
