#pragma once
// One rank of a run: serves its own requests, runs the experts of its slots for everybody, and
// keeps the balancer going. The whole loop is on one thread, the rank's engine thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include <swiftbalancer/balancer.hpp>
#include <swiftbalancer/shape.hpp>
#include <swiftbalancer/transport.hpp>

#include "engine/rank_pipe.hpp"
#include "engine/record.hpp"
#include "engine/recovery.hpp"
#include "engine/scheduler.hpp"
#include "engine/serve.hpp"

namespace swiftbalancer::engine {

/// What all ranks of a run share; immutable while they run.
struct RunPlan {
  ServeOptions options;
  std::unique_ptr<Model> model;
  std::unique_ptr<ClusterShape> shape;
  Placement initial;        ///< Served from the first step on.
  bool warm_start = false;  ///< It comes from a file.
  ShapeOptions shape_options;
  Traffic traffic;
  HardwareProfile hardware;  ///< With a timed device.
  std::vector<int> cores;    ///< [2 * num_ranks] engine and worker of each rank; empty: not pinned.
};

/// Where a rank stands among the others, and whom it tells what.
struct RankContext {
  int rank = 0;
  std::unique_ptr<Transport> exchange;  ///< For dispatch and combine, this thread.
  std::unique_ptr<Transport> balancer;  ///< For the balancer's worker.
  bool joins = false;  ///< A run at work, with next_membership() and in place of these transports.
  std::function<void(std::uint64_t step, const std::string& line)> progress;  ///< Rank 0 only.
  std::function<void(const std::string& line)> log;  ///< Of the balancer; rank 0 only.
  /// What the parent has sent since the last call; does not wait. Empty: it never sends anything.
  std::function<void(const FrameHandler&)> receive;
  /// Takes what the rank has counted so far. Empty: nobody watches.
  std::function<void(const RankSnapshot& snapshot)> snapshot;
  /// Takes the number of a step made. Empty: nobody counts.
  std::function<void(std::uint64_t step)> stepped;
  /// Takes the first step of a membership that was entered, before that step. Empty: nobody asks.
  std::function<void(std::uint64_t first_step)> resumed;
  /// Takes requests answered since the last call. Empty: the record is enough.
  std::function<void(std::span<const Output> outputs)> answered;
  /// Waits for the live ranks of a new membership. @throws Error when there will be none for this
  /// rank. Empty: a lost rank ends the run.
  std::function<Membership()> next_membership;
  /// Whether there is a new one already: the run goes on with it after this step.
  std::function<bool()> membership_changes;
  /// Takes the rank's record; returns true when all ranks are done, false when others were lost
  /// meanwhile and the run goes on. Until then this rank's transports stay open, since a closed one
  /// looks like a lost rank to those that still wait.
  std::function<bool(const RankRecord& record)> deliver;
};

/// Runs a rank to the end and delivers its record. @throws Error: what ended it, one line.
void run_rank(const RunPlan& plan, RankContext context);

}  // namespace swiftbalancer::engine
