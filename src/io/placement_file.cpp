#include "io/placement_file.hpp"

#include <algorithm>
#include <string_view>

#include <nlohmann/json.hpp>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>

#include "io/json_depth.hpp"

namespace swiftbalancer::io {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "swiftbalancer.placement";
constexpr int kVersion = 1;
constexpr std::string_view kKeys[] = {"format",
                                      "format_version",
                                      "num_moe_layers",
                                      "num_logical_experts",
                                      "num_ranks",
                                      "num_expert_groups",
                                      "slots_per_rank",
                                      "node_of_rank",
                                      "physical_to_logical_map",
                                      "shares"};

class Reader {
 public:
  Reader(const std::string& path, const Json& json) : path_(path), json_(json) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kIo, path_ + ": " + what);
  }

  const Json& at(const char* key) const {
    if (!json_.contains(key)) fail(std::string("key ") + key + " is missing");
    return json_.at(key);
  }
  int integer(const char* key) const { return integer(key, at(key)); }
  int integer(const char* key, const Json& value) const {
    if (!value.is_number_integer() || value.get<std::int64_t>() < 0 ||
        value.get<std::int64_t>() > 1'000'000'000) {
      fail(std::string(key) + " holds " + value.dump() + "; a whole number is needed, 0 or more");
    }
    return value.get<int>();
  }
  std::vector<int> integers(const char* key, const Json& value) const {
    if (!value.is_array()) fail(std::string(key) + " must be a list");
    std::vector<int> result;
    for (const Json& item : value) result.push_back(integer(key, item));
    return result;
  }
  /// A list per layer, a number per slot.
  std::vector<std::vector<int>> matrix(const char* key, int rows, int columns) const {
    const Json& value = at(key);
    if (!value.is_array() || value.size() != static_cast<std::size_t>(rows)) {
      fail(std::string(key) + " must be a list of " + std::to_string(rows) + " layers");
    }
    std::vector<std::vector<int>> result;
    for (const Json& item : value) {
      result.push_back(integers(key, item));
      if (result.back().size() != static_cast<std::size_t>(columns)) {
        fail(std::string(key) + " has a layer of " + std::to_string(result.back().size()) +
             " slots; the ranks have " + std::to_string(columns));
      }
    }
    return result;
  }

 private:
  const std::string& path_;
  const Json& json_;
};

std::vector<std::vector<std::uint32_t>> read_shares(const Reader& reader, const PlacementFile& file,
                                                    const ClusterShape& shape) {
  std::vector<std::vector<std::uint32_t>> shares;
  const auto lists = reader.matrix("shares", shape.num_moe_layers(), shape.num_slots());
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const auto& list = lists[static_cast<std::size_t>(layer)];
    const auto slots = file.placement.layer(layer);
    std::vector<std::int64_t> total(static_cast<std::size_t>(shape.num_logical_experts()));
    for (std::size_t slot = 0; slot < list.size(); ++slot)
      total[static_cast<std::size_t>(slots[slot])] += list[slot];
    const auto wrong =
        std::ranges::find_if(total, [](std::int64_t sum) { return sum != kShareUnit; });
    if (wrong != total.end()) {
      reader.fail("shares of expert " + std::to_string(wrong - total.begin()) + " in layer " +
                  std::to_string(layer) + " add up to " + std::to_string(*wrong) + ", not to " +
                  std::to_string(kShareUnit));
    }
    shares.emplace_back(list.begin(), list.end());
  }
  return shares;
}

}  // namespace

bool is_placement(const std::string& text) {
  if (is_too_deep(text)) return false;
  const Json json = Json::parse(text, nullptr, false);
  return json.is_object() && json.contains("format") && json.at("format") == kFormat;
}

PlacementFile parse_placement(const std::string& path, const std::string& text) {
  if (is_too_deep(text)) {
    throw Error(ErrorCode::kIo, path + ": is nested deeper than " + std::to_string(kMaxJsonDepth) +
                                    " lists or objects");
  }
  const Json json = Json::parse(text, nullptr, false);
  const Reader reader(path, json);
  if (!json.is_object()) reader.fail("is not a JSON object");
  for (const auto& [key, value] : json.items()) {
    if (std::ranges::find(kKeys, key) == std::end(kKeys)) reader.fail("key " + key + " is unknown");
  }
  if (reader.at("format") != kFormat)
    reader.fail("format is " + reader.at("format").dump() + "; a placement file says \"" +
                std::string(kFormat) + "\"");
  if (reader.integer("format_version") != kVersion)
    reader.fail("format_version is not 1, the only one known");

  PlacementFile file;
  file.shape.num_moe_layers = reader.integer("num_moe_layers");
  file.shape.num_logical_experts = reader.integer("num_logical_experts");
  file.shape.num_ranks = reader.integer("num_ranks");
  file.shape.num_expert_groups = reader.integer("num_expert_groups");
  file.shape.slots_per_rank = reader.integers("slots_per_rank", reader.at("slots_per_rank"));
  file.shape.node_of_rank = reader.integers("node_of_rank", reader.at("node_of_rank"));
  try {
    const ClusterShape shape(file.shape);
    file.shape.num_slots = shape.num_slots();
    file.shape.num_nodes = shape.num_nodes();
    file.placement = Placement(shape.num_moe_layers(), shape.num_slots());
    const auto map =
        reader.matrix("physical_to_logical_map", shape.num_moe_layers(), shape.num_slots());
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      std::ranges::copy(map[static_cast<std::size_t>(layer)], file.placement.layer(layer).begin());
    }
    validate(file.placement, shape);
    if (json.contains("shares")) file.shares = read_shares(reader, file, shape);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    reader.fail(error.what());
  }
  return file;
}

std::string format_placement(const PlacementFile& file) {
  const ClusterShape shape(file.shape);
  Json header = {{"format", kFormat},
                 {"format_version", kVersion},
                 {"num_moe_layers", shape.num_moe_layers()},
                 {"num_logical_experts", shape.num_logical_experts()},
                 {"num_ranks", shape.num_ranks()},
                 {"num_expert_groups", shape.num_expert_groups()}};
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    header["slots_per_rank"].push_back(shape.slots_per_rank(rank));
    header["node_of_rank"].push_back(shape.node_of_rank(rank));
  }
  // One line per layer: readable, and a diff shows which layers changed.
  std::string text = "{\n";
  for (const auto& [key, value] : header.items())
    text += "  \"" + key + "\": " + value.dump() + ",\n";
  const auto rows = [&text](const char* key, int num_rows, auto row) {
    text += "  \"" + std::string(key) + "\": [\n";
    for (int i = 0; i < num_rows; ++i)
      text += "    " + Json(row(i)).dump() + (i + 1 < num_rows ? ",\n" : "\n");
    text += "  ]";
  };
  rows("physical_to_logical_map", shape.num_moe_layers(), [&](int layer) {
    const auto slots = file.placement.layer(layer);
    return std::vector<int>(slots.begin(), slots.end());
  });
  if (!file.shares.empty()) {
    text += ",\n";
    rows("shares", shape.num_moe_layers(),
         [&](int layer) { return file.shares[static_cast<std::size_t>(layer)]; });
  }
  return text + "\n}\n";
}

}  // namespace swiftbalancer::io
