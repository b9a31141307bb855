#include "runtime/guarded_planning.hpp"

#include <algorithm>
#include <deque>
#include <exception>
#include <utility>
#include <vector>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {
namespace {

using Kind = PlanningEvent::Kind;
using std::chrono::milliseconds;

constexpr milliseconds kLongestPause{10'000};

// Events in the order in which they came. A loss and a failure each have a place of their own, so
// that they need no memory: they are told when it is gone.
class PlanningEvents {
 public:
  void observed(std::uint64_t step, bool wants_rebalance) {
    PlanningEvent event;
    event.step = step;
    event.wants_rebalance = wants_rebalance;
    queue_.push_back(std::move(event));
  }
  void planned(const GenerationId& generation, Plan plan) {
    PlanningEvent event;
    event.kind = Kind::kPlan;
    event.generation = generation;
    event.plan = std::move(plan);
    queue_.push_back(std::move(event));
  }
  /// Instead of an earlier one that nobody has fetched: that generation is closed.
  void failed(const GenerationId& generation, std::string why) noexcept {
    failure_.emplace();
    failure_->event.kind = Kind::kFailed;
    failure_->event.generation = generation;
    failure_->event.why = std::move(why);
    failure_->num_before = queue_.size();
  }
  /// Likewise: the history is lost once.
  void lost(Kind kind, std::string why) noexcept {
    if (!loss_) loss_.emplace().num_before = queue_.size();
    loss_->event.kind = kind;
    loss_->event.mended = false;
    loss_->event.why = std::move(why);
  }

  /// What was lost has begun anew since.
  void mend() noexcept {
    if (loss_) loss_->event.mended = true;
  }

  std::optional<PlanningEvent> next() noexcept {
    std::optional<PlanningEvent> event;
    for (std::optional<Late>* late : {&loss_, &failure_}) {
      if (!*late || (*late)->num_before != 0) continue;
      event = std::move((*late)->event);
      late->reset();
      return event;
    }
    if (queue_.empty()) return event;
    event = std::move(queue_.front());
    queue_.pop_front();
    for (std::optional<Late>* late : {&loss_, &failure_}) {
      if (*late) --(*late)->num_before;
    }
    return event;
  }

 private:
  struct Late {
    PlanningEvent event{};
    std::size_t num_before = 0;  // events of the queue that come first
  };
  std::deque<PlanningEvent> queue_;
  std::optional<Late> loss_;
  std::optional<Late> failure_;
};

// A text that says less when there is no memory for all of it.
template <typename Compose>
std::string text_or(const char* short_text, const Compose& compose) noexcept {
  try {
    return compose();
  } catch (...) {
    return short_text;  // Short enough to need no memory.
  }
}

class GuardedPlanning final : public Planning, private PlanAnswers {
 public:
  GuardedPlanning(std::unique_ptr<PlanMaker> maker, GuardOptions options)
      : options_(std::move(options)), maker_(std::move(maker)) {}

  void restart(const ClusterShape& shape, const ServedState& served) noexcept override {
    if (off_) return;
    forget();
    events_.mend();
    has_state_ = guarded([&] {
      shape_ = shape;
      maker_->restart(shape, without_empty_slots(served, shape));
    });
  }
  void on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                    std::span<const std::uint32_t> shares) noexcept override {
    if (!has_state_) return;
    guarded([&] {
      row_.assign(placement.begin(), placement.end());
      fill_empty_slots(row_, *shape_);
      maker_->on_committed(moe_layer_id, row_, shares);
    });
  }
  void on_rebalancing(bool rebalancing) noexcept override {
    if (has_state_) guarded([&] { maker_->on_rebalancing(rebalancing); });
  }
  void observe(std::uint64_t step, const ExpertLoad& load, Phase phase) noexcept override {
    ++unanswered_;
    if (!has_state_) return forget_observations();
    guarded([&] { maker_->observe(step, load, phase, *this); });
  }
  void open(const GenerationId& generation) noexcept override {
    open_ = generation;
    if (!has_state_) return fail_open({});  // Why was told when it was lost.
    guarded([&] { maker_->open(generation, *this); });
  }
  void close() noexcept override {
    if (has_state_) guarded([&] { maker_->close(); });
    open_ = {};
  }
  bool advance() noexcept override {
    bool more = true;
    guarded([&] { more = maker_->advance(*this); });
    return more;
  }
  std::optional<PlanningEvent> next_event() noexcept override { return events_.next(); }
  bool must_be_polled() const noexcept override { return maker_->must_be_polled(); }
  bool running() const noexcept override { return !off_ && maker_->running(); }
  int restarts() const noexcept override { return maker_->restarts(); }
  std::uint64_t ignored() const noexcept override { return ignored_; }

 private:
  // ---- Answers ----
  void observed(std::uint64_t step, bool wants_rebalance) override {
    events_.observed(step, wants_rebalance);
    --unanswered_;
  }
  void planned(Plan plan) override {
    events_.planned(open_, std::move(plan));
    open_ = {};
  }
  void failed(const char* why) noexcept override {
    fail_open(text_or("planning failed", [&] { return std::string("planning failed: ") + why; }));
  }

  // @returns whether it went well.
  template <typename Call>
  bool guarded(const Call& call) noexcept {
    try {
      call();
      return true;
    } catch (const PlannerLost& lost) {
      lose(" ", lost.what());
    } catch (const std::exception& error) {
      lose(" failed: ", error.what());
    } catch (...) {
      lose(" failed", "");
    }
    return false;
  }

  void lose(const char* verb, const char* how) noexcept {
    const int restart = maker_->restarts() + 1;
    off_ = restart > options_.max_restarts;
    const milliseconds pause = pause_before(restart);
    events_.lost(off_ ? Kind::kOff : Kind::kLost, text_or("planner lost", [&] {
                   return options_.name + verb + how + "; " + outlook(restart, pause);
                 }));
    maker_->abandon(off_ ? std::nullopt : std::optional(pause));
    if (open_) fail_open({});
    forget();
    has_state_ = false;
  }

  milliseconds pause_before(int restart) const noexcept {
    constexpr int kDoublings = 20;
    return std::min(kLongestPause, options_.first_pause * (1 << std::min(restart - 1, kDoublings)));
  }

  std::string outlook(int restart, milliseconds pause) const {
    if (off_) {
      return "it was started again " + std::to_string(restart - 1) +
             " times, which is all that planner_restarts allows: balancing is off";
    }
    const std::string times =
        " (" + std::to_string(restart) + " of " + std::to_string(options_.max_restarts) + " times)";
    if (pause.count() == 0) return "it begins anew with those of all ranks" + times;
    return "started again in " + std::to_string(pause.count()) + " ms" + times;
  }

  void fail_open(std::string why) noexcept {
    events_.failed(std::exchange(open_, {}), std::move(why));
  }

  // What was asked and not answered.
  void forget() noexcept {
    forget_observations();
    open_ = {};
  }
  void forget_observations() noexcept { ignored_ += std::exchange(unanswered_, 0); }

  // Constant after construction.
  const GuardOptions options_;
  const std::unique_ptr<PlanMaker> maker_;

  PlanningEvents events_;
  std::optional<ClusterShape> shape_;  // as of restart()
  std::vector<std::int32_t> row_;      // scratch of on_committed()
  bool has_state_ = false;             // false until restart(), and from a loss on
  bool off_ = false;                   // for good
  GenerationId open_;
  std::uint64_t unanswered_ = 0;  // observations
  std::uint64_t ignored_ = 0;
};

}  // namespace

std::unique_ptr<Planning> make_guarded_planning(std::unique_ptr<PlanMaker> maker,
                                                GuardOptions options) {
  if (options.max_restarts < 0) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "planner_restarts is " + std::to_string(options.max_restarts) + "; allowed: 0 or more");
  }
  return std::make_unique<GuardedPlanning>(std::move(maker), std::move(options));
}

}  // namespace swiftbalancer
