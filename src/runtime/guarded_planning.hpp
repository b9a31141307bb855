#pragma once
// Contains the failures of a planner, wherever it runs. Anything that it throws, std::bad_alloc
// included, counts as a lost planner: the loss is reported once, and the planner begins anew
// without its load history. After max_restarts of these, balancing is off. Worker thread only.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>

#include "runtime/planning.hpp"

namespace swiftbalancer {

/// Thrown by a PlanMaker that is gone. what() goes behind its name: "was killed by signal 9
/// (Killed)".
class PlannerLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Takes the answers of a PlanMaker. The first two may throw, for want of memory.
class PlanAnswers {
 public:
  virtual void observed(std::uint64_t step, bool wants_rebalance) = 0;
  /// The open generation.
  virtual void planned(Plan plan) = 0;
  virtual void failed(const char* why) noexcept = 0;

 protected:
  ~PlanAnswers() = default;
};

/// What makes the plans: a planner in this thread, or the process that has one. Calls as those of
/// Planning, but no slot is empty; whatever one of them throws, abandon() follows. Before
/// restart(), the first and those after a loss, only advance() is called and what stands behind it.
class PlanMaker {
 public:
  virtual ~PlanMaker() = default;
  virtual void restart(const ClusterShape& shape, const ServedState& served) = 0;
  virtual void on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                            std::span<const std::uint32_t> shares) = 0;
  virtual void on_rebalancing(bool rebalancing) = 0;
  virtual void observe(std::uint64_t step, const ExpertLoad& load, Phase phase,
                       PlanAnswers& answers) = 0;
  virtual void open(const GenerationId& generation, PlanAnswers& answers) = 0;
  virtual void close() = 0;
  virtual bool advance(PlanAnswers& answers) = 0;
  /// Gives up all it has. It may begin again after the pause; without one never.
  virtual void abandon(std::optional<std::chrono::milliseconds> pause) noexcept = 0;
  virtual bool must_be_polled() const noexcept { return false; }
  virtual bool running() const noexcept = 0;
  /// How often it has begun again since it was made.
  virtual int restarts() const noexcept = 0;
};

struct GuardOptions {
  std::string name;                          ///< Begins what is said of a loss.
  int max_restarts = 5;                      ///< Restarts allowed; the next loss is kOff.
  std::chrono::milliseconds first_pause{0};  ///< Before the first restart; doubles up to 10 s.
};

/// @throws Error kInvalidArgument: a negative limit.
std::unique_ptr<Planning> make_guarded_planning(std::unique_ptr<PlanMaker> maker,
                                                GuardOptions options);

}  // namespace swiftbalancer
