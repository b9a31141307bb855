#include "io/json_reader.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>

#include "io/json_depth.hpp"

namespace swiftbalancer::io {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMaxInteger = 1'000'000'000;

std::string place_in(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte, text.size()));
  const std::size_t line_begin = before.rfind('\n') + 1;  // npos + 1 is 0.
  return std::to_string(std::ranges::count(before, '\n') + 1) + ":" +
         std::to_string(before.size() - line_begin + 1);
}

// The parser keeps the last of equal keys and says nothing.
class UniqueKeys {
 public:
  /// @returns false for a key that its object has already.
  bool take(Json::parse_event_t event, const Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    return event != Json::parse_event_t::key ||
           keys_.back().insert(parsed.get<std::string>()).second;
  }

 private:
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

std::string shown(const nlohmann::json& value) {
  constexpr std::size_t kMost = 60;
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

Json parse_json(const std::string& path, std::string_view text) {
  if (is_too_deep(text)) {
    throw Error(ErrorCode::kIo, path + ": is nested deeper than " + std::to_string(kMaxJsonDepth) +
                                    " lists or objects");
  }
  UniqueKeys keys;
  const auto check = [&](int, Json::parse_event_t event, Json& parsed) {
    if (!keys.take(event, parsed))
      throw Error(ErrorCode::kIo, path + ": key " + shown(parsed) + " is given twice");
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::parse_error& error) {
    const std::size_t byte = error.byte > 0 ? error.byte - 1 : 0;
    throw Error(ErrorCode::kIo,
                path + ":" + place_in(text, byte) +
                    (byte >= text.size() ? ": ends too early: is not JSON" : ": is not JSON"));
  } catch (const Json::exception&) {
    throw Error(ErrorCode::kIo, path + ": holds a number that is too large");
  }
}

void JsonReader::fail(const std::string& what) const {
  throw Error(ErrorCode::kIo, path_ + ": " + (place_.empty() ? "" : place_ + " ") + what);
}

void JsonReader::expect_object(std::initializer_list<std::string_view> known_keys) const {
  if (!value_.is_object()) fail("is not a JSON object");
  for (const auto& [key, value] : value_.items()) {
    if (std::ranges::find(known_keys, key) == known_keys.end())
      fail("has an unknown key " + shown(key));
  }
}

bool JsonReader::has(const char* key) const { return value_.contains(key); }

JsonReader JsonReader::at(const char* key) const {
  const auto found = value_.find(key);
  if (found == value_.end()) fail(std::string("has no key ") + key);
  return {path_, *found, place_.empty() ? key : place_ + "." + key};
}

std::size_t JsonReader::size(std::int64_t expected) const {
  if (!value_.is_array()) fail("is " + shown(value_) + "; a list is needed");
  if (expected >= 0 && value_.size() != static_cast<std::size_t>(expected)) {
    fail("has " + std::to_string(value_.size()) + " items; " + std::to_string(expected) +
         " are needed");
  }
  return value_.size();
}

JsonReader JsonReader::item(std::size_t i) const {
  return {path_, value_.at(i), place_ + "[" + std::to_string(i) + "]"};
}

int JsonReader::integer() const {
  if (!value_.is_number_integer() || value_.get<std::int64_t>() < 0 ||
      value_.get<std::int64_t>() > kMaxInteger) {
    fail("is " + shown(value_) + "; a whole number from 0 to " + std::to_string(kMaxInteger) +
         " is needed");
  }
  return value_.get<int>();
}

std::vector<int> JsonReader::integers(std::int64_t expected) const {
  std::vector<int> result;
  result.reserve(size(expected));
  for (std::size_t i = 0; i < value_.size(); ++i) {
    const Json& value = value_[i];
    // Places are made for messages only: a placement has many numbers.
    result.push_back(value.is_number_unsigned() && value.get<std::uint64_t>() <= kMaxInteger
                         ? value.get<int>()
                         : item(i).integer());
  }
  return result;
}

std::string JsonReader::text() const {
  if (!value_.is_string()) fail("is " + shown(value_) + "; a text is needed");
  return value_.get<std::string>();
}

}  // namespace swiftbalancer::io
