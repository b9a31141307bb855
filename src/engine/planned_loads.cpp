#include "engine/planned_loads.hpp"

#include <algorithm>
#include <limits>

#include <swiftbalancer/load.hpp>

#include "planner/metro.hpp"

namespace swiftbalancer::engine {
namespace {

// One layer: what it serves, and the tokens that were routed under it and not divided yet.
struct ServedLayer {
  std::vector<std::int32_t> placement;
  std::vector<std::uint32_t> shares;          // empty: even
  std::vector<std::int64_t> routed;           // [num_logical_experts]
  std::vector<std::int64_t> routed_to_one{};  // likewise, in steps that use one slot per expert

  void divide(const ClusterShape& shape, std::vector<double>& rank_loads) {
    const auto add = [&](std::span<const std::uint32_t> by, std::vector<std::int64_t>& tokens) {
      const std::vector<double> loads = rank_load(shape, placement, by, tokens);
      for (std::size_t rank = 0; rank < loads.size(); ++rank) rank_loads[rank] += loads[rank];
      std::ranges::fill(tokens, 0);
    };
    add(shares, routed);
    if (!routed_to_one.empty()) add(one_slot_shares(shape, placement), routed_to_one);
  }
};

class Replay {
 public:
  Replay(const RunRecord& run, const ClusterShape& shape)
      : run_(run),
        shape_(shape),
        uses_one_slot_(run.decode_dispatch == DispatchObjective::kActivatedExperts) {
    const auto experts = static_cast<std::size_t>(shape.num_logical_experts());
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      const auto held = run.initial.layer(layer);
      layers_.push_back({{held.begin(), held.end()},
                         {},
                         std::vector<std::int64_t>(experts),
                         std::vector<std::int64_t>(uses_one_slot_ ? experts : 0)});
    }
  }

  RankLoads loads(const Window& window) {
    RankLoads result(layers_.size(),
                     std::vector<double>(static_cast<std::size_t>(shape_.num_ranks())));
    for (std::uint64_t step = window.first_step; step <= std::min(window.last_step, run_.steps);
         ++step) {
      for (; commit_ < run_.commits.size() && run_.commits[commit_].step <= step; ++commit_)
        commit(run_.commits[commit_], result);
      route(step);
    }
    for (std::size_t layer = 0; layer < layers_.size(); ++layer)
      layers_[layer].divide(shape_, result[layer]);
    return result;
  }

 private:
  void commit(const CommitRecord& commit, RankLoads& loads) {
    const auto at = static_cast<std::size_t>(commit.moe_layer_id);
    layers_[at].divide(shape_, loads[at]);
    layers_[at].placement = commit.placement;
    layers_[at].shares = commit.shares;
  }

  void route(std::uint64_t step) {
    const std::uint32_t* tokens =
        run_.expert_tokens.data() + (step - 1) * layers_.size() * layers_.front().routed.size();
    const bool to_one = uses_one_slot_ && run_.decode_steps[step - 1] != 0;
    for (ServedLayer& layer : layers_) {
      for (std::int64_t& routed : to_one ? layer.routed_to_one : layer.routed) routed += *tokens++;
    }
  }

  const RunRecord& run_;
  const ClusterShape& shape_;
  const bool uses_one_slot_;  // in decode steps
  std::vector<ServedLayer> layers_;
  std::size_t commit_ = 0;  // the next one
};

}  // namespace

std::vector<RankLoads> planned_loads(const RunRecord& run, const ClusterShape& shape,
                                     std::span<const Window> windows) {
  const std::uint64_t known_until = run.memberships.size() < 2
                                        ? std::numeric_limits<std::uint64_t>::max()
                                        : run.memberships[1].first_step - 1;
  Replay replay(run, shape);
  std::vector<RankLoads> result;
  for (const Window& window : windows)
    result.push_back(window.last_step <= known_until ? replay.loads(window) : RankLoads());
  return result;
}

}  // namespace swiftbalancer::engine
