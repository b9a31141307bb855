#pragma once
// For harnesses that decide when finished work counts (a simulated device): what the worker has
// done is told in packets only when its virtual time has come. Not part of the product's interface.
// Engine thread.

#include <chrono>
#include <cstdint>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {

class Balancer;

/// How far the worker is with what the agreement waits for.
struct WorkerProgress {
  std::uint64_t observed_step = 0;  ///< Last packet set whose loads the planner has seen.
  bool plan_ready = false;          ///< The open generation's plan is held here (or has failed).
  std::uint32_t staged_cursor =
      0;  ///< Units of the active plan, in order, whose bytes are all here.
};

class SimulatedProgress {
 public:
  /// Waits in wall time, outside the four calls, until the worker has got at least as far as
  /// `target`, and reports exactly `target` in the packets that follow. Never called: packets
  /// report the true progress. @returns kTimeout after the balancer's deadline.
  static Status hold_at(Balancer& balancer, const WorkerProgress& target);
  /// Wall time that hold_at() has waited.
  static std::chrono::nanoseconds held_time(const Balancer& balancer) noexcept;
};

}  // namespace swiftbalancer
