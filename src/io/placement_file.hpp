#pragma once
// A placement as a JSON file of our own, with the shape that it belongs to (docs/formats.md).
// Written by `plan` and `serve`, read by them, `compare` and `inspect`. Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer::io {

struct PlacementFile {
  ShapeOptions shape;  ///< With slots_per_rank and node_of_rank filled in.
  Placement placement;
  std::vector<std::vector<std::uint32_t>>
      shares{};         ///< [num_moe_layers][num_slots] in kShareUnit; empty: even shares.
  std::string model{};  ///< Its name; empty: not said.
  /// [num_moe_layers] layer of the model, dense ones counted, ascending; empty: 0, 1, 2, ...
  std::vector<int> model_layer_ids{};
};

/// True if the text is JSON that says it is a placement.
bool is_placement(const std::string& text);
/// @param path for messages. @throws Error kIo: not a placement, a key unknown, missing, given
/// twice or of the wrong type, a count that does not fit, an expert out of range or without slot,
/// shares that do not add up, a checksum that is not that of the content.
PlacementFile parse_placement(const std::string& path, const std::string& text);
std::string format_placement(const PlacementFile& file);

/// @param layer_ids of a model. @throws Error kInvalidArgument unless there is one per MoE layer
/// and each is larger than the one before, from 0 to 9999.
void check_model_layer_ids(const std::vector<int>& layer_ids, int num_moe_layers);

}  // namespace swiftbalancer::io
