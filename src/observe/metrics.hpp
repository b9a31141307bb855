#pragma once
// The metrics of a serving command for Prometheus: an HTTP endpoint on 127.0.0.1, fed with the
// state of the run under way. Counters never fall, over all runs of the command. The names are
// those of docs/operations.md. One thread updates; the endpoint answers on threads of its own.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace swiftbalancer::observe {

/// What a run has come to. Sums since it began, unless said otherwise.
struct MetricsSnapshot {
  std::uint64_t steps = 0;
  double tokens = 0.0;
  std::vector<double> layer_tokens;     ///< [layers] tokens that went to experts.
  std::vector<double> layer_imbalance;  ///< [layers] max / mean of late; 0: unknown.
  double moves = 0.0;
  double migrated_bytes = 0.0;
  double experts_loaded = 0.0;
  std::map<std::string, double> waits;  ///< By cause.
  double wait_seconds = 0.0;
  double dropped_samples = 0.0;
  double failures = 0.0;
  double planner_restarts = 0.0;
  double reconfigurations = 0.0;
  // As of now.
  std::string mode;
  bool healthy = true;
  bool planner_running = true;
  int live_ranks = 0;
  std::uint64_t plan_step = 0;  ///< Of the last plan adopted; 0: none.
  double plan_imbalance_before = 1.0, plan_imbalance_after = 1.0;
  /// Rebalances that ended since the last snapshot.
  struct Rebalance {
    std::string result;
    double seconds = 0.0;
  };
  std::vector<Rebalance> rebalances;
};

class MetricsEndpoint {
 public:
  /// @param port 0: any that is free. @param modes all that MetricsSnapshot::mode can be.
  /// @throws Error kInvalidArgument: the port cannot be listened on.
  MetricsEndpoint(int port, const std::vector<std::string>& modes);
  ~MetricsEndpoint();
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;

  /// "http://127.0.0.1:PORT/metrics".
  const std::string& address() const noexcept;
  /// Sums begin anew with the snapshots that follow.
  void begin_run(const std::string& policy, const std::string& model, const std::string& transport);
  void update(const MetricsSnapshot& snapshot);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftbalancer::observe
