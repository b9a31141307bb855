#include "io/model_config.hpp"

#include <cmath>
#include <nlohmann/json.hpp>
#include <swiftbalancer/error.hpp>
#include <utility>

#include "io/json_depth.hpp"

namespace swiftbalancer::io {

using Json = nlohmann::json;

struct ModelConfig::Impl {
  Json values;
  std::string file;
  std::string prefix;  ///< "rope_parameters." for members of that object.

  const Json* find(const std::string& key) const {
    const auto found = values.find(key);
    return found == values.end() || found->is_null() ? nullptr : &*found;
  }
};

ModelConfig::ModelConfig(const std::string& text, std::string file)
    : impl_(std::make_unique<Impl>()) {
  impl_->file = std::move(file);
  if (is_too_deep(text))
    throw Error(ErrorCode::kIo, impl_->file + ": is nested deeper than " +
                                    std::to_string(kMaxJsonDepth) + " lists or objects");
  try {
    impl_->values = Json::parse(text);
  } catch (const Json::exception& error) {
    throw Error(ErrorCode::kIo, impl_->file + ": is not JSON (" + error.what() + ")");
  }
  if (!impl_->values.is_object())
    throw Error(ErrorCode::kIo, impl_->file + ": is not a JSON object");
}

ModelConfig::ModelConfig(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ModelConfig::ModelConfig(ModelConfig&&) noexcept = default;
ModelConfig& ModelConfig::operator=(ModelConfig&&) noexcept = default;
ModelConfig::~ModelConfig() = default;

std::string ModelConfig::describe(const std::string& key, const std::string& required) const {
  constexpr std::size_t kLongest = 60;
  const std::string name = impl_->file + ": " + impl_->prefix + key;
  const auto found = impl_->values.find(key);
  if (found == impl_->values.end()) return name + " is missing; " + required;
  std::string value = found->dump();
  if (value.size() > kLongest) value = value.substr(0, kLongest) + "...";
  return name + " is " + value + "; " + required;
}

void ModelConfig::invalid(const std::string& key, const std::string& required) const {
  throw Error(ErrorCode::kInvalidArgument, describe(key, required));
}

void ModelConfig::unsupported(const std::string& key, const std::string& required) const {
  throw Error(ErrorCode::kUnsupported, describe(key, required));
}

bool ModelConfig::has(const std::string& key) const { return impl_->find(key) != nullptr; }

bool ModelConfig::is_zero(const std::string& key) const {
  const Json* value = impl_->find(key);
  return value != nullptr && *value == 0;
}

ModelConfig ModelConfig::section(const std::string& key) const {
  const Json* value = impl_->find(key);
  if (value != nullptr && !value->is_object()) invalid(key, "an object is needed");
  auto impl = std::make_unique<Impl>();
  impl->values = value != nullptr ? *value : Json::object();
  impl->file = impl_->file;
  impl->prefix = impl_->prefix + key + ".";
  return ModelConfig(std::move(impl));
}

int ModelConfig::integer(const std::string& key, int least, int most) const {
  const std::string required =
      "an integer from " + std::to_string(least) + " to " + std::to_string(most) + " is needed";
  const Json* value = impl_->find(key);
  if (value == nullptr || !value->is_number_integer()) invalid(key, required);
  // An unsigned number beyond int64 would wrap to a negative one.
  const bool wraps =
      value->is_number_unsigned() && value->get<std::uint64_t>() > std::uint64_t{INT64_MAX};
  const auto number = value->get<std::int64_t>();
  if (wraps || number < least || number > most) invalid(key, required);
  return static_cast<int>(number);
}

double ModelConfig::positive_number(const std::string& key) const {
  const Json* value = impl_->find(key);
  const bool good = value != nullptr && value->is_number() && value->get<double>() > 0.0 &&
                    std::isfinite(value->get<double>());
  if (!good) invalid(key, "a positive number is needed");
  return value->get<double>();
}

bool ModelConfig::boolean(const std::string& key) const {
  const Json* value = impl_->find(key);
  if (value == nullptr || !value->is_boolean()) invalid(key, "true or false is needed");
  return value->get<bool>();
}

bool ModelConfig::boolean(const std::string& key, bool if_absent) const {
  return has(key) ? boolean(key) : if_absent;
}

std::string ModelConfig::text(const std::string& key) const {
  const Json* value = impl_->find(key);
  if (value == nullptr || !value->is_string()) invalid(key, "a text is needed");
  return value->get<std::string>();
}

std::string ModelConfig::text(const std::string& key, const std::string& if_absent) const {
  return has(key) ? text(key) : if_absent;
}

std::size_t ModelConfig::list_size(const std::string& key) const {
  const Json* value = impl_->find(key);
  if (value == nullptr) return 0;
  if (!value->is_array()) invalid(key, "a list is needed");
  return value->size();
}

bool ModelConfig::list_contains(const std::string& key, std::string_view text) const {
  if (list_size(key) == 0) return false;
  for (const Json& entry : *impl_->find(key)) {
    if (entry.is_string() && entry.get_ref<const std::string&>() == text) return true;
  }
  return false;
}

int ModelConfig::token_id(const std::string& key, int vocab_size) const {
  const Json* value = impl_->find(key);
  if (value == nullptr) return -1;
  if (value->is_array() && value->size() == 1) value = &value->front();
  const bool good = value->is_number_unsigned() &&
                    value->get<std::uint64_t>() < static_cast<std::uint64_t>(vocab_size);
  if (!good)
    invalid(key, "one token id below vocab_size " + std::to_string(vocab_size) + " is needed");
  return value->get<int>();
}

}  // namespace swiftbalancer::io
