#include "io/load_file.hpp"

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>

#include "io/file_error.hpp"
#include "io/json_reader.hpp"
#include "io/npy.hpp"
#include "io/text_file.hpp"

namespace swiftbalancer::io {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxDepth = 3;
constexpr double kMaxExactSum =
    9007199254740992.0;              // 2^53: below it sums of whole doubles are exact
constexpr int kFractionsLimit = 40;  // a power of two
constexpr std::int64_t kMaxExtent = 1'000'000'000;
constexpr const char* kShapes = "[layers, experts] or [windows, layers, experts]";

// Nested lists, all of the same length at each depth, as an array.
void flatten(const std::string& path, const Json& json, std::size_t depth, NumberArray& array) {
  if (json.is_array()) {
    if (depth == kMaxDepth)
      fail(path, std::string("expert_load is nested deeper than 3 lists; loads are ") + kShapes);
    const auto extent = static_cast<std::int64_t>(json.size());
    if (depth == array.shape.size() && array.values.empty()) array.shape.push_back(extent);
    if (depth >= array.shape.size() || array.shape[depth] != extent)
      fail(path, "expert_load has lists of unequal length");
    for (const Json& item : json) flatten(path, item, depth + 1, array);
    return;
  }
  if (depth != array.shape.size()) fail(path, "expert_load has lists of unequal depth");
  const double value = json.is_number() ? json.get<double>() : -1.0;
  if (!(value >= 0.0 && value < kMaxExactSum)) {
    fail(path, "expert_load holds " + shown(json) + " at " +
                   place_in_array(array.shape, array.values.size()) +
                   "; loads are numbers of tokens, 0 or more and below 2^53");
  }
  array.values.push_back(value);
}

NumberArray read_json(const std::string& path, const std::string& text) {
  const Json json = parse_json(path, text);
  if (json.is_object()) JsonReader(path, json).expect_object({"expert_load"});
  if (json.is_object() && !json.contains("expert_load")) fail(path, "has no key expert_load");
  const Json& lists = json.is_object() ? json.at("expert_load") : json;
  if (!lists.is_array()) fail(path, std::string("expert_load must be nested lists ") + kShapes);
  NumberArray array;
  flatten(path, lists, 0, array);
  return array;
}

void check_shape(const std::string& path, const NumberArray& array) {
  const bool too_large =
      std::ranges::any_of(array.shape, [](std::int64_t extent) { return extent > kMaxExtent; });
  if (array.shape.size() == 3 && !array.values.empty() && !too_large) return;
  std::string shape;
  for (const std::int64_t extent : array.shape)
    shape += (shape.empty() ? "" : ", ") + std::to_string(extent);
  fail(path, "has shape [" + shape + "]; loads are " + kShapes + ", none of them 0");
}

// Checks values and sums. @returns the power of two to multiply all values by.
int checked_scale(const std::string& path, const NumberArray& array) {
  const auto experts = static_cast<std::size_t>(array.shape.back());
  bool whole = true;
  double largest = 0.0;
  for (std::size_t begin = 0; begin < array.values.size(); begin += experts) {
    double sum = 0.0;
    for (std::size_t i = begin; i < begin + experts; ++i) {
      const double value = array.values[i];
      if (value < 0.0) {
        fail(path, "value " + number_text(value) + " of window, layer and expert " +
                       place_in_array(array.shape, i) + "; loads are tokens, 0 or more");
      }
      whole = whole && value == std::floor(value);
      sum += value;
    }
    if (sum >= kMaxExactSum) {
      const std::string place = place_in_array({array.shape.data(), 2}, begin / experts);
      fail(path, "window and layer " + place + ": the loads add up to 2^53 or more");
    }
    largest = std::max(largest, sum);
  }
  if (whole) return 0;
  int exponent = 0;
  std::frexp(largest, &exponent);  // largest < 2^exponent
  return std::max(0, kFractionsLimit - exponent);
}

}  // namespace

std::vector<ExpertLoad> read_loads(const std::string& path) {
  const std::string text = read_text_file(path);
  NumberArray array = is_npy(text) ? parse_npy(path, text) : read_json(path, text);
  if (array.shape.size() == 2) array.shape.insert(array.shape.begin(), 1);
  check_shape(path, array);
  const int scale = checked_scale(path, array);
  std::vector<ExpertLoad> windows;
  auto next = array.values.begin();
  for (std::int64_t w = 0; w < array.shape[0]; ++w) {
    ExpertLoad& load =
        windows.emplace_back(static_cast<int>(array.shape[1]), static_cast<int>(array.shape[2]));
    for (int layer = 0; layer < load.num_moe_layers(); ++layer) {
      for (std::int64_t& tokens : load.layer(layer))
        tokens = std::llrint(std::ldexp(*next++, scale));
    }
  }
  return windows;
}

ExpertLoad sum_of_windows(std::span<const ExpertLoad> windows) {
  ExpertLoad sum(windows.front().num_moe_layers(), windows.front().num_logical_experts());
  for (int layer = 0; layer < sum.num_moe_layers(); ++layer) {
    double total = 0.0;
    for (const ExpertLoad& load : windows) {
      const auto tokens = load.layer(layer);
      for (std::size_t e = 0; e < tokens.size(); ++e) {
        sum.layer(layer)[e] += tokens[e];
        total += static_cast<double>(tokens[e]);
      }
      if (total >= kMaxExactSum) {
        throw Error(ErrorCode::kInvalidArgument,
                    "the loads of layer " + std::to_string(layer) +
                        " over all windows add up to 2^53 or more; choose one --window");
      }
    }
  }
  return sum;
}

}  // namespace swiftbalancer::io
