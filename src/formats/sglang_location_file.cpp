// Format: SGLang's server argument --init-expert-location, read by init_by_mapping
// (python/sglang/srt/eplb/expert_location.py): rows for all layers of the model, of which those of
// dense layers are not used.

#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>

#include "formats/formats.hpp"
#include "io/json_reader.hpp"

namespace swiftbalancer::formats {

io::PlacementFile parse_sglang_location(const std::string& path, const std::string& text,
                                        const PlacementFacts& facts) {
  const nlohmann::json json = io::parse_json(path, text);
  const io::JsonReader reader(path, json);
  reader.expect_object({"physical_to_logical_map"});
  const io::JsonReader map = reader.at("physical_to_logical_map");
  Rows rows;
  for (std::size_t layer = 0; layer < map.size(); ++layer)
    rows.push_back(map.item(layer).integers());
  return complete(path, moe_rows(path, std::move(rows), facts.model_layer_ids), facts);
}

std::string format_sglang_location(const io::PlacementFile& file) {
  const ClusterShape shape(file.shape);
  require_equal_slots(shape, "SGLang");
  // Rows of dense layers are not used, but must be there and valid: what SGLang calls trivial.
  nlohmann::json dense = nlohmann::json::array();
  for (int slot = 0; slot < shape.num_slots(); ++slot)
    dense.push_back(slot % shape.num_logical_experts());
  std::string text = "{\"physical_to_logical_map\": [\n";
  int row = 0;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    for (; row < model_layer_id(file, layer); ++row) text += dense.dump() + ",\n";
    const auto slots = file.placement.layer(layer);
    text += nlohmann::json(std::vector<int>(slots.begin(), slots.end())).dump();
    text += layer + 1 < shape.num_moe_layers() ? ",\n" : "\n";
    ++row;
  }
  return text + "]}\n";
}

}  // namespace swiftbalancer::formats
