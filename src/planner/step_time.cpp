#include "planner/step_time.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>

#include "core/index.hpp"

namespace swiftbalancer {
namespace {

struct RankWork {
  double rows = 0.0;       // tokens of its experts
  double activated = 0.0;  // slots that are expected to get a token
};

// Tokens come to a slot one by one: with t expected, none comes with probability exp(-t).
std::vector<RankWork> work_of_ranks(const StepModel& model, const LayerProblem& problem,
                                    std::span<const std::int32_t> placement,
                                    std::span<const std::uint32_t> shares) {
  const ClusterShape& shape = *problem.shape;
  const std::vector<std::uint32_t> used =
      shares.empty() ? even_shares(placement, shape.num_logical_experts())
                     : std::vector<std::uint32_t>(shares.begin(), shares.end());
  double all = 0.0;
  for (std::int64_t tokens : problem.load) all += static_cast<double>(tokens);
  std::vector<RankWork> ranks(index(shape.num_ranks()));
  if (all <= 0.0) return ranks;
  const double scale = model.tokens_per_step * model.top_k / all;
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    const double rows = static_cast<double>(problem.load[index(placement[index(slot)])]) *
                        (static_cast<double>(used[index(slot)]) / kShareUnit) * scale;
    RankWork& rank = ranks[index(shape.rank_of_slot(slot))];
    rank.rows += rows;
    rank.activated += 1.0 - std::exp(-rows);
  }
  return ranks;
}

// Rows that a rank exchanges with others, of which each sends the same; the busier direction of the
// slower link counts.
class Exchange {
 public:
  Exchange(const StepModel& model, const ClusterShape& shape, std::span<const RankWork> ranks)
      : model_(model),
        shape_(shape),
        ranks_(ranks),
        node_rows_(index(shape.num_nodes()), 0.0),
        node_ranks_(index(shape.num_nodes()), 0) {
    for (int rank = 0; rank < shape.num_ranks(); ++rank) {
      node_rows_[index(shape.node_of_rank(rank))] += ranks[index(rank)].rows;
      ++node_ranks_[index(shape.node_of_rank(rank))];
      all_rows_ += ranks[index(rank)].rows;
    }
  }

  double seconds(int rank, double bytes_per_row) const {
    const int num_ranks = shape_.num_ranks();
    if (num_ranks == 1) return 0.0;
    const auto node = index(shape_.node_of_rank(rank));
    const double own = ranks_[index(rank)].rows;
    const double near = std::max(own * (node_ranks_[node] - 1), node_rows_[node] - own);
    const double far =
        std::max(own * (num_ranks - node_ranks_[node]), all_rows_ - node_rows_[node]);
    const double latency = shape_.num_nodes() > 1 ? model_.node_link_latency : model_.link_latency;
    return latency + std::max(near / model_.link_bandwidth, far / model_.node_link_bandwidth) *
                         bytes_per_row / num_ranks;
  }

 private:
  const StepModel& model_;
  const ClusterShape& shape_;
  std::span<const RankWork> ranks_;
  std::vector<double> node_rows_;
  std::vector<int> node_ranks_;
  double all_rows_ = 0.0;
};

}  // namespace

double layer_seconds(const StepModel& model, const LayerProblem& problem,
                     std::span<const std::int32_t> placement,
                     std::span<const std::uint32_t> shares) {
  const ClusterShape& shape = *problem.shape;
  const std::vector<RankWork> ranks = work_of_ranks(model, problem, placement, shares);
  const Exchange exchange(model, shape, ranks);
  double slowest = 0.0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    const RankWork& work = ranks[index(rank)];
    const double compute = work.rows * model.expert_flops_per_token / model.flops;
    const double memory = work.activated * model.expert_bytes / model.hbm_bandwidth;
    const double speed = problem.rank_speed.empty() ? 1.0 : problem.rank_speed[index(rank)];
    const double seconds = exchange.seconds(rank, model.dispatch_bytes_per_row) +
                           model.kernel_overhead + std::max(compute, memory) / speed +
                           exchange.seconds(rank, model.combine_bytes_per_row);
    slowest = std::max(slowest, seconds);
  }
  const double tokens = model.tokens_per_step / shape.num_ranks();
  const double arithmetic = tokens * model.attention_flops_per_token / model.flops;
  const double traffic = (model.attention_weight_bytes +
                          tokens * model.context_length * model.attention_bytes_per_context_token) /
                         model.hbm_bandwidth;
  return model.kernel_overhead + std::max(arithmetic, traffic) + slowest;
}

double seconds_outside_layers(const StepModel& model, int num_ranks) {
  const double tokens = model.tokens_per_step / num_ranks;
  const double arithmetic = tokens * model.head_flops_per_token / model.flops;
  const double head =
      model.kernel_overhead + std::max(arithmetic, model.head_weight_bytes / model.hbm_bandwidth);
  return head + (num_ranks > 1 ? model.step_barrier : 0.0);
}

}  // namespace swiftbalancer
