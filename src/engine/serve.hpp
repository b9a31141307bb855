#pragma once
// Serving: forks (or starts as threads) the ranks, lets them serve the same requests under one
// policy, and collects what happened. Called by the tool and by tests, on the main thread.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>

#include "engine/fault_plan.hpp"
#include "engine/record.hpp"
#include "engine/run_control.hpp"
#include "engine/traffic.hpp"

namespace swiftbalancer::engine {

enum class TransportKind { kThread, kShm };
enum class DeviceKind { kNone, kTimed };

struct ServeOptions {
  std::string model;  ///< Checkpoint folder.
  int num_ranks = 8;
  int num_redundant_experts = 16;
  int num_nodes = 1;
  TransportKind transport = TransportKind::kShm;
  DeviceKind device = DeviceKind::kNone;
  std::string hardware;  ///< Profile file, for kTimed and horizon.
  int horizon = 0;  ///< Steps over which moves must pay for their bytes, on `hardware` with full
                    ///< batches; 0: no cost gate.
  int token_scale = 1;
  int max_batch_tokens = 64;  ///< Tokens a rank runs per step, prefill chunks and decodes together.
  TrafficOptions traffic;
  BalancerConfig balancer;                  ///< policy, packets, staging, install mode, deadline.
  BalancingMode mode = BalancingMode::kOn;  ///< Asked for at the start.
  std::string placement_file;     ///< If there is such a file, it is served from the first step on.
  RunControl* control = nullptr;  ///< Whoever watches and steers the run; outlives it.
  std::vector<Fault> faults;      ///< Brought on by the parent of the ranks; kShm only.
  bool verify_slots =
      false;  ///< After every commit, compare the bytes of all changed slots with the checkpoint.
  std::function<void(std::uint64_t step, std::uint64_t total_steps, const std::string& line)>
      progress;  ///< Called now and then.
  std::function<void(const std::string& line)>
      notice;  ///< What a user must learn even without progress: files of others that were removed.
};

/// Serves all requests once. With rank processes and no timed device the run goes on when ranks are
/// lost. @throws Error: bad options; the ranks left cannot hold all experts; else a lost rank ends
/// the run within the deadline (kPeerLost, one line).
RunRecord serve(const ServeOptions& options);

}  // namespace swiftbalancer::engine
