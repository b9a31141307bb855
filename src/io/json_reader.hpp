#pragma once
// Strict reading of JSON files: text to a tree whose keys are all different, and values out of it
// with errors that name file and place. Used by the readers of this folder and of formats.
// Thread-safe.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace swiftbalancer::io {

/// @param path for messages. @throws Error kIo naming line and column: not JSON, nested too deep, a
/// key given twice in one object.
nlohmann::json parse_json(const std::string& path, std::string_view text);

/// A value in a message: whatever bytes and length it has, one short line.
std::string shown(const nlohmann::json& value);

/// One value of a tree and its place in it ("layer_list[3].layer_id"). A view: path and tree
/// outlive it.
class JsonReader {
 public:
  JsonReader(const std::string& path, const nlohmann::json& value, std::string place = "")
      : path_(path), value_(value), place_(std::move(place)) {}

  /// @throws Error kIo: file, place, what.
  [[noreturn]] void fail(const std::string& what) const;

  /// Refuses a value that is not an object and keys other than these.
  void expect_object(std::initializer_list<std::string_view> known_keys) const;
  bool has(const char* key) const;
  /// Of an object; @throws Error if the key is missing.
  JsonReader at(const char* key) const;
  /// Number of items; @throws Error unless it is a list, of `expected` items where that is >= 0.
  std::size_t size(std::int64_t expected = -1) const;
  JsonReader item(std::size_t i) const;

  /// A whole number from 0 to 10^9.
  int integer() const;
  std::vector<int> integers(std::int64_t expected = -1) const;
  std::string text() const;

 private:
  const std::string& path_;
  const nlohmann::json& value_;
  std::string place_;
};

}  // namespace swiftbalancer::io
