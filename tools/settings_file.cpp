// Configuration files (YAML, strict) and the record of the settings (JSON).

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>
#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>

#include "io/text_file.hpp"
#include "settings.hpp"

namespace swiftbalancer::tool {
namespace {

[[noreturn]] void fail(const std::string& path, const YAML::Mark& mark, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("{}:{}: {}", path, mark.line + 1, what));
}

YAML::Node parse(const std::string& path) {
  const std::string text = io::read_text_file(path);
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    fail(path, error.mark, "not YAML: " + error.msg);
  }
}

std::string value_text(const std::string& path, const Setting& setting, const YAML::Node& value) {
  if (setting.kind == SettingKind::kList && value.IsSequence()) {
    std::string text;
    for (const YAML::Node& item : value) {
      if (!item.IsScalar()) fail(path, item.Mark(), setting.key + " must be a list of words");
      text += (text.empty() ? "" : ",") + item.Scalar();
    }
    return text;
  }
  if (!value.IsScalar())
    fail(path, value.Mark(),
         fmt::format("{} must be a single value: {}", setting.key, setting.allowed));
  return value.Scalar();
}

}  // namespace

void Settings::load(const std::string& path) {
  const YAML::Node root = parse(path);
  if (root.IsNull()) return;
  if (!root.IsMap()) fail(path, root.Mark(), "a configuration is a list of lines \"key: value\"");
  std::set<std::string> seen;
  for (const auto& entry : root) {
    const YAML::Mark mark = entry.first.Mark();
    if (!entry.first.IsScalar()) fail(path, mark, "a key must be a word");
    const std::string& key = entry.first.Scalar();
    const auto setting = std::ranges::find(settings_, key, &Setting::key);
    if (setting == settings_.end()) {
      fail(path, mark,
           fmt::format(
               "unknown key '{}'; the keys are those of --help, with underscores for dashes", key));
    }
    if (!seen.insert(key).second) fail(path, mark, fmt::format("key '{}' is given twice", key));
    assign(*setting, value_text(path, *setting, entry.second),
           fmt::format("{}:{}: {}", path, mark.line + 1, key));
  }
}

std::string Settings::to_json() const {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const Setting& setting : settings_) {
    const std::string text = setting.text();
    switch (setting.kind) {
      case SettingKind::kInteger:
      case SettingKind::kNumber:
      case SettingKind::kFlag:
        json[setting.key] = nlohmann::ordered_json::parse(text);
        break;
      case SettingKind::kText:
      case SettingKind::kList:
        json[setting.key] = text;
        break;
    }
  }
  // Paths and words may be in another encoding; JSON is UTF-8.
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace swiftbalancer::tool
