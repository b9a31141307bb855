#pragma once
// A placement as a JSON file, with the shape that it belongs to (docs/formats.md). Written by
// `plan` and `serve`, read by them and `inspect`. Thread-safe.

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
      shares;  ///< [num_moe_layers][num_slots] in kShareUnit; empty: even shares.
};

/// True if the text is JSON that says it is a placement.
bool is_placement(const std::string& text);
/// @param path for messages. @throws Error kIo: not a placement, a key unknown, missing or of the
/// wrong type, a count that
///        does not fit, an expert out of range or without slot, shares that do not add up.
PlacementFile parse_placement(const std::string& path, const std::string& text);
std::string format_placement(const PlacementFile& file);

}  // namespace swiftbalancer::io
