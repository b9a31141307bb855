#pragma once
// What a placement needs besides the experts in its slots. Other engines' files leave much of it
// out: it comes from the command line or from the loads. Used by the readers of this folder.
// Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "io/placement_file.hpp"

namespace swiftbalancer::formats {

/// What is known of a placement before its file is read; 0 or empty: not known.
struct PlacementFacts {
  int num_logical_experts = 0;
  int num_ranks = 0;
  int num_redundant_experts = -1;  ///< < 0: not known.
  int num_nodes = 0;
  int num_expert_groups = 0;
  std::vector<int> slots_per_rank{};
  std::vector<int> node_of_rank{};
  std::string model{};
  std::vector<int> model_layer_ids{};
};

/// [num_moe_layers][num_slots] as a file has it.
using Rows = std::vector<std::vector<int>>;

/// Completes a placement of another engine: ranks and slots per rank from the facts (by default all
/// alike), experts from the facts or else from the largest one that the rows name.
/// @param path for messages.
/// @throws Error kIo: rows of unequal length, an expert unknown or without slot, slots that do not
/// divide over the ranks, ranks not known.
io::PlacementFile complete(const std::string& path, const Rows& rows, const PlacementFacts& facts);

/// Nodes, expert groups and model layers of the command line take the place of the file's.
/// @throws Error kIo: the file says another number of experts, ranks or slots, or another model.
void apply_facts(const std::string& path, const PlacementFacts& facts, io::PlacementFile& file);

/// Model layers 0, 1, 2, ... are what is meant when none are said: makes the two equal.
void forget_plain_layer_ids(io::PlacementFile& file);

/// Rows of the model's MoE layers out of those of all its layers.
/// @throws Error kIo: a layer that the file has no row for.
Rows moe_rows(const std::string& path, Rows rows, const std::vector<int>& model_layer_ids);

/// Slots of one layer of a placement by rank.
Rows slots_by_rank(const io::PlacementFile& file, const ClusterShape& shape, int moe_layer_id);

/// The layer of the model that a MoE layer is.
int model_layer_id(const io::PlacementFile& file, int moe_layer_id);

/// @throws Error kUnsupported unless every rank has as many slots as the others.
/// @param format for the message.
void require_equal_slots(const ClusterShape& shape, const char* format);

}  // namespace swiftbalancer::formats
