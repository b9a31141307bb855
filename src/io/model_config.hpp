#pragma once
// A checkpoint's config.json with every access checked: a wrong or missing value ends in one line
// that names file, key, value and what is allowed. Called by model families while a model
// loads, and by model registration.
// Immutable; thread-safe.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace swiftbalancer::io {

class ModelConfig {
 public:
  /// @param file Name for messages. @throws Error kIo when the text is not a JSON object.
  ModelConfig(const std::string& text, std::string file);
  ModelConfig(ModelConfig&&) noexcept;
  ModelConfig& operator=(ModelConfig&&) noexcept;
  ~ModelConfig();

  /// Present and not null.
  bool has(const std::string& key) const;
  bool is_zero(const std::string& key) const;
  /// Members of an object inside, or an object without members when the key is absent or null.
  ModelConfig section(const std::string& key) const;

  /// The getters throw Error kInvalidArgument when the value is missing, of another type or outside
  /// the range.
  int integer(const std::string& key, int least, int most) const;
  double positive_number(const std::string& key) const;
  bool boolean(const std::string& key) const;
  bool boolean(const std::string& key, bool if_absent) const;
  std::string text(const std::string& key) const;
  std::string text(const std::string& key, const std::string& if_absent) const;
  /// Entries of a list; 0 when the key is absent or null.
  std::size_t list_size(const std::string& key) const;
  bool list_contains(const std::string& key, std::string_view text) const;
  /// An integer, the only entry of a list, or -1 when the key is absent or null.
  int token_id(const std::string& key, int vocab_size) const;

  /// "FILE: KEY is VALUE; REQUIRED".
  [[noreturn]] void invalid(const std::string& key, const std::string& required) const;
  /// The same as kUnsupported: a known feature that the reader lacks.
  [[noreturn]] void unsupported(const std::string& key, const std::string& required) const;

 private:
  struct Impl;
  explicit ModelConfig(std::unique_ptr<Impl> impl);
  std::string describe(const std::string& key, const std::string& required) const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftbalancer::io
