#include "io/load_file.hpp"

#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>

#include "io/json_depth.hpp"
#include "io/npy.hpp"
#include "io/text_file.hpp"

namespace swiftbalancer::io {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxDepth = 3;
constexpr std::int64_t kMaxCount = std::int64_t{1} << 53;  // every whole double up to here is exact
constexpr const char* kShapes = "[layers, experts] or [windows, layers, experts]";

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kIo, path + ": " + what);
}

// Nested lists, all of the same length at each depth, as an array.
void flatten(const std::string& path, const Json& json, std::size_t depth, CountArray& array) {
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
  // Numbers from 2^63 on read as negative ones, so both ends are checked with one conversion.
  const std::int64_t count = json.is_number_integer() ? json.get<std::int64_t>() : -1;
  if (count < 0 || count > kMaxCount) {
    fail(path,
         "expert_load holds " + json.dump() + "; loads are whole numbers of tokens from 0 to 2^53");
  }
  array.values.push_back(count);
}

CountArray read_json(const std::string& path, const std::string& text) {
  if (is_too_deep(text))
    fail(path, "is nested deeper than " + std::to_string(kMaxJsonDepth) + " lists or objects");
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) fail(path, "is neither a .npy file nor JSON");
  if (json.is_object() && !json.contains("expert_load")) fail(path, "has no key expert_load");
  const Json& lists = json.is_object() ? json.at("expert_load") : json;
  if (!lists.is_array()) fail(path, std::string("expert_load must be nested lists ") + kShapes);
  CountArray array;
  flatten(path, lists, 0, array);
  return array;
}

}  // namespace

std::vector<ExpertLoad> read_loads(const std::string& path) {
  const std::string text = read_text_file(path);
  CountArray array = text.starts_with("\x93NUMPY") ? read_npy(path) : read_json(path, text);
  if (array.shape.size() == 2) array.shape.insert(array.shape.begin(), 1);
  if (array.shape.size() != 3 || array.values.empty()) {
    std::string shape;
    for (const std::int64_t extent : array.shape)
      shape += (shape.empty() ? "" : ", ") + std::to_string(extent);
    fail(path, "has shape [" + shape + "]; loads are " + kShapes + ", none of them 0");
  }
  std::vector<ExpertLoad> windows;
  auto next = array.values.begin();
  for (std::int64_t w = 0; w < array.shape[0]; ++w) {
    ExpertLoad& load =
        windows.emplace_back(static_cast<int>(array.shape[1]), static_cast<int>(array.shape[2]));
    for (int layer = 0; layer < load.num_moe_layers(); ++layer) {
      for (std::int64_t& tokens : load.layer(layer)) tokens = *next++;
    }
  }
  return windows;
}

}  // namespace swiftbalancer::io
