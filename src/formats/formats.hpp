#pragma once
// The functions behind the table of placement formats, one file each. Used by placement_format.cpp.
// Thread-safe.

#include <string>

#include "formats/facts.hpp"
#include "io/placement_file.hpp"

namespace swiftbalancer::formats {

/// vllm-ascend's expert_map.json: experts per device and MoE layer.
io::PlacementFile parse_expert_map(const std::string& path, const std::string& text,
                                   const PlacementFacts& facts);
std::string format_expert_map(const io::PlacementFile& file);

/// SGLang's --init-expert-location: {"physical_to_logical_map": [model layers][slots]}.
io::PlacementFile parse_sglang_location(const std::string& path, const std::string& text,
                                        const PlacementFacts& facts);
std::string format_sglang_location(const io::PlacementFile& file);

/// TensorRT-LLM's load balancer configuration with initial_global_assignments.
io::PlacementFile parse_trtllm(const std::string& path, const std::string& text,
                               const PlacementFacts& facts);
std::string format_trtllm(const io::PlacementFile& file);

/// .npy, whole numbers [MoE layers, slots].
io::PlacementFile parse_npy_placement(const std::string& path, const std::string& text,
                                      const PlacementFacts& facts);
std::string format_npy_placement(const io::PlacementFile& file);

}  // namespace swiftbalancer::formats
