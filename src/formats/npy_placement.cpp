#include <cmath>

#include <swiftbalancer/error.hpp>

#include "formats/formats.hpp"
#include "io/file_error.hpp"
#include "io/npy.hpp"

namespace swiftbalancer::formats {
namespace {

using io::fail;

constexpr double kMaxExpert = 1e9;

}  // namespace

io::PlacementFile parse_npy_placement(const std::string& path, const std::string& text,
                                      const PlacementFacts& facts) {
  const io::NumberArray array = io::parse_npy(path, text);
  if (array.shape.size() != 2 || array.values.empty()) {
    fail(path, "has " + std::to_string(array.shape.size()) + " dimensions and " +
                   std::to_string(array.values.size()) +
                   " values; a placement is [layers, slots], neither of them 0");
  }
  const auto num_slots = static_cast<std::size_t>(array.shape[1]);
  Rows rows(static_cast<std::size_t>(array.shape[0]));
  for (std::size_t i = 0; i < array.values.size(); ++i) {
    const double value = array.values[i];
    if (!(value >= 0.0 && value <= kMaxExpert) || value != std::floor(value)) {
      fail(path, "value " + io::number_text(value) + " of layer and slot " +
                     io::place_in_array(array.shape, i) + " is no expert");
    }
    rows[i / num_slots].push_back(static_cast<int>(value));
  }
  return complete(path, rows, facts);
}

std::string format_npy_placement(const io::PlacementFile& file) {
  const Placement& placement = file.placement;
  std::vector<std::int32_t> values;
  for (int layer = 0; layer < placement.num_moe_layers(); ++layer) {
    const auto slots = placement.layer(layer);
    values.insert(values.end(), slots.begin(), slots.end());
  }
  const std::vector<std::int64_t> shape{placement.num_moe_layers(), placement.num_slots()};
  return io::format_npy(shape, values);
}

}  // namespace swiftbalancer::formats
