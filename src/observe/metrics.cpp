// The only file that sees Prometheus.

#include "observe/metrics.hpp"

#include <algorithm>
#include <numeric>

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::observe {
namespace {

using prometheus::Counter;
using prometheus::Gauge;

// Of a rebalance, seconds: from a plan that is dropped at once to one that moves gigabytes.
const prometheus::Histogram::BucketBoundaries kDurations = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0};

template <typename Metric, typename Builder>
prometheus::Family<Metric>& family(prometheus::Registry& registry, Builder builder,
                                   const char* name, const char* help) {
  return builder.Name(std::string("swiftbalancer_") + name).Help(help).Register(registry);
}

// A counter that follows a sum which begins anew with every run.
class Follower {
 public:
  explicit Follower(Counter& counter) : counter_(&counter) {}
  void begin_run() { last_ = 0.0; }
  void follow(double sum) {
    if (sum > last_) counter_->Increment(sum - last_);
    last_ = std::max(last_, sum);
  }

 private:
  Counter* counter_;
  double last_ = 0.0;
};

// The counters of one name, a label's value each; made when first seen.
class Followers {
 public:
  Followers(prometheus::Registry& registry, const char* name, const char* help, std::string label)
      : family_(family<Counter>(registry, prometheus::BuildCounter(), name, help)),
        label_(std::move(label)) {}
  void begin_run() {
    for (auto& [value, follower] : followers_) follower.begin_run();
  }
  void follow(const std::string& value, double sum) {
    const prometheus::Labels labels =
        label_.empty() ? prometheus::Labels{} : prometheus::Labels{{label_, value}};
    followers_.try_emplace(value, family_.Add(labels)).first->second.follow(sum);
  }
  void follow(double sum) { follow("", sum); }

 private:
  prometheus::Family<Counter>& family_;
  std::string label_;
  std::map<std::string, Follower> followers_;
};

class Gauges {
 public:
  Gauges(prometheus::Registry& registry, const char* name, const char* help, std::string label = "")
      : family_(family<Gauge>(registry, prometheus::BuildGauge(), name, help)),
        label_(std::move(label)) {}
  void set(const std::string& value, double number) { family_.Add({{label_, value}}).Set(number); }
  void set(double number) { family_.Add({}).Set(number); }
  void info(const prometheus::Labels& labels) {
    if (shown_ != nullptr) family_.Remove(shown_);
    shown_ = &family_.Add(labels);
    shown_->Set(1.0);
  }

 private:
  prometheus::Family<Gauge>& family_;
  std::string label_;
  Gauge* shown_ = nullptr;
};

std::unique_ptr<prometheus::Exposer> expose(int port) {
  try {
    return std::make_unique<prometheus::Exposer>("127.0.0.1:" + std::to_string(port), 1);
  } catch (const std::exception& error) {
    throw Error(ErrorCode::kInvalidArgument,
                "metrics: port " + std::to_string(port) +
                    " of 127.0.0.1 cannot be listened on (in use?); choose another, 0 takes any");
  }
}

}  // namespace

struct MetricsEndpoint::Impl {
  Impl(int port, const std::vector<std::string>& all_modes)
      : modes(all_modes),
        registry(std::make_shared<prometheus::Registry>()),
        exposer(expose(port)),
        address("http://127.0.0.1:" + std::to_string(exposer->GetListeningPorts().front()) +
                "/metrics") {
    exposer->RegisterCollectable(registry);
  }
  Followers counters(const char* name, const char* help, const char* label = "") {
    return {*registry, name, help, label};
  }
  Gauges gauges(const char* name, const char* help, const char* label = "") {
    return {*registry, name, help, label};
  }

  std::vector<std::string> modes;
  std::string transport;
  std::shared_ptr<prometheus::Registry> registry;
  std::unique_ptr<prometheus::Exposer> exposer;
  std::string address;

  Gauges run = gauges("run_info", "The run under way; always 1.");
  Followers steps = counters("steps_total", "Steps made.");
  Followers tokens = counters("tokens_total", "Tokens run through the model.");
  Followers load = counters("expert_load_tokens_total",
                            "Tokens that the slots of a MoE layer received.", "layer");
  Gauges balancedness = gauges("balancedness_ratio",
                               "Mean / max rank load of a MoE layer since the last snapshot; 1 is "
                               "perfect.",
                               "layer");
  Gauges imbalance = gauges("imbalance_ratio",
                            "Max / mean rank load, mean over layers: before the last plan and "
                            "planned as it predicted, achieved as counted of late.",
                            "kind");
  Followers rebalances =
      counters("rebalances_total", "Rebalances that ended, by result.", "result");
  prometheus::Histogram& duration =
      family<prometheus::Histogram>(*registry, prometheus::BuildHistogram(),
                                    "rebalance_duration_seconds",
                                    "From the opening of a rebalance to its end.")
          .Add({}, kDurations);
  Followers moves = counters("moves_total", "Experts that a rank received without holding them.");
  Followers bytes = counters("migrated_bytes_total", "Bytes of those moves.", "transport");
  Gauges plan_age = gauges("plan_age_steps",
                           "Steps since the last plan was adopted; since the start before the "
                           "first.");
  Followers waits = counters("waits_total", "Waits of the engine threads, by cause.", "cause");
  Followers wait_seconds = counters("wait_seconds_total", "Time of these waits, over all ranks.");
  Followers dropped = counters("dropped_samples_total",
                               "Packet sets whose loads reached no planner, over all ranks.");
  Gauges healthy = gauges("worker_healthy",
                          "1 while balancing works on all ranks; 0 from a failure until it does "
                          "again, for good once it is off.");
  Followers failures =
      counters("failures_total",
               "Failures of balancing that ranks have noticed, recovered or not, over all ranks.");
  Gauges planner_running = gauges("planner_running", "1 while every rank's planner runs, else 0.");
  Followers restarts =
      counters("planner_restarts_total", "Lost planners started again, over all ranks.");
  Gauges mode = gauges("mode", "1 for the mode agreed by all ranks, 0 for the others.", "mode");
  Gauges live_ranks = gauges("live_ranks", "Ranks that serve.");
  Followers reconfigurations = counters("reconfigurations_total", "Changes of membership.");
  Followers experts_loaded =
      counters("experts_loaded_total", "Experts brought back from the checkpoint.");
  std::map<std::string, double> ended;  // by result, over all runs
};

MetricsEndpoint::MetricsEndpoint(int port, const std::vector<std::string>& modes)
    : impl_(std::make_unique<Impl>(port, modes)) {}

MetricsEndpoint::~MetricsEndpoint() = default;

const std::string& MetricsEndpoint::address() const noexcept { return impl_->address; }

void MetricsEndpoint::begin_run(const std::string& policy, const std::string& model,
                                const std::string& transport) {
  Impl& m = *impl_;
  m.run.info({{"policy", policy}, {"model", model}, {"transport", transport}});
  m.transport = transport;
  for (Followers* counters :
       {&m.steps, &m.tokens, &m.load, &m.moves, &m.bytes, &m.waits, &m.wait_seconds, &m.dropped,
        &m.failures, &m.restarts, &m.reconfigurations, &m.experts_loaded})
    counters->begin_run();
  // A series that is there from the start can be told to stand still.
  m.rebalances.follow("committed", m.ended["committed"]);
  MetricsSnapshot start;
  start.mode = m.modes.front();
  update(start);
}

void MetricsEndpoint::update(const MetricsSnapshot& s) {
  Impl& m = *impl_;
  m.steps.follow(static_cast<double>(s.steps));
  m.tokens.follow(s.tokens);
  double sum = 0.0;
  int known = 0;
  for (std::size_t layer = 0; layer < s.layer_tokens.size(); ++layer) {
    m.load.follow(std::to_string(layer), s.layer_tokens[layer]);
    const double imbalance = s.layer_imbalance[layer];
    if (imbalance <= 0.0) continue;
    m.balancedness.set(std::to_string(layer), 1.0 / imbalance);
    sum += imbalance;
    ++known;
  }
  if (known > 0) m.imbalance.set("achieved", sum / known);
  m.imbalance.set("before", s.plan_imbalance_before);
  m.imbalance.set("planned", s.plan_imbalance_after);
  for (const MetricsSnapshot::Rebalance& rebalance : s.rebalances) {
    m.rebalances.follow(rebalance.result, m.ended[rebalance.result] += 1.0);
    m.duration.Observe(rebalance.seconds);
  }
  m.moves.follow(s.moves);
  m.bytes.follow(m.transport, s.migrated_bytes);
  m.plan_age.set(static_cast<double>(s.steps - std::min(s.steps, s.plan_step)));
  for (const auto& [cause, count] : s.waits) m.waits.follow(cause, count);
  m.wait_seconds.follow(s.wait_seconds);
  m.dropped.follow(s.dropped_samples);
  m.healthy.set(s.healthy ? 1.0 : 0.0);
  m.planner_running.set(s.planner_running ? 1.0 : 0.0);
  m.failures.follow(s.failures);
  m.restarts.follow(s.planner_restarts);
  for (const std::string& mode : m.modes) m.mode.set(mode, mode == s.mode ? 1.0 : 0.0);
  m.live_ranks.set(s.live_ranks);
  m.reconfigurations.follow(s.reconfigurations);
  m.experts_loaded.follow(s.experts_loaded);
}

}  // namespace swiftbalancer::observe
