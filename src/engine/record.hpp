#pragma once
// What happened in a run. A RankRecord is one rank's part, sent to the parent as bytes, a
// RankSnapshot what the rank tells while it still runs; a RunRecord is the whole, checked: every
// rank counted every token, and all ranks committed alike. Plain data; used by serve(), figures,
// run.json and tests.

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/shape.hpp>

#include "engine/model.hpp"
#include "engine/timed_device.hpp"
#include "engine/traffic.hpp"

namespace swiftbalancer::engine {

struct CommitRecord {
  std::uint64_t step = 0;
  std::uint64_t generation = 0;  ///< Step of the packet set that opened it.
  std::uint32_t unit = 0;
  std::int32_t moe_layer_id = 0;
  std::int32_t moves = 0;  ///< Experts received by a rank that did not hold them.
  std::int64_t bytes = 0;
  std::vector<std::int32_t> placement;  ///< [num_slots] of the layer from this step on.
  std::vector<std::uint32_t> shares{};  ///< [num_slots] likewise; empty: even.
};

struct GenerationRecord {
  std::uint64_t opened_step = 0;
  std::uint64_t adopted_step = 0;   ///< 0: never.
  std::uint64_t finished_step = 0;  ///< 0: still under way when the run ended.
  std::string result;               ///< "committed", or why not; "" while under way.
  std::int32_t moves = 0;
  std::int64_t bytes = 0;
  double imbalance_before = 1.0;  ///< Predicted, mean over layers.
  double imbalance_after = 1.0;
  double seconds = 0.0;  ///< Wall time from opening to the end.
};

/// Waits of an engine thread by cause.
struct WaitRecord {
  std::uint64_t for_packets = 0;
  std::uint64_t for_plans = 0;
  std::uint64_t for_copies = 0;
  std::int64_t wait_ns = 0;  ///< Of all these.
  std::int64_t held_ns = 0;  ///< By the timed device's harness, outside the four calls.
};

/// Where rows were dispatched to: one row a token, layer and chosen expert.
struct LocalityRecord {
  std::int64_t rows = 0;
  std::int64_t own_rank = 0;
  std::int64_t own_node = 0;  ///< Own rank included.
};

/// How balancing fares, and what it has counted since the run began.
struct BalancingRecord {
  BalancingMode mode = BalancingMode::kOn;
  bool planner_running = true;
  std::int32_t planner_restarts = 0;
  std::uint64_t failures = 0;
  std::uint32_t membership = 0;
  std::uint64_t planner_resets = 0;
  std::uint64_t dropped_samples = 0;
  std::uint64_t experts_loaded = 0;
  std::uint64_t moves = 0;
  std::uint64_t migrated_bytes = 0;
  std::uint64_t plan_step = 0;  ///< Of the last plan adopted; 0: none.
  double plan_imbalance_before = 1.0;
  double plan_imbalance_after = 1.0;
};

struct RankSnapshot {
  std::int32_t rank = 0;
  std::uint64_t step = 0;                  ///< The last one made.
  std::int64_t tokens = 0;                 ///< Own tokens since the run began.
  std::vector<std::int64_t> layer_tokens;  ///< [num_moe_layers] received by the rank's slots since
                                           ///< the run began.
  WaitRecord waits;
  BalancingRecord balancing;
  bool healthy = true;
  std::string health_reason;
  std::vector<CommitRecord> commits;          ///< Since the last snapshot, as the next.
  std::vector<GenerationRecord> generations;  ///< Ended, also because nothing was worth moving.
};

struct RankRecord {
  std::int32_t rank = 0;
  ErrorCode code = ErrorCode::kOk;
  std::string error;  ///< One line, empty when the rank went to the end.
  std::uint64_t steps = 0;
  std::vector<std::uint32_t> tokens;       ///< [steps] own tokens
  std::vector<std::uint8_t> decode_steps;  ///< [steps] != 0: no rank ran a prompt
  std::vector<std::uint32_t> slot_tokens;  ///< [steps, num_moe_layers, slots of this rank] received
  std::vector<std::uint32_t>
      routed_tokens;  ///< [steps, num_moe_layers, num_logical_experts] of own tokens
  std::vector<std::int64_t>
      step_start_ns;  ///< [steps + 1] agreed virtual clock; empty without a timed device
  std::map<std::string, std::int64_t>
      critical_ns;  ///< Virtual time by term while this rank was the slowest.
  std::vector<std::int32_t> output_requests;
  std::vector<std::vector<std::int32_t>> outputs;
  std::vector<CommitRecord> commits;
  std::vector<GenerationRecord> generations;
  LocalityRecord locality;  ///< Of own rows, those of steps given up included.
  WaitRecord waits;
  BalancingRecord balancing;
  std::uint64_t verified_commits = 0;
  bool healthy = true;
  std::string health_reason;
  std::uint64_t first_step = 1;                 ///< Later for a rank that joined.
  std::uint64_t resumed_step = 1;               ///< The first one after the last reconfiguration.
  std::vector<std::int32_t> resumed_placement;  ///< [num_moe_layers, slots of the live ranks]
                                                ///< served then; empty: never reconfigured.
};

/// Who served from a step on. A request is served by one of the ranks that were live in the step of
/// its arrival: live_ranks[id % number of them].
struct MembershipRecord {
  std::uint32_t number = 0;
  std::uint64_t first_step = 1;          ///< 0: never entered.
  std::vector<std::int32_t> live_ranks;  ///< Numbers of the first shape, ascending.
};

/// A rank that was lost while the others went on.
struct LossRecord {
  std::int32_t rank = 0;
  std::uint32_t membership = 0;  ///< That it was lost from.
  std::uint64_t step = 0;        ///< The last one reported before.
  std::string how;               ///< "was killed by signal 9 (Killed)", ...
  std::vector<std::int32_t> answered_requests;
  std::vector<std::vector<std::int32_t>> outputs;  ///< Of answered_requests.
  std::vector<std::int32_t> lost_requests;         ///< Had arrived there and were never answered.
                                                   ///< Filled in by merge().
};

std::vector<std::byte> encode(const RankRecord& record);
std::vector<std::byte> encode(const RankSnapshot& snapshot);
/// @throws Error kInternal: not the bytes of a record.
RankRecord decode_rank_record(std::span<const std::byte> bytes);
/// @throws Error kInternal: not the bytes of a snapshot.
RankSnapshot decode_rank_snapshot(std::span<const std::byte> bytes);

struct RunRecord {
  // What ran.
  std::string model_folder;
  std::string checkpoint;  ///< Digest of what is in the folder.
  ModelInfo model;
  std::size_t expert_bytes = 0;
  ShapeOptions shape;       ///< Enough to build the ClusterShape again.
  Placement initial;        ///< Served from the first step on.
  bool warm_start = false;  ///< It came from a file.
  std::string transport;    ///< As the tool names it.
  Traffic traffic;
  std::string policy;
  bool gated = false;
  DispatchObjective decode_dispatch = DispatchObjective::kTokens;
  bool timed = false;
  HardwareProfile hardware;  ///< With a timed device.
  int token_scale = 1;
  // What came out.
  std::vector<MembershipRecord> memberships;  ///< Those entered, in order; the first: all ranks.
  std::vector<LossRecord> losses;   ///< In order. With any, counts of lost ranks are missing.
  std::vector<std::string> faults;  ///< Injected ones: what came of each, a line.
  double wall_seconds = 0.0;
  std::uint64_t steps = 0;
  std::int64_t tokens = 0;  ///< Run through the model, prompts and outputs.
  std::int64_t output_tokens = 0;
  std::vector<std::vector<std::int32_t>> outputs;  ///< By request.
  std::string output_digest;                 ///< 128 bits, hex, over all outputs in request order.
  std::vector<std::string> request_digests;  ///< The same by request; empty: lost.
  std::vector<std::uint32_t> step_tokens;    ///< [steps] over all ranks
  std::vector<std::uint8_t> decode_steps;    ///< [steps] != 0: no rank ran a prompt
  std::vector<std::uint32_t> slot_tokens;    ///< [steps, num_moe_layers, num_slots]
  std::vector<std::uint32_t> expert_tokens;  ///< [steps, num_moe_layers, num_logical_experts]
  std::vector<std::int64_t> step_time_ns;    ///< [steps] virtual; empty without a timed device
  std::map<std::string, std::int64_t>
      critical_ns;  ///< Virtual time of the critical path by term; sums to the run's time.
  std::vector<CommitRecord> commits;
  std::vector<GenerationRecord> generations;
  std::vector<std::uint64_t> counted_since;  ///< [num_ranks] first step whose counts are known; 0:
                                             ///< none are, the rank was lost.
  LocalityRecord locality;                   ///< Over all ranks.
  WaitRecord waits;           ///< Counts summed over ranks, times of the rank that waited most.
  BalancingRecord balancing;  ///< Agreed values of the longest-serving rank; planner_restarts,
                              ///< failures, dropped_samples and experts_loaded summed over ranks.
  std::uint64_t verified_commits = 0;  ///< Layers compared after commits, on all ranks.
  bool healthy = true;                 ///< As the run ended.
  std::string health_reason;           ///< Why not; what it has recovered from where it is.
};

/// What is served once `commits` have followed, in order, on a placement.
Placement placement_after(Placement placement, std::span<const CommitRecord> commits);

/// Puts the ranks' parts into `run`, whose "what ran" is filled in already.
/// With losses (already in `run`) only what the live ranks know is checked: the steps after the
/// last reconfiguration.
/// @throws Error kInternal: tokens recorded are not those routed (names step and layer), a request
/// without output, ranks
///         that committed differently.
void merge(std::span<const RankRecord> ranks, const ClusterShape& shape, RunRecord& run);

}  // namespace swiftbalancer::engine
