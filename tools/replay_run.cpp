#include "replay_run.hpp"

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include <swiftbalancer/error.hpp>

#include "io/load_sampler.hpp"
#include "planner/plan_job.hpp"

#include "parse_number.hpp"

namespace swiftbalancer::tool {
namespace {

constexpr double kGoodEnough = 0.05;  // above hindsight
// The agreement of the ranks, with a packet every step: a set is used two steps after it was posted
// (packet_lag), and what comes of it travels in the next one.
constexpr std::int64_t kPacketLag = 2;
constexpr std::int64_t kCopySteps = 2;

Plan finish(PlanJob& job) {
  while (!job.advance()) {
  }
  return job.take();
}

void apply(ServedState& served, const Plan& plan) {
  for (const LayerChange& change : plan.changes) {
    std::ranges::copy(change.plan.placement, served.placement.layer(change.moe_layer_id).begin());
    served.shares[static_cast<std::size_t>(change.moe_layer_id)] = change.plan.shares;
  }
}

double mean_imbalance(const ClusterShape& shape, const ServedState& served,
                      const ExpertLoad& load) {
  return aggregate_imbalance(imbalance_per_layer(shape, served, load)).mean_over_layers;
}

EvenAndSplit score(const ClusterShape& shape, const ServedState& served, const ExpertLoad& load) {
  return {mean_imbalance(shape, ServedState::even(served.placement, shape), load),
          mean_imbalance(shape, served, load)};
}

// What a schedule decides in a step, and what is served from that step on.
struct StepOutcome {
  std::optional<ServedState> decided{};
  std::optional<ServedState> served{};
  std::int64_t moves = 0;
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;
  virtual StepOutcome begin_step(std::int64_t step) = 0;
  virtual void end_step(std::int64_t step, const ExpertLoad& load) = 0;
  /// Changes of the traffic seen so far; -1: it does not look for them.
  virtual int num_changes() const { return -1; }
};

// Plans at fixed steps and serves the plan at once.
class FixedScheduler final : public Scheduler {
 public:
  FixedScheduler(const ClusterShape& shape, PlannerConfig config, const ReplaySchedule& schedule)
      : shape_(shape),
        config_(std::move(config)),
        schedule_(schedule),
        served_(ServedState::initial(shape)),
        sum_(shape.num_moe_layers(), shape.num_logical_experts()) {}

  StepOutcome begin_step(std::int64_t step) override {
    if (step == 0 || step % schedule_.every != 0) return {};
    const auto job =
        make_plan_job({.shape = shape_, .config = config_, .served = served_, .load = sum_});
    const Plan plan = finish(*job);
    sum_ = ExpertLoad(shape_.num_moe_layers(), shape_.num_logical_experts());
    apply(served_, plan);
    return {served_, served_, plan.moves};
  }

  void end_step(std::int64_t step, const ExpertLoad& load) override {
    if (schedule_.every - step % schedule_.every > schedule_.window) return;
    for (int layer = 0; layer < sum_.num_moe_layers(); ++layer) {
      const auto from = load.layer(layer);
      const auto to = sum_.layer(layer);
      for (std::size_t expert = 0; expert < to.size(); ++expert) to[expert] += from[expert];
    }
  }

 private:
  const ClusterShape& shape_;
  PlannerConfig config_;
  ReplaySchedule schedule_;
  ServedState served_;
  ExpertLoad sum_;
};

// The planner as the ranks drive it. What a set shows is known kPacketLag steps later, opens a
// rebalance as much later, whose plan is decided on as much later again; its copies take kCopySteps
// and are served when all ranks know of them.
class OurScheduler final : public Scheduler {
 public:
  OurScheduler(const ClusterShape& shape, const PlannerConfig& config, std::uint64_t interval)
      : planner_(shape, config),
        interval_(static_cast<std::int64_t>(interval)),
        served_(ServedState::initial(shape)) {
    planner_.on_served(served_, false);
  }

  StepOutcome begin_step(std::int64_t step) override {
    StepOutcome outcome;
    if (plan_ && step == opened_ + kPacketLag) {
      outcome.decided = planned_;
      if (plan_->changes.empty()) end_rebalance();
    }
    if (plan_ && step == opened_ + 2 * kPacketLag + kCopySteps) {
      served_ = planned_;
      outcome.served = served_;
      outcome.moves = plan_->moves;
      end_rebalance();
    }
    if (flags_.size() == kPacketLag) {
      const bool wanted = flags_.front();
      flags_.pop_front();
      if (!plan_ && (wanted || step % interval_ == 0)) open(step);
    }
    if (sets_.size() == kPacketLag) {
      planner_.observe(sets_.front());
      sets_.pop_front();
    }
    return outcome;
  }

  void end_step(std::int64_t, const ExpertLoad& load) override {
    sets_.push_back(load);
    flags_.push_back(planner_.wants_rebalance());
  }

  int num_changes() const override { return planner_.num_changes(); }

 private:
  void open(std::int64_t step) {
    const auto job = planner_.begin_plan(static_cast<std::uint64_t>(step));
    planner_.on_served(served_, true);
    plan_ = finish(*job);
    planned_ = served_;
    apply(planned_, *plan_);
    opened_ = step;
  }

  void end_rebalance() {
    plan_.reset();
    planner_.on_served(served_, false);
  }

  Planner planner_;
  std::int64_t interval_;
  ServedState served_;
  ServedState planned_;
  std::optional<Plan> plan_;
  std::int64_t opened_ = 0;
  std::deque<ExpertLoad> sets_;  // posted, not used yet
  std::deque<bool> flags_;
};

std::unique_ptr<Scheduler> make_scheduler(const ReplayOptions& options, const ClusterShape& shape,
                                          const ReplaySchedule& schedule) {
  PlannerConfig config = options.planner;
  config.policy = schedule.policy;
  if (schedule.every > 0) return std::make_unique<FixedScheduler>(shape, config, schedule);
  return std::make_unique<OurScheduler>(shape, config, options.rebalance_interval);
}

// One schedule on its way through the windows.
class Run {
 public:
  Run(const ReplayOptions& options, const ClusterShape& shape, const ReplaySchedule& schedule)
      : options_(options),
        shape_(shape),
        bins_(bins_of_window(options.steps_per_window)),
        scheduler_(make_scheduler(options, shape, schedule)),
        served_(ServedState::initial(shape)),
        result_{schedule, {}} {}

  void begin_window(std::size_t window, const ExpertLoad& load, std::int64_t step,
                    double hindsight) {
    load_ = &load;
    now_ = score(shape_, served_, load);
    WindowAnswer& answer = result_.answers.emplace_back();
    answer.window = window;
    answer.first_step = step;
    answer.hindsight = hindsight;
    answer.at_first = now_;
    changes_before_ = scheduler_->num_changes();
    answer.over_time.resize(bins_.size());
    if (now_.split <= hindsight + kGoodEnough) answer.decided = answer.served = 0;
  }

  void step(std::int64_t step, const ExpertLoad& sampled) {
    WindowAnswer& answer = result_.answers.back();
    const std::int64_t since = step - answer.first_step;
    const StepOutcome outcome = scheduler_->begin_step(step);
    const double good = answer.hindsight + kGoodEnough;
    if (outcome.decided && answer.decided < 0 &&
        mean_imbalance(shape_, *outcome.decided, *load_) <= good)
      answer.decided = since;
    if (outcome.served) {
      served_ = *outcome.served;
      now_ = score(shape_, served_, *load_);
      ++answer.plans;
      answer.moves += outcome.moves;
      if (answer.served < 0 && now_.split <= good) answer.served = since;
    }
    scheduler_->end_step(step, sampled);
    if (changes_before_ >= 0) answer.changes = scheduler_->num_changes() - changes_before_;
    count(answer, since, sampled);
  }

  ReplayResult take() { return std::move(result_); }

 private:
  void count(WindowAnswer& answer, std::int64_t since, const ExpertLoad& sampled) {
    const auto steps = static_cast<double>(options_.steps_per_window);
    answer.mean.even += now_.even / steps;
    answer.mean.split += now_.split / steps;
    answer.mean_sampled += mean_imbalance(shape_, served_, sampled) / steps;
    const auto next = std::ranges::upper_bound(bins_, since);
    const std::int64_t last = next == bins_.end() ? options_.steps_per_window : *next;
    const auto length = static_cast<double>(last - *(next - 1));
    EvenAndSplit& bin = answer.over_time[static_cast<std::size_t>(next - bins_.begin()) - 1];
    bin.even += now_.even / length;
    bin.split += now_.split / length;
  }

  const ReplayOptions& options_;
  const ClusterShape& shape_;
  std::vector<std::int64_t> bins_;
  std::unique_ptr<Scheduler> scheduler_;
  ServedState served_;
  const ExpertLoad* load_ = nullptr;
  EvenAndSplit now_{};
  int changes_before_ = 0;  // seen before the window
  ReplayResult result_;
};

// The better of a plan for exactly these loads with planned shares and EPLB's with an even split.
double hindsight_of(const ClusterShape& shape, const ExpertLoad& load) {
  double best = 0.0;
  for (const char* policy : {"swift", "eplb"}) {
    PlannerConfig config;
    config.policy = policy;
    config.min_gain = 0.0;
    ServedState served = ServedState::initial(shape);
    const auto job =
        make_plan_job({.shape = shape, .config = config, .served = served, .load = load});
    apply(served, finish(*job));
    const double imbalance = mean_imbalance(shape, served, load);
    if (best == 0.0 || imbalance < best) best = imbalance;
  }
  return best;
}

std::optional<std::int64_t> parse_steps(std::string_view text) {
  const auto steps = parse_number<std::int64_t>(text);
  return steps && *steps >= 1 ? steps : std::nullopt;
}

}  // namespace

ReplaySchedule parse_schedule(const std::string& text, const std::string& policy) {
  ReplaySchedule schedule{text, policy, 0, 0};
  if (text == "ours") {
    if (policy.empty()) schedule.policy = "swift";
    return schedule;
  }
  if (policy.empty()) schedule.policy = "eplb";
  std::vector<std::string_view> words;
  const std::string_view whole = text;
  for (std::size_t begin = 0; begin <= whole.size();) {
    const std::size_t end = std::min(whole.find(':', begin), whole.size());
    words.push_back(whole.substr(begin, end - begin));
    begin = end + 1;
  }
  const bool known =
      (words.size() == 2 || (words.size() == 4 && words[2] == "window")) && words[0] == "every";
  const auto every = known ? parse_steps(words[1]) : std::nullopt;
  const auto window = known ? parse_steps(words.back()) : std::nullopt;
  if (!every || !window || *window > *every) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--schedule is '{}'; allowed: ours, every:K or every:K:window:W, with "
                            "1 <= W <= K steps",
                            text));
  }
  schedule.every = *every;
  schedule.window = *window;
  return schedule;
}

std::vector<std::int64_t> bins_of_window(std::int64_t steps_per_window) {
  std::vector<std::int64_t> bins{0};
  for (std::int64_t decade = 10; bins.back() < steps_per_window; decade *= 10) {
    for (const std::int64_t step : {decade / 2, decade, 2 * decade}) {
      if (step > bins.back()) bins.push_back(step);
    }
  }
  while (bins.size() > 1 && bins.back() >= steps_per_window) bins.pop_back();
  return bins;
}

std::vector<ReplayResult> replay(const ReplayOptions& options, std::span<const ExpertLoad> windows,
                                 std::span<const ReplaySchedule> schedules,
                                 const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const ClusterShape shape(options.shape);
  std::vector<Run> runs;
  for (const ReplaySchedule& schedule : schedules) runs.emplace_back(options, shape, schedule);
  std::vector<double> hindsight(windows.size(), 0.0);
  const auto all = static_cast<std::int64_t>(options.order.size()) * options.steps_per_window;
  std::int64_t step = 0;
  for (const std::size_t window : options.order) {
    if (hindsight[window] == 0.0) hindsight[window] = hindsight_of(shape, windows[window]);
    for (Run& run : runs) run.begin_window(window, windows[window], step, hindsight[window]);
    for (std::int64_t i = 0; i < options.steps_per_window; ++i, ++step) {
      const ExpertLoad sampled = io::sample_step(windows[window], options.assignments_per_step,
                                                 options.seed, static_cast<std::uint64_t>(step));
      for (Run& run : runs) run.step(step, sampled);
      if (step % std::max<std::int64_t>(1, all / 10) == 0) progress(step, all);
    }
  }
  std::vector<ReplayResult> results;
  for (Run& run : runs) results.push_back(run.take());
  return results;
}

}  // namespace swiftbalancer::tool
