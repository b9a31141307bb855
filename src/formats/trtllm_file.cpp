// Format: TensorRT-LLM's MoE load balancer configuration (moe_config.load_balancer): num_slots,
// layer_updates_per_iter, initial_global_assignments {model layer: experts by slot}.

#include <charconv>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <swiftbalancer/error.hpp>

#include "formats/formats.hpp"

namespace swiftbalancer::formats {
namespace {

constexpr int kMaxInteger = 1'000'000'000;

// Takes the file as the parser finds it: a tree would drop lines and hide repeated keys, and
// aliases could grow it without bound.
class Reader final : public YAML::EventHandler {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& what) const {
    throw Error(ErrorCode::kIo, path_ + ":" + std::to_string(mark.line + 1) + ": " + what);
  }

  int num_slots = -1;
  std::map<int, std::vector<int>> assignments;  // by layer of the model

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (state_ != State::kBegin) fail(mark, "a second document begins");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { scalar(mark, ""); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(mark, "aliases are not used in this format");
  }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                const std::string& value) override {
    scalar(mark, value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    if (state_ != State::kLayerSlots) fail(mark, "a list is not expected here");
    state_ = State::kSlot;
  }
  void OnSequenceEnd() override { state_ = State::kLayer; }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    if (state_ == State::kBegin) {
      state_ = State::kKey;
    } else if (state_ == State::kValue && key_ == "initial_global_assignments") {
      state_ = State::kLayer;
    } else {
      fail(mark, "an object is not expected here");
    }
  }
  void OnMapEnd() override { state_ = state_ == State::kLayer ? State::kKey : State::kEnd; }

 private:
  enum class State { kBegin, kKey, kValue, kLayer, kLayerSlots, kSlot, kEnd };

  int integer(const YAML::Mark& mark, const std::string& what, const std::string& text) const {
    int value = -1;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stop != end || value < 0 || value > kMaxInteger) {
      fail(mark, what + " is '" + text.substr(0, 40) + "'; a whole number from 0 to " +
                     std::to_string(kMaxInteger) + " is needed");
    }
    return value;
  }

  void scalar(const YAML::Mark& mark, const std::string& text) {
    switch (state_) {
      case State::kKey:
        take_key(mark, text);
        break;
      case State::kValue:
        take_value(mark, text);
        break;
      case State::kLayer:
        layer_ = integer(mark, "a layer of initial_global_assignments", text);
        if (assignments.contains(layer_))
          fail(mark, "layer " + std::to_string(layer_) + " is given twice");
        assignments[layer_];
        state_ = State::kLayerSlots;
        break;
      case State::kSlot:
        assignments[layer_].push_back(
            integer(mark, "an expert of layer " + std::to_string(layer_), text));
        break;
      case State::kBegin:
      case State::kLayerSlots:
      case State::kEnd:
        fail(mark, state_ == State::kLayerSlots ? "a list of experts is needed"
                                                : "lines \"key: value\" are needed");
    }
  }

  void take_key(const YAML::Mark& mark, const std::string& key) {
    if (key != "num_slots" && key != "layer_updates_per_iter" &&
        key != "initial_global_assignments") {
      fail(mark, "unknown key '" + key.substr(0, 40) +
                     "'; the keys are num_slots, layer_updates_per_iter and "
                     "initial_global_assignments");
    }
    if (!keys_.insert(key).second) fail(mark, "key '" + key + "' is given twice");
    key_ = key;
    state_ = State::kValue;
  }

  void take_value(const YAML::Mark& mark, const std::string& text) {
    if (key_ == "initial_global_assignments") fail(mark, key_ + " must be an object of layers");
    const int value = integer(mark, key_, text);
    if (key_ == "num_slots") num_slots = value;
    state_ = State::kKey;
  }

  const std::string& path_;
  State state_ = State::kBegin;
  std::set<std::string> keys_;
  std::string key_;
  int layer_ = 0;
};

void read(const std::string& text, Reader& reader) {
  std::istringstream stream(text);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(reader)) {
    }
  } catch (const YAML::Exception& error) {
    reader.fail(error.mark, "is not YAML: " + error.msg);
  }
}

}  // namespace

io::PlacementFile parse_trtllm(const std::string& path, const std::string& text,
                               const PlacementFacts& facts) {
  Reader reader(path);
  read(text, reader);
  if (reader.num_slots < 0) throw Error(ErrorCode::kIo, path + ": has no key num_slots");
  if (reader.assignments.empty())
    throw Error(ErrorCode::kIo, path + ": has no initial_global_assignments");
  PlacementFacts known = facts;
  if (known.model_layer_ids.empty()) {
    for (const auto& [layer, experts] : reader.assignments) known.model_layer_ids.push_back(layer);
  }
  Rows rows;
  for (const int layer : known.model_layer_ids) {
    const auto found = reader.assignments.find(layer);
    if (found == reader.assignments.end()) {
      throw Error(ErrorCode::kIo, path + ": initial_global_assignments have no layer " +
                                      std::to_string(layer) + ", which --model-layers names");
    }
    if (found->second.size() != static_cast<std::size_t>(reader.num_slots)) {
      throw Error(ErrorCode::kIo, path + ": layer " + std::to_string(layer) + " has " +
                                      std::to_string(found->second.size()) +
                                      " experts; num_slots is " + std::to_string(reader.num_slots));
    }
    rows.push_back(found->second);
  }
  io::PlacementFile file = complete(path, rows, known);
  file.model_layer_ids = known.model_layer_ids;
  forget_plain_layer_ids(file);
  return file;
}

std::string format_trtllm(const io::PlacementFile& file) {
  const ClusterShape shape(file.shape);
  require_equal_slots(shape, "TensorRT-LLM");
  // A static placement: TensorRT-LLM itself moves nothing. In braces, so that a cut file is no
  // YAML.
  std::string text = "num_slots: " + std::to_string(shape.num_slots()) +
                     "\nlayer_updates_per_iter: 0\ninitial_global_assignments: {\n";
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    text += "  " + std::to_string(model_layer_id(file, layer)) + ": [";
    const auto slots = file.placement.layer(layer);
    for (std::size_t slot = 0; slot < slots.size(); ++slot)
      text += (slot == 0 ? "" : ", ") + std::to_string(slots[slot]);
    text += layer + 1 < shape.num_moe_layers() ? "],\n" : "]\n";
  }
  return text + "  }\n";
}

}  // namespace swiftbalancer::formats
