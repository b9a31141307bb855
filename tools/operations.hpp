#pragma once
// What surrounds a serving command while it runs: metrics, control socket, and the placement that
// is kept for the next start. Fed by the engine. Main thread.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "control_socket.hpp"
#include "engine/run_control.hpp"
#include "observe/metrics.hpp"

namespace swiftbalancer::tool {

/// "on", "paused", "plan-only": the words of the command line, of metrics and of run.json, in the
/// order of BalancingMode.
const std::vector<std::string>& mode_words();

class Operations final : public engine::RunControl {
 public:
  struct Options {
    int metrics_port = -1;       ///< -1: none; 0: any.
    std::string control_path;    ///< Empty: none.
    std::string placement_file;  ///< Empty: none.
    BalancingMode mode = BalancingMode::kOn;
  };
  /// @throws Error kInvalidArgument: a port or path that cannot be used.
  explicit Operations(const Options& options);

  /// Empty without metrics.
  std::string metrics_address() const;
  /// For the next run: what was asked for last.
  BalancingMode mode() const noexcept { return mode_; }
  /// Writes what is served, if there is a placement file and something was served.
  /// @throws Error kIo.
  void save_placement() const;

  int fd() const override { return socket_ ? socket_->fd() : -1; }
  std::vector<BalancingMode> take_modes() override;
  void on_start(const engine::RunRecord& run) override;
  void on_snapshot(const engine::RunSnapshot& snapshot) override;

 private:
  std::string health_json() const;
  void answer_agreed();

  std::unique_ptr<observe::MetricsEndpoint> metrics_;
  std::unique_ptr<ControlSocket> socket_;
  std::string placement_file_;
  BalancingMode mode_;
  std::map<int, BalancingMode> waiting_;  // clients whose mode is not agreed yet
  std::string policy_;
  ShapeOptions shape_;
  std::optional<Placement> served_;
  engine::RunSnapshot last_;
};

}  // namespace swiftbalancer::tool
