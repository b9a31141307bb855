#pragma once
// Where the worker's plans are made: in its own thread, or in a planner process. Calls never wait
// and never throw; what comes of them, failures too, is fetched as events. Worker thread only.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/migration_plan.hpp>

#include "planner/planner.hpp"

namespace swiftbalancer {

struct PlanningEvent {
  enum class Kind : std::uint8_t {
    kObserved,  ///< The loads of the set of `step` are evidence; `wants_rebalance` as of then.
    kPlan,      ///< `plan` for `generation`.
    kFailed,    ///< Planning `generation` failed; `why`, unless it was told before.
    kLost,      ///< The load history is gone (crash, restart); `why`. Until restart() nothing is
                ///< planned: open() gives kFailed.
    kOff,       ///< As kLost, for good.
  };
  Kind kind = Kind::kObserved;
  bool wants_rebalance = false;
  bool mended = false;  ///< kLost: restart() came after the loss, before this event was fetched.
  std::uint64_t step = 0;
  GenerationId generation{};
  Plan plan{};
  std::string why{};
};

class Planning {
 public:
  virtual ~Planning() = default;
  /// Begins anew, without any history, on what is served; slots may be empty. Called first, and
  /// whenever all ranks have agreed to. An open generation is over.
  virtual void restart(const ClusterShape& shape, const ServedState& served) = 0;
  /// A layer is served otherwise from now on; slots may be empty. Cost: that row.
  virtual void on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                            std::span<const std::uint32_t> shares) = 0;
  /// Whether a plan is open or migrating. Not, after restart().
  virtual void on_rebalancing(bool rebalancing) = 0;
  /// The loads of the packet set of `step` and the phase that its ranks were in, in the order of
  /// the sets. Answered by kObserved.
  virtual void observe(std::uint64_t step, const ExpertLoad& load, Phase phase) = 0;
  /// Plan a generation on what is served now. Answered by kPlan or kFailed unless closed before.
  virtual void open(const GenerationId& generation) = 0;
  /// The open generation ended: no plan for it is wanted any more.
  virtual void close() = 0;
  /// A bounded piece of work. @returns whether more can be done right now.
  virtual bool advance() = 0;
  virtual std::optional<PlanningEvent> next_event() = 0;
  /// Whether an answer is expected that rings no doorbell: the worker then sleeps shortly only.
  virtual bool must_be_polled() const noexcept { return false; }
  /// Whether plans can be made, and how often the planner was started again.
  virtual bool running() const noexcept { return true; }
  virtual int restarts() const noexcept { return 0; }
  /// Observations that a lost planner never saw or answered.
  virtual std::uint64_t ignored() const noexcept { return 0; }
};

/// In the worker's own thread, one layer per advance(). running() is false from a loss until
/// restart(). @param max_restarts after so many, the next loss is kOff.
/// @throws Error kInvalidArgument: unknown policy, value out of range.
std::unique_ptr<Planning> make_thread_planning(const PlannerConfig& config, int max_restarts);

}  // namespace swiftbalancer
