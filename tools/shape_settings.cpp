#include "shape_settings.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>

#include <fmt/format.h>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::tool {
namespace {

constexpr int kMostRanks = 1'000'000;
constexpr int kMostSlots = 100'000'000;
constexpr int kMostLayers = 10'000;

void refuse_both(const Settings& settings, const char* first, const char* second) {
  if (!settings.given(first) || !settings.given(second)) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} and {} are given, which say the same; choose one", first, second));
}

}  // namespace

void ShapeSettings::declare(Settings& settings) {
  declare_slots(settings);
  settings.integer("num_expert_groups", facts_.num_expert_groups, 1, kMostSlots,
                   "Groups of group-limited routing; 1: none");
  settings.integer("num_nodes", facts_.num_nodes, 1, kMostRanks,
                   "Nodes that the ranks are spread over in blocks");
  settings.integers("nodes", facts_.node_of_rank, 0, kMostRanks,
                    "The node of each rank, where they are not in equal blocks");
}

void ShapeSettings::declare_slots(Settings& settings) {
  facts_.num_ranks = facts_.num_nodes = facts_.num_expert_groups = 1;
  facts_.num_redundant_experts = 0;
  settings.integer("num_ranks", facts_.num_ranks, 1, kMostRanks, "Ranks");
  settings.integer("num_redundant_experts", facts_.num_redundant_experts, 0, kMostSlots,
                   "Slots per layer beyond one for each expert, over all ranks");
  settings.integers("slots_per_rank", facts_.slots_per_rank, 1, kMostSlots,
                    "Slots of each rank, where they are not alike");
  settings.text("model", facts_.model, "Name of the model, kept in placement files");
  settings.integers("model_layers", facts_.model_layer_ids, 0, kMostLayers - 1,
                    "Layers of the model that are MoE layers, dense ones counted, e.g. 3-60; other "
                    "engines' files count so");
}

formats::PlacementFacts ShapeSettings::facts(const Settings& settings,
                                             int num_logical_experts) const {
  refuse_both(settings, "num_redundant_experts", "slots_per_rank");
  refuse_both(settings, "num_nodes", "nodes");
  formats::PlacementFacts facts = facts_;
  facts.num_logical_experts = num_logical_experts;
  if (!settings.given("num_ranks")) facts.num_ranks = static_cast<int>(facts.slots_per_rank.size());
  if (!settings.given("num_redundant_experts")) facts.num_redundant_experts = -1;
  if (!settings.given("num_nodes")) facts.num_nodes = 0;
  if (!settings.given("num_expert_groups")) facts.num_expert_groups = 0;
  return facts;
}

ShapeOptions ShapeSettings::shape(const Settings& settings, int num_moe_layers,
                                  int num_logical_experts) const {
  const formats::PlacementFacts known = facts(settings, num_logical_experts);
  if (known.num_ranks == 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "--num-ranks is needed, or a placement --from that says it");
  }
  ShapeOptions options;
  options.num_moe_layers = num_moe_layers;
  options.num_logical_experts = num_logical_experts;
  options.num_ranks = known.num_ranks;
  options.num_nodes = facts_.num_nodes;
  options.num_expert_groups = facts_.num_expert_groups;
  options.slots_per_rank = known.slots_per_rank;
  options.node_of_rank = known.node_of_rank;
  const std::int64_t num_slots =
      known.slots_per_rank.empty()
          ? std::int64_t{num_logical_experts} + facts_.num_redundant_experts
          : std::accumulate(known.slots_per_rank.begin(), known.slots_per_rank.end(),
                            std::int64_t{0});
  if (num_slots > kMostSlots) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("there would be {} slots per layer; at most {}", num_slots, kMostSlots));
  }
  options.num_slots = static_cast<int>(num_slots);
  return options;
}

}  // namespace swiftbalancer::tool
