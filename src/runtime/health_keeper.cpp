#include "runtime/health_keeper.hpp"

#include <new>
#include <utility>

namespace swiftbalancer {
namespace {

std::string named(int member, std::span<const int> ranks) {
  const auto at = static_cast<std::size_t>(member);
  return "rank " + (member >= 0 && at < ranks.size() ? std::to_string(ranks[at]) : "?");
}

std::string hashes_of(std::span<const PacketHeader> set, const GenerationId& generation,
                      std::span<const int> ranks) {
  std::string hashes;
  for (const PacketHeader& packet : set) {
    if (packet.open_step != generation.step || packet.plan_hash == 0) continue;
    hashes +=
        " " + named(static_cast<int>(packet.rank), ranks) + " " + std::to_string(packet.plan_hash);
  }
  return hashes;
}

bool tells_of_failure(const BalancerEvent& event) {
  switch (event.reason) {
    case Reason::kDifferentPlans:
    case Reason::kTooLate:
    case Reason::kPlannerFailed:
    case Reason::kCopyFailed:
    case Reason::kTooOld:
      return true;
    default:
      return event.kind == BalancerEventKind::kPlannersReset;
  }
}

std::string failure_of(const BalancerEvent& event, std::span<const PacketHeader> set,
                       std::span<const int> ranks) {
  const auto generation = [&] { return "generation " + std::to_string(event.generation.step); };
  const auto layer = [&] {
    return "MoE layer " + std::to_string(event.plan->units[event.unit].moe_layer_id);
  };
  switch (event.reason) {
    case Reason::kDifferentPlans:
      return generation() +
             " closed, the ranks made different plans:" + hashes_of(set, event.generation, ranks);
    case Reason::kTooLate:
      return generation() + " closed, " + named(event.rank, ranks) + " had no plan in time";
    case Reason::kPlannerFailed:
      return generation() + " closed, planning failed on " + named(event.rank, ranks);
    case Reason::kCopyFailed:
      return generation() + ": a copy of " + layer() + " failed on " + named(event.rank, ranks);
    case Reason::kTooOld:
      return generation() + ": copies of " + layer() + " do not end, " + named(event.rank, ranks) +
             " is furthest behind; its moves are given up";
    default:
      break;
  }
  return named(event.rank, ranks) + " has lost its load history: all ranks begin theirs anew";
}

}  // namespace

// The state counts, also where there is no memory for words.
template <typename Words>
void HealthKeeper::note(std::uint64_t step, bool& state, const Words& words, bool logs) noexcept {
  ++health_.failures;
  failed_at_ = step;
  const bool turns = !failing(), is_news = !std::exchange(state, true);
  if (!is_news) return;
  try {
    const std::string reason = words();
    if (turns) health_.reason = reason;
    if (logs) say("rank " + std::to_string(first_rank_) + ": " + reason);
  } catch (const std::bad_alloc&) {
    if (turns) health_.reason = "out of memory";
  }
}

void HealthKeeper::step_failed(std::uint64_t step, const std::string& reason) noexcept {
  note(step, waiting_, [&] { return reason; });
}

void HealthKeeper::hear(const BalancerEvent& event, std::span<const PacketHeader> set,
                        std::span<const int> ranks, std::uint64_t step) noexcept {
  if (event.kind != BalancerEventKind::kBalancingOff) {
    if (!tells_of_failure(event)) return;
    // The units that a set drops for one reason are one failure.
    const Heard now{event.generation, event.reason, step};
    if (event.kind == BalancerEventKind::kDropped && std::exchange(heard_, now) == now) return;
    return note(step, failed_, [&] { return failure_of(event, set, ranks); });
  }
  if (off_here_) return;
  failed_ = waiting_ = false;  // the last word replaces what was wrong before
  note(step, off_elsewhere_, [&] {
    return "the planner of " + named(event.rank, ranks) + " is gone for good: balancing is off";
  });
}

void HealthKeeper::seen_to_work(const GenerationId& generation, std::uint64_t packet_lag) noexcept {
  if (health_.planner_running && generation.step + packet_lag > failed_at_) failed_ = false;
}

void HealthKeeper::take(const Report& report, std::uint64_t step) noexcept {
  switch (report.kind) {
    case Report::Kind::kObserved:
      if (!off_here_) health_.planner_running = true;
      return;
    case Report::Kind::kPlannerLost:
      health_.planner_running &= report.mended;
      health_.planner_restarts = restarts_before_ + static_cast<int>(report.cursor);
      // The worker has said how.
      return note(step, failed_, [] { return std::string("the planner was lost"); }, false);
    case Report::Kind::kPlannerOff:
      health_.planner_running = false;
      failed_ = waiting_ = off_elsewhere_ = false;  // as above
      return note(step, off_here_, [] {
        return std::string("the planner was restarted too often: balancing is off");
      });
    default:
      return;
  }
}

void HealthKeeper::planner_made_anew() noexcept {
  restarts_before_ = health_.planner_restarts;
  health_.planner_running = !off_here_;
}

void HealthKeeper::enter(std::uint32_t membership, std::uint64_t step, const std::string& lost,
                         std::size_t num_ranks) {
  health_.membership = membership;
  if (!lost.empty()) {
    failed_ = waiting_ = off_elsewhere_ = false;  // of the old membership
    note(step, failed_, [&] {
      return "rank " + lost + " lost at step " + std::to_string(step) + "; " +
             std::to_string(num_ranks) + " ranks go on";
    });
  }
  failed_ = waiting_ = off_elsewhere_ = false;
}

Health HealthKeeper::health() const {
  Health health = health_;
  health.ok = !failing();
  return health;
}

}  // namespace swiftbalancer
