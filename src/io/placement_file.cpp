#include "io/placement_file.hpp"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string_view>

#include <nlohmann/json.hpp>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>

#include "io/json_depth.hpp"
#include "io/json_reader.hpp"

namespace swiftbalancer::io {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr std::string_view kFormat = "swiftbalancer.placement";
constexpr int kVersion = 2;

// FNV-1a, 64 bit (http://www.isthe.com/chongo/tech/comp/fnv): tells damage and hasty edits, no
// forgery.
std::string checksum_of(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001B3ULL;
  }
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

/// A list per layer, a number per slot.
std::vector<std::vector<int>> matrix(const JsonReader& lists, const ClusterShape& shape) {
  std::vector<std::vector<int>> result;
  const std::size_t rows = lists.size(shape.num_moe_layers());
  for (std::size_t i = 0; i < rows; ++i)
    result.push_back(lists.item(i).integers(shape.num_slots()));
  return result;
}

std::vector<std::vector<std::uint32_t>> read_shares(const JsonReader& reader,
                                                    const PlacementFile& file,
                                                    const ClusterShape& shape) {
  std::vector<std::vector<std::uint32_t>> shares;
  const auto lists = matrix(reader, shape);
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const auto& list = lists[static_cast<std::size_t>(layer)];
    const auto slots = file.placement.layer(layer);
    std::vector<std::int64_t> total(static_cast<std::size_t>(shape.num_logical_experts()));
    for (std::size_t slot = 0; slot < list.size(); ++slot)
      total[static_cast<std::size_t>(slots[slot])] += list[slot];
    const auto wrong =
        std::ranges::find_if(total, [](std::int64_t sum) { return sum != kShareUnit; });
    if (wrong != total.end()) {
      reader.fail("of expert " + std::to_string(wrong - total.begin()) + " in layer " +
                  std::to_string(layer) + " add up to " + std::to_string(*wrong) + ", not to " +
                  std::to_string(kShareUnit));
    }
    shares.emplace_back(list.begin(), list.end());
  }
  return shares;
}

void read_model(const JsonReader& reader, PlacementFile& file) {
  reader.expect_object({"name", "layer_ids"});
  if (reader.has("name")) file.model = reader.at("name").text();
  if (reader.has("layer_ids")) {
    file.model_layer_ids = reader.at("layer_ids").integers();
    check_model_layer_ids(file.model_layer_ids, file.shape.num_moe_layers);
  }
}

// All but the checksum, which covers this text.
std::string format_content(const PlacementFile& file) {
  const ClusterShape shape(file.shape);
  OrderedJson header = {{"format", kFormat},
                        {"format_version", kVersion},
                        {"num_moe_layers", shape.num_moe_layers()},
                        {"num_logical_experts", shape.num_logical_experts()},
                        {"num_ranks", shape.num_ranks()},
                        {"num_expert_groups", shape.num_expert_groups()}};
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    header["slots_per_rank"].push_back(shape.slots_per_rank(rank));
    header["node_of_rank"].push_back(shape.node_of_rank(rank));
  }
  if (!file.model.empty()) header["model"]["name"] = file.model;
  if (!file.model_layer_ids.empty()) header["model"]["layer_ids"] = file.model_layer_ids;
  // One line per layer: readable, and a diff shows which layers changed.
  std::string text = "{\n";
  for (const auto& [key, value] : header.items()) {
    text += "  \"" + key +
            "\": " + value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + ",\n";
  }
  const auto rows = [&text](const char* key, int num_rows, auto row) {
    text += "  \"" + std::string(key) + "\": [\n";
    for (int i = 0; i < num_rows; ++i)
      text += "    " + OrderedJson(row(i)).dump() + (i + 1 < num_rows ? ",\n" : "\n");
    text += "  ],\n";
  };
  rows("physical_to_logical_map", shape.num_moe_layers(), [&](int layer) {
    const auto slots = file.placement.layer(layer);
    return std::vector<int>(slots.begin(), slots.end());
  });
  if (!file.shares.empty()) {
    rows("shares", shape.num_moe_layers(),
         [&](int layer) { return file.shares[static_cast<std::size_t>(layer)]; });
  }
  return text;
}

// The lists that are there bound what is allocated from the numbers.
void check_sizes(const JsonReader& reader, const JsonReader& map, const ShapeOptions& shape) {
  reader.at("slots_per_rank").size(shape.num_ranks);
  std::int64_t num_slots = 0;
  for (const int slots : shape.slots_per_rank) num_slots += slots;
  if (map.size(shape.num_moe_layers) > 0) map.item(0).size(num_slots);
  for (const int node : shape.node_of_rank) {
    if (node >= shape.num_ranks) {
      reader.at("node_of_rank")
          .fail("names node " + std::to_string(node) + "; there are at most as many as ranks, " +
                std::to_string(shape.num_ranks));
    }
  }
}

void read_header(const JsonReader& reader, PlacementFile& file) {
  reader.expect_object({"format", "format_version", "num_moe_layers", "num_logical_experts",
                        "num_ranks", "num_expert_groups", "slots_per_rank", "node_of_rank", "model",
                        "physical_to_logical_map", "shares", "checksum"});
  if (const std::string format = reader.at("format").text(); format != kFormat) {
    reader.fail("is of format '" + format + "'; a placement file says '" + std::string(kFormat) +
                "'");
  }
  if (const int version = reader.at("format_version").integer(); version != kVersion) {
    reader.fail("is of format_version " + std::to_string(version) + "; " +
                std::to_string(kVersion) + " is the only one known");
  }
  file.shape.num_moe_layers = reader.at("num_moe_layers").integer();
  file.shape.num_logical_experts = reader.at("num_logical_experts").integer();
  file.shape.num_ranks = reader.at("num_ranks").integer();
  file.shape.num_expert_groups = reader.at("num_expert_groups").integer();
  file.shape.slots_per_rank = reader.at("slots_per_rank").integers();
  file.shape.node_of_rank = reader.at("node_of_rank").integers();
}

}  // namespace

bool is_placement(const std::string& text) {
  if (is_too_deep(text)) return false;
  const auto json = nlohmann::json::parse(text, nullptr, false);
  return json.is_object() && json.contains("format") && json.at("format") == kFormat;
}

PlacementFile parse_placement(const std::string& path, const std::string& text) {
  const nlohmann::json json = parse_json(path, text);
  const JsonReader reader(path, json);
  PlacementFile file;
  read_header(reader, file);
  try {
    const JsonReader map_reader = reader.at("physical_to_logical_map");
    check_sizes(reader, map_reader, file.shape);
    const ClusterShape shape(file.shape);
    file.shape.num_slots = shape.num_slots();
    file.shape.num_nodes = shape.num_nodes();
    if (reader.has("model")) read_model(reader.at("model"), file);
    const auto map = matrix(map_reader, shape);
    file.placement = Placement(shape.num_moe_layers(), shape.num_slots());
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      std::ranges::copy(map[static_cast<std::size_t>(layer)], file.placement.layer(layer).begin());
    }
    validate(file.placement, shape);
    if (reader.has("shares")) file.shares = read_shares(reader.at("shares"), file, shape);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    reader.fail(error.what());
  }
  const std::string checksum = reader.at("checksum").text();
  if (const std::string right = checksum_of(format_content(file)); checksum != right) {
    reader.at("checksum")
        .fail("is '" + checksum.substr(0, right.size()) + "', but the content gives '" + right +
              "': the file is damaged, or edited without a new checksum");
  }
  return file;
}

std::string format_placement(const PlacementFile& file) {
  const std::string content = format_content(file);
  return content + "  \"checksum\": \"" + checksum_of(content) + "\"\n}\n";
}

void check_model_layer_ids(const std::vector<int>& layer_ids, int num_moe_layers) {
  constexpr int kMostLayers = 10'000;
  if (layer_ids.size() != static_cast<std::size_t>(num_moe_layers)) {
    throw Error(ErrorCode::kInvalidArgument,
                "there are " + std::to_string(layer_ids.size()) + " model layers for " +
                    std::to_string(num_moe_layers) + " MoE layers; give one for each");
  }
  const auto wrong = std::ranges::adjacent_find(layer_ids, std::greater_equal<>());
  if (wrong != layer_ids.end()) {
    throw Error(ErrorCode::kInvalidArgument,
                "model layer " + std::to_string(wrong[1]) + " comes after model layer " +
                    std::to_string(*wrong) + "; they must be ascending");
  }
  if (!layer_ids.empty() && layer_ids.back() >= kMostLayers) {
    throw Error(ErrorCode::kInvalidArgument, "model layer " + std::to_string(layer_ids.back()) +
                                                 " is out of range; allowed are 0 to " +
                                                 std::to_string(kMostLayers - 1));
  }
}

}  // namespace swiftbalancer::io
