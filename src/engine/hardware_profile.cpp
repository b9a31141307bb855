#include <array>
#include <charconv>
#include <cmath>
#include <set>
#include <string>
#include <string_view>

#include <yaml-cpp/yaml.h>

#include <swiftbalancer/error.hpp>

#include "engine/timed_device.hpp"

namespace swiftbalancer::engine {
namespace {

struct KnownConstant {
  std::string_view name;
  std::string_view unit;
};

constexpr std::array kConstants = {
    // The named large model.
    KnownConstant{"expert_bytes", "byte"},
    KnownConstant{"expert_flops_per_token", "flop"},
    KnownConstant{"attention_flops_per_token", "flop"},
    KnownConstant{"attention_weight_bytes", "byte"},
    KnownConstant{"attention_bytes_per_context_token", "byte"},
    KnownConstant{"head_flops_per_token", "flop"},
    KnownConstant{"head_weight_bytes", "byte"},
    KnownConstant{"dispatch_bytes_per_row", "byte"},
    KnownConstant{"combine_bytes_per_row", "byte"},
    // The accelerator and its links, per rank and direction.
    KnownConstant{"flops", "flop/s"},
    KnownConstant{"hbm_bandwidth", "byte/s"},
    KnownConstant{"link_bandwidth", "byte/s"},
    KnownConstant{"link_latency", "s"},
    KnownConstant{"node_link_bandwidth", "byte/s"},
    KnownConstant{"node_link_latency", "s"},
    KnownConstant{"kernel_overhead", "s"},
    KnownConstant{"step_barrier", "s"},
    // Balancing.
    KnownConstant{"copy_link_share", "1"},
    KnownConstant{"packet_overhead_bytes", "byte"},
    KnownConstant{"begin_step_call", "s"},
    KnownConstant{"record_call", "s"},
    KnownConstant{"end_step_call", "s"},
    KnownConstant{"install_swap_per_expert", "s"},
    KnownConstant{"install_tables_per_unit", "s"},
    KnownConstant{"observe_loads", "s"},
    KnownConstant{"plan_eplb", "s"},
    KnownConstant{"plan_static", "s"},
    KnownConstant{"plan_stress", "s"},
    KnownConstant{"plan_swift", "s"},
};

const KnownConstant* find_constant(std::string_view name) {
  for (const KnownConstant& known : kConstants) {
    if (known.name == name) return &known;
  }
  return nullptr;
}

/// Reads one file; remembers its name for messages.
class ProfileReader {
 public:
  explicit ProfileReader(const std::string& path) : path_(path) {}

  HardwareProfile read() const {
    const YAML::Node root = parse();
    require_map(root, "the profile");
    require_keys(root, {"name", "model", "constants"}, "the profile");
    HardwareProfile profile;
    profile.name = text(root["name"], "name");
    profile.model = text(root["model"], "model");
    const YAML::Node constants = root["constants"];
    require_map(constants, "'constants'");
    for (const auto& entry : constants) {
      const std::string name = key_of(entry.first);
      const KnownConstant* known = find_constant(name);
      if (known == nullptr)
        fail(entry.first, "unknown constant '" + name + "'; known are: " + known_names());
      if (!profile.constants.emplace(name, constant(entry.second, *known)).second) {
        fail(entry.first, "constant '" + name + "' is given twice; keep one");
      }
    }
    for (const KnownConstant& known : kConstants) {
      if (profile.constants.contains(std::string(known.name))) continue;
      fail(constants, "constant '" + std::string(known.name) + "' (unit " +
                          std::string(known.unit) + ") is missing; add it");
    }
    return profile;
  }

 private:
  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& message) const {
    const std::string line = mark.is_null() ? "" : ":" + std::to_string(mark.line + 1);
    throw Error(ErrorCode::kInvalidArgument, path_ + line + ": " + message);
  }
  [[noreturn]] void fail(const YAML::Node& node, const std::string& message) const {
    fail(node.Mark(), message);
  }

  YAML::Node parse() const {
    try {
      return YAML::LoadFile(path_);
    } catch (const YAML::BadFile&) {
      throw Error(ErrorCode::kIo, path_ +
                                      ": hardware profile cannot be read; give the path of a file "
                                      "like those in data/hardware");
    } catch (const YAML::Exception& error) {
      fail(error.mark, "not valid YAML: " + error.msg);
    }
  }

  void require_map(const YAML::Node& node, const std::string& what) const {
    if (!node.IsMap()) fail(node, what + " must be a map of keys to values");
  }

  std::string key_of(const YAML::Node& key) const {
    if (!key.IsScalar()) fail(key, "a key must be a plain word");
    return key.Scalar();
  }

  // Exactly these keys, each once.
  void require_keys(const YAML::Node& map, const std::set<std::string>& keys,
                    const std::string& what) const {
    std::string allowed;
    for (const std::string& key : keys) allowed += (allowed.empty() ? "" : ", ") + key;
    std::set<std::string> seen;
    for (const auto& entry : map) {
      const std::string key = key_of(entry.first);
      if (!keys.contains(key))
        fail(entry.first, "unknown key '" + key + "' in " + what + "; allowed are: " + allowed);
      if (!seen.insert(key).second)
        fail(entry.first, "key '" + key + "' is given twice in " + what + "; keep one");
    }
    for (const std::string& key : keys) {
      if (!seen.contains(key))
        fail(map, "key '" + key + "' is missing in " + what + "; needed are: " + allowed);
    }
  }

  std::string text(const YAML::Node& node, const std::string& what) const {
    if (!node.IsScalar() || node.Scalar().empty())
      fail(node, "'" + what + "' must be a text that is not empty");
    return node.Scalar();
  }

  HardwareConstant constant(const YAML::Node& node, const KnownConstant& known) const {
    const std::string what = "constant '" + std::string(known.name) + "'";
    require_map(node, what);
    require_keys(node, {"value", "unit", "source"}, what);
    HardwareConstant result{number(node["value"], what), text(node["unit"], "unit"),
                            text(node["source"], "source")};
    if (result.unit != known.unit) {
      fail(node["unit"], what + " has unit '" + result.unit + "'; it must be given in '" +
                             std::string(known.unit) + "'");
    }
    if (known.unit == "1" && result.value >= 1.0) {
      fail(node["value"], what + " is " + node["value"].Scalar() +
                              "; a share lies between 0 and 1, both excluded");
    }
    return result;
  }

  double number(const YAML::Node& node, const std::string& what) const {
    const std::string value = text(node, "value");
    double result = 0.0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
    if (error != std::errc{} || end != value.data() + value.size() || !std::isfinite(result) ||
        result <= 0.0) {
      fail(node, what + " has value '" + value + "'; it must be a finite number above 0");
    }
    return result;
  }

  static std::string known_names() {
    std::string names;
    for (const KnownConstant& known : kConstants)
      names += (names.empty() ? "" : ", ") + std::string(known.name);
    return names;
  }

  const std::string& path_;
};

}  // namespace

double HardwareProfile::value(const std::string& constant) const {
  const auto found = constants.find(constant);
  if (found == constants.end()) {
    throw Error(ErrorCode::kInvalidArgument,
                "hardware profile '" + name + "' has no constant '" + constant + "'");
  }
  return found->second.value;
}

HardwareProfile load_hardware_profile(const std::string& path) {
  return ProfileReader(path).read();
}

}  // namespace swiftbalancer::engine
