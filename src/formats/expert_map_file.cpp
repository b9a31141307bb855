// Format: vllm-ascend's expert_map_path (vllm_ascend/eplb/adaptor and utils): layer_id counts MoE
// layers, device_expert lists the experts of a device by slot, all devices have as many, none holds
// an expert twice.

#include <algorithm>
#include <vector>

#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>

#include "formats/formats.hpp"
#include "io/json_reader.hpp"

namespace swiftbalancer::formats {
namespace {

// Items of a list by the number that each says it has: every one from 0 on, once.
std::vector<std::size_t> by_id(const io::JsonReader& list, const char* key) {
  const std::size_t count = list.size();
  std::vector<std::size_t> order(count, count);
  for (std::size_t i = 0; i < count; ++i) {
    const io::JsonReader id = list.item(i).at(key);
    const auto value = static_cast<std::size_t>(id.integer());
    if (value >= count) {
      id.fail("is " + std::to_string(value) + "; the list has " + std::to_string(count) +
              " items, so 0 to " + std::to_string(count - 1) + " are allowed");
    }
    if (order[value] != count) id.fail("is " + std::to_string(value) + " a second time");
    order[value] = i;
  }
  return order;
}

std::vector<int> read_layer(const io::JsonReader& layer, std::size_t num_devices,
                            std::size_t num_slots) {
  layer.expect_object({"layer_id", "device_count", "device_list"});
  const io::JsonReader devices = layer.at("device_list");
  const int count = layer.at("device_count").integer();
  devices.size(count);
  if (static_cast<std::size_t>(count) != num_devices) {
    layer.at("device_count")
        .fail("is " + std::to_string(count) + ", another layer has " + std::to_string(num_devices));
  }
  std::vector<int> slots;
  for (const std::size_t i : by_id(devices, "device_id")) {
    const io::JsonReader device = devices.item(i);
    device.expect_object({"device_id", "device_expert"});
    const io::JsonReader experts = device.at("device_expert");
    std::vector<int> own = experts.integers(static_cast<std::int64_t>(num_slots));
    slots.insert(slots.end(), own.begin(), own.end());
    std::ranges::sort(own);
    if (const auto twice = std::ranges::adjacent_find(own); twice != own.end())
      experts.fail("names expert " + std::to_string(*twice) + " twice; once per device is allowed");
  }
  return slots;
}

}  // namespace

io::PlacementFile parse_expert_map(const std::string& path, const std::string& text,
                                   const PlacementFacts& facts) {
  const nlohmann::json json = io::parse_json(path, text);
  const io::JsonReader reader(path, json);
  reader.expect_object({"moe_layer_count", "layer_list"});
  const io::JsonReader layers = reader.at("layer_list");
  if (layers.size(reader.at("moe_layer_count").integer()) == 0) layers.fail("is empty");
  const io::JsonReader first_devices = layers.item(0).at("device_list");
  if (first_devices.size() == 0) first_devices.fail("is empty");
  const std::size_t num_slots = first_devices.item(0).at("device_expert").size();

  PlacementFacts known = facts;
  known.num_ranks = static_cast<int>(first_devices.size());
  known.slots_per_rank.clear();
  Rows rows;
  for (const std::size_t i : by_id(layers, "layer_id"))
    rows.push_back(read_layer(layers.item(i), first_devices.size(), num_slots));
  return complete(path, rows, known);
}

std::string format_expert_map(const io::PlacementFile& file) {
  const ClusterShape shape(file.shape);
  require_equal_slots(shape, "vllm-ascend");
  std::string text =
      "{\"moe_layer_count\": " + std::to_string(shape.num_moe_layers()) + ", \"layer_list\": [\n";
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    if (count_same_rank_duplicates(file.placement.layer(layer), shape) > 0) {
      throw Error(ErrorCode::kUnsupported,
                  "vllm-ascend files hold an expert once per rank; layer " + std::to_string(layer) +
                      " has one twice on a rank");
    }
    text += "  {\"layer_id\": " + std::to_string(layer) +
            ", \"device_count\": " + std::to_string(shape.num_ranks()) + ", \"device_list\": [\n";
    const Rows ranks = slots_by_rank(file, shape, layer);
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      text += "    {\"device_id\": " + std::to_string(rank) +
              ", \"device_expert\": " + nlohmann::json(ranks[rank]).dump() +
              (rank + 1 < ranks.size() ? "},\n" : "}]}");
    }
    text += layer + 1 < shape.num_moe_layers() ? ",\n" : "\n";
  }
  return text + "]}\n";
}

}  // namespace swiftbalancer::formats
