#pragma once
// What is wrong with balancing, here and on any rank, as Balancer::health() tells it; each failure
// is said once in the log. Engine thread only.

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include <swiftbalancer/balancer_events.hpp>
#include <swiftbalancer/balancer_stats.hpp>

#include "protocol/packet.hpp"
#include "runtime/worker_messages.hpp"

namespace swiftbalancer {

class HealthKeeper {
 public:
  using Log = std::function<void(const std::string&)>;
  /// @param log throws nothing.
  HealthKeeper(int first_rank, Log log) : first_rank_(first_rank), log_(std::move(log)) {}

  void say(const std::string& line) const {
    if (log_) log_(line);
  }

  /// What the ranks have decided, with the set that it came of: what went wrong on any of them.
  /// @param ranks numbers in the first shape, by which they are named.
  void hear(const BalancerEvent& event, std::span<const PacketHeader> set,
            std::span<const int> ranks, std::uint64_t step) noexcept;
  /// A plan that was opened at `generation` has come to its end on all ranks.
  void seen_to_work(const GenerationId& generation, std::uint64_t packet_lag) noexcept;
  /// A step that had failed was begun after all.
  void step_begun() noexcept { waiting_ = false; }
  /// A begin_step failed, and may be repeated.
  void step_failed(std::uint64_t step, const std::string& reason) noexcept;
  /// What the worker reports of the planner here.
  void take(const Report& report, std::uint64_t step) noexcept;

  /// The planner begins anew with a membership: its restarts are counted on.
  void planner_made_anew() noexcept;
  /// A membership begins: earlier failures do not count in it, except a planner that is off here
  /// for good. @param lost "1, 3": ranks that are gone; empty: none.
  void enter(std::uint32_t membership, std::uint64_t step, const std::string& lost,
             std::size_t num_ranks);

  bool planner_off_here() const noexcept { return off_here_; }
  Health health() const;

 private:
  struct Heard {
    GenerationId generation;
    Reason reason = Reason::kNone;
    std::uint64_t step = 0;
    friend bool operator==(const Heard&, const Heard&) = default;
  };
  bool failing() const noexcept { return failed_ || waiting_ || off_here_ || off_elsewhere_; }
  /// Something went wrong; `words()` says what. One line of the log for what goes on failing in one
  /// way.
  template <typename Words>
  void note(std::uint64_t step, bool& state, const Words& words, bool logs = true) noexcept;

  const int first_rank_;
  const Log log_;
  bool failed_ = false;         // until balancing is seen to work again
  bool waiting_ = false;        // a begin_step failed and was not repeated yet
  bool off_here_ = false;       // for good
  bool off_elsewhere_ = false;  // in this membership
  std::uint64_t failed_at_ = 0;
  Heard heard_;              // the last drop that told of a failure
  int restarts_before_ = 0;  // of planners of earlier memberships
  Health health_;
};

}  // namespace swiftbalancer
