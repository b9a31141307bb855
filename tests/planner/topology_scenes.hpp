#pragma once
// Random layers for the tests of limits and topology.

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>

namespace swiftbalancer::topology {

/// Which slot of an expert takes the rest of kShareUnit shifts times by less than this.
inline constexpr double kShareRounding = 1.0 + 1e-4;

/// Of the whole range: by itself inRange() begins small, and half of all cases would have no
/// limits.
inline int pick(int low, int high) {
  return *rc::gen::resize(rc::kNominalSize, rc::gen::inRange(low, high + 1));
}

/// A layer and its problem, limits to be filled in.
struct LayerScene {
  ClusterShape shape;
  std::vector<std::int64_t> load;
  std::vector<std::int32_t> placement;
  std::vector<double> rank_speed{};
  std::vector<std::uint8_t> pinned{};
  int max_replicas = 0;
  int max_cross_node_replicas = -1;

  LayerProblem problem() const {
    return {.shape = &shape,
            .load = load,
            .placement = placement,
            .dispatch = Dispatch::kEven,
            .from_scratch = true,
            .rank_speed = rank_speed,
            .pinned = pinned,
            .max_replicas = max_replicas,
            .max_cross_node_replicas = max_cross_node_replicas};
  }
};

inline std::vector<std::int64_t> any_load(int experts) {
  std::vector<std::int64_t> load(static_cast<std::size_t>(experts), 0);
  const int kind = pick(0, 3);
  for (auto& tokens : load) {
    if (kind == 1) tokens = 7;
    if (kind == 2) tokens = pick(0, 1000);
    if (kind == 3) tokens = pick(0, 5) == 0 ? pick(0, 1'000'000) : pick(0, 10);
  }
  return load;
}

inline std::vector<double> any_speeds(const ClusterShape& shape) {
  std::vector<double> speeds;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) speeds.push_back(pick(1, 8) / 4.0);
  return speeds;
}

/// Starts from the initial placement or from a shuffled one.
inline LayerScene scene_of(const ShapeOptions& options) {
  LayerScene scene{ClusterShape(options), any_load(options.num_logical_experts), {}};
  const Placement initial = Placement::initial(scene.shape);
  scene.placement.assign(initial.layer(0).begin(), initial.layer(0).end());
  if (pick(0, 1) == 1) {
    for (std::size_t i = scene.placement.size(); i > 1; --i)
      std::swap(scene.placement[i - 1],
                scene.placement[static_cast<std::size_t>(pick(0, static_cast<int>(i) - 1))]);
  }
  return scene;
}

/// Ranks of uneven sizes, one node.
inline LayerScene any_scene() {
  ShapeOptions options{.num_moe_layers = 1, .num_logical_experts = pick(1, 24)};
  options.num_ranks = pick(1, 7);
  int slots = 0;
  for (int rank = 0; rank < options.num_ranks; ++rank) {
    options.slots_per_rank.push_back(pick(1, 6));
    slots += options.slots_per_rank.back();
  }
  options.slots_per_rank.back() += std::max(0, options.num_logical_experts - slots);
  return scene_of(options);
}

/// Groups that fit nodes of uneven makes.
inline LayerScene any_grouped_scene() {
  ShapeOptions options{.num_moe_layers = 1};
  options.num_nodes = pick(2, 4);
  const int groups_per_node = pick(1, 2);
  const int group_size = pick(1, 5);
  options.num_expert_groups = options.num_nodes * groups_per_node;
  options.num_logical_experts = options.num_expert_groups * group_size;
  for (int node = 0; node < options.num_nodes; ++node) {
    const int ranks = pick(1, 3);
    int slots = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      options.node_of_rank.push_back(node);
      options.slots_per_rank.push_back(pick(1, 5));
      slots += options.slots_per_rank.back();
    }
    options.slots_per_rank.back() += std::max(0, groups_per_node * group_size - slots);
  }
  options.num_ranks = static_cast<int>(options.node_of_rank.size());
  LayerScene scene = scene_of(options);
  scene.max_cross_node_replicas = 0;
  return scene;
}

/// Lognormal loads; groups may differ among each other too.
inline std::vector<std::int64_t> skewed_load(int experts, double sigma, unsigned seed,
                                             int groups = 1, double group_sigma = 0.0) {
  // std::normal_distribution differs between libraries: sum of uniform numbers instead.
  std::mt19937 random(seed);
  const auto normal = [&] {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(random()) / 4294967296.0;
    return sum;
  };
  std::vector<std::int64_t> load;
  for (int group = 0; group < groups; ++group) {
    const double factor = std::exp(group_sigma * normal());
    for (int i = 0; i < experts / groups; ++i)
      load.push_back(static_cast<std::int64_t>(10'000.0 * factor * std::exp(sigma * normal())));
  }
  return load;
}

}  // namespace swiftbalancer::topology
