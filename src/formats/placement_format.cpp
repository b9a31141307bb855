#include "formats/placement_format.hpp"

#include <array>

#include <swiftbalancer/error.hpp>

#include "formats/formats.hpp"
#include "io/npy.hpp"
#include "io/text_file.hpp"

namespace swiftbalancer::formats {
namespace {

io::PlacementFile parse_own(const std::string& path, const std::string& text,
                            const PlacementFacts&) {
  return io::parse_placement(path, text);
}

bool has(const std::string& text, std::string_view word) {
  return text.find(word) != std::string::npos;
}

// Recognised by words that only that format has: they show in a damaged file too, and its reader
// then says where the damage is.
constexpr std::array kFormats = {
    PlacementFormat{"swiftbalancer", ".json", true,
                    [](const std::string& text) { return has(text, "\"format_version\""); },
                    parse_own, io::format_placement},
    PlacementFormat{"vllm-ascend", ".json", false,
                    [](const std::string& text) { return has(text, "\"moe_layer_count\""); },
                    parse_expert_map, format_expert_map},
    PlacementFormat{
        "sglang", ".json", false,
        [](const std::string& text) { return has(text, "\"physical_to_logical_map\""); },
        parse_sglang_location, format_sglang_location},
    PlacementFormat{"tensorrt-llm", ".yaml", false,
                    [](const std::string& text) { return has(text, "num_slots"); }, parse_trtllm,
                    format_trtllm},
    PlacementFormat{"npy", ".npy", false, [](const std::string& text) { return io::is_npy(text); },
                    parse_npy_placement, format_npy_placement},
};

std::string names() {
  std::string text;
  for (const PlacementFormat& format : kFormats)
    text += (text.empty() ? "" : ", ") + std::string(format.name);
  return text;
}

}  // namespace

std::span<const PlacementFormat> placement_formats() { return kFormats; }

const PlacementFormat& placement_format(std::string_view name) {
  for (const PlacementFormat& format : kFormats) {
    if (format.name == name) return format;
  }
  throw Error(ErrorCode::kInvalidArgument,
              "unknown format '" + std::string(name) + "'; the formats are: " + names());
}

const PlacementFormat& format_of_output(const std::string& path, std::string_view name) {
  if (!name.empty()) return placement_format(name);
  for (const PlacementFormat& format : kFormats) {
    if (path.ends_with(format.extension)) return format;
  }
  throw Error(ErrorCode::kInvalidArgument,
              path + ": its extension names no format; give --format: " + names());
}

io::PlacementFile read_placement(const std::string& path, const PlacementFacts& facts,
                                 const PlacementFormat** format) {
  const std::string text = io::read_text_file(path);
  for (const PlacementFormat& known : kFormats) {
    if (!known.recognises(text)) continue;
    io::PlacementFile file = known.parse(path, text, facts);
    apply_facts(path, facts, file);
    if (format != nullptr) *format = &known;
    return file;
  }
  throw Error(ErrorCode::kIo, path + ": is a placement of no known format (" + names() + ")");
}

}  // namespace swiftbalancer::formats
