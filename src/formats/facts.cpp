#include "formats/facts.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include <swiftbalancer/error.hpp>

#include "io/file_error.hpp"

namespace swiftbalancer::formats {
namespace {

using io::fail;

int largest_expert(const Rows& rows) {
  int largest = -1;
  for (const auto& row : rows) largest = std::max(largest, *std::ranges::max_element(row));
  return largest;
}

void check_equal(const std::string& path, const char* what, int given, int in_file) {
  if (given == in_file) return;
  fail(path, "has " + std::string(what) + " " + std::to_string(in_file) + ", but " +
                 std::to_string(given) + " is asked for");
}

}  // namespace

io::PlacementFile complete(const std::string& path, const Rows& rows, const PlacementFacts& facts) {
  if (rows.empty() || rows.front().empty()) fail(path, "has no layer or no slot");
  const std::size_t num_slots = rows.front().size();
  for (std::size_t layer = 0; layer < rows.size(); ++layer) {
    if (rows[layer].size() != num_slots) {
      fail(path, "layer " + std::to_string(layer) + " has " + std::to_string(rows[layer].size()) +
                     " slots, layer 0 has " + std::to_string(num_slots));
    }
  }
  if (facts.num_ranks == 0) {
    fail(path, "this format does not say how many ranks there are; give --num-ranks");
  }
  io::PlacementFile file;
  file.shape.num_moe_layers = static_cast<int>(rows.size());
  file.shape.num_logical_experts =
      facts.num_logical_experts > 0 ? facts.num_logical_experts : largest_expert(rows) + 1;
  file.shape.num_ranks = facts.num_ranks;
  const auto ranks = static_cast<std::size_t>(facts.num_ranks);
  if (facts.slots_per_rank.empty() && num_slots % ranks != 0) {
    fail(path, std::to_string(num_slots) + " slots do not divide over " + std::to_string(ranks) +
                   " ranks; give --slots-per-rank if they are uneven");
  }
  file.shape.slots_per_rank = facts.slots_per_rank;
  if (file.shape.slots_per_rank.empty())
    file.shape.slots_per_rank.assign(ranks, static_cast<int>(num_slots / ranks));
  const auto& per_rank = file.shape.slots_per_rank;
  if (const auto sum = std::accumulate(per_rank.begin(), per_rank.end(), std::int64_t{0});
      sum != static_cast<std::int64_t>(num_slots)) {
    fail(path, "has " + std::to_string(num_slots) + " slots a layer; the ranks have " +
                   std::to_string(sum));
  }
  file.placement = Placement(file.shape.num_moe_layers, static_cast<int>(num_slots));
  for (std::size_t layer = 0; layer < rows.size(); ++layer)
    std::ranges::copy(rows[layer], file.placement.layer(static_cast<int>(layer)).begin());
  try {
    const ClusterShape shape(file.shape);
    file.shape.num_slots = shape.num_slots();
    for (int rank = 0; rank < shape.num_ranks(); ++rank)
      file.shape.node_of_rank.push_back(shape.node_of_rank(rank));
    validate(file.placement, shape);
  } catch (const Error& error) {
    fail(path, error.what());
  }
  return file;
}

void apply_facts(const std::string& path, const PlacementFacts& facts, io::PlacementFile& file) {
  ShapeOptions& shape = file.shape;
  if (facts.num_logical_experts > 0 && facts.num_logical_experts != shape.num_logical_experts) {
    fail(path, "is a placement of " + std::to_string(shape.num_logical_experts) +
                   " experts; the loads have " + std::to_string(facts.num_logical_experts) +
                   ": they must be of one model");
  }
  if (facts.num_ranks > 0) check_equal(path, "num_ranks", facts.num_ranks, shape.num_ranks);
  if (facts.num_redundant_experts >= 0) {
    check_equal(path, "num_redundant_experts", facts.num_redundant_experts,
                shape.num_slots - shape.num_logical_experts);
  }
  if (!facts.slots_per_rank.empty() && facts.slots_per_rank != shape.slots_per_rank)
    fail(path, "has other slots_per_rank than asked for");
  if (!facts.model.empty() && !file.model.empty() && facts.model != file.model)
    fail(path, "is a placement of model '" + file.model + "', not of '" + facts.model + "'");
  if (!facts.model.empty()) file.model = facts.model;
  if (facts.num_expert_groups > 0) shape.num_expert_groups = facts.num_expert_groups;
  if (!facts.model_layer_ids.empty()) file.model_layer_ids = facts.model_layer_ids;
  if (!facts.node_of_rank.empty() || facts.num_nodes > 0) {
    shape.node_of_rank = facts.node_of_rank;
    if (facts.num_nodes > 0) shape.num_nodes = facts.num_nodes;
  }
  try {
    const ClusterShape checked(shape);
    shape.num_nodes = checked.num_nodes();
    shape.node_of_rank.clear();
    for (int rank = 0; rank < checked.num_ranks(); ++rank)
      shape.node_of_rank.push_back(checked.node_of_rank(rank));
    if (!file.model_layer_ids.empty())
      io::check_model_layer_ids(file.model_layer_ids, shape.num_moe_layers);
    forget_plain_layer_ids(file);
  } catch (const Error& error) {
    fail(path, error.what());
  }
}

void forget_plain_layer_ids(io::PlacementFile& file) {
  for (std::size_t layer = 0; layer < file.model_layer_ids.size(); ++layer) {
    if (file.model_layer_ids[layer] != static_cast<int>(layer)) return;
  }
  file.model_layer_ids.clear();
}

Rows moe_rows(const std::string& path, Rows rows, const std::vector<int>& model_layer_ids) {
  if (model_layer_ids.empty()) return rows;
  try {
    io::check_model_layer_ids(model_layer_ids, static_cast<int>(model_layer_ids.size()));
  } catch (const Error& error) {
    fail(path, error.what());
  }
  Rows picked;
  for (const int layer : model_layer_ids) {
    if (layer >= static_cast<int>(rows.size())) {
      fail(path, "has " + std::to_string(rows.size()) + " layers; --model-layers names layer " +
                     std::to_string(layer));
    }
    picked.push_back(std::move(rows[static_cast<std::size_t>(layer)]));
  }
  return picked;
}

Rows slots_by_rank(const io::PlacementFile& file, const ClusterShape& shape, int moe_layer_id) {
  Rows ranks;
  const auto slots = file.placement.layer(moe_layer_id);
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    ranks.emplace_back(slots.begin() + shape.first_slot(rank),
                       slots.begin() + shape.first_slot(rank + 1));
  }
  return ranks;
}

int model_layer_id(const io::PlacementFile& file, int moe_layer_id) {
  return file.model_layer_ids.empty()
             ? moe_layer_id
             : file.model_layer_ids[static_cast<std::size_t>(moe_layer_id)];
}

void require_equal_slots(const ClusterShape& shape, const char* format) {
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    if (shape.slots_per_rank(rank) == shape.slots_per_rank(0)) continue;
    throw Error(ErrorCode::kUnsupported,
                std::string(format) + " files need as many slots on every rank; rank 0 has " +
                    std::to_string(shape.slots_per_rank(0)) + ", rank " + std::to_string(rank) +
                    " has " + std::to_string(shape.slots_per_rank(rank)));
  }
}

}  // namespace swiftbalancer::formats
