#pragma once
// The settings of a subcommand: one table from which come the command-line flags (--num-ranks), the
// keys of the configuration file (num_ranks), the help and the record of what was used. A value is
// checked the same way wherever it comes from. Main thread.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace swiftbalancer::tool {

enum class SettingKind { kInteger, kNumber, kText, kList, kFlag };

struct Setting {
  std::string key;  ///< As in the configuration file; the flag has dashes for underscores.
  std::string help;
  SettingKind kind = SettingKind::kText;
  std::string allowed;  ///< E.g. "1 to 4096".
  /// Takes the text of a value; a list comes with commas. @returns false if it is not allowed.
  std::function<bool(const std::string& text)> set;
  std::function<std::string()> text;  ///< Current value.
  bool given = false;                 ///< In the file or on the command line.
  std::string short_flag{};           ///< "-o": another way to write the flag.
  bool operand = false;               ///< A word without a flag on the command line, required.
};

class Settings {
 public:
  // Each declares one setting, bound to a variable that outlives this object and holds the default.
  void integer(std::string key, int& value, int least, int most, std::string help);
  void integer(std::string key, std::int64_t& value, std::int64_t least, std::int64_t most,
               std::string help);
  void integer(std::string key, std::uint64_t& value, std::int64_t least, std::int64_t most,
               std::string help);
  void number(std::string key, double& value, double least, double most, std::string help);
  void text(std::string key, std::string& value, std::string help);
  void list(std::string key, std::vector<std::string>& value, std::string help);
  void flag(std::string key, bool& value, std::string help);
  /// Another way to write the flag of the setting declared last.
  void short_flag(std::string flag) { settings_.back().short_flag = std::move(flag); }
  /// One of some words; set receives its index.
  void choice(std::string key, std::vector<std::string> words, std::function<void(std::size_t)> set,
              std::function<std::size_t()> get, std::string help);

  /// As choice, but an operand.
  void operand_choice(std::string key, std::vector<std::string> words,
                      std::function<void(std::size_t)> set, std::function<std::size_t()> get,
                      std::string help);

  /// @param where "--num-ranks" or "file.yaml:3: num_ranks", for the message.
  /// @throws Error kInvalidArgument: where, the value, what is allowed.
  void assign(Setting& setting, const std::string& value, const std::string& where);
  /// Applies a YAML file: an object of keys. @throws Error kIo: not readable; kInvalidArgument with
  /// file and line: not
  ///         YAML, unknown or repeated key, wrong type or value.
  void load(const std::string& path);
  bool given(std::string_view key) const;
  /// Current value of a setting that is declared.
  std::string text_of(std::string_view key) const;
  /// All values by key, a JSON object.
  std::string to_json() const;
  std::vector<Setting>& all() noexcept { return settings_; }

 private:
  template <typename Integer>
  void add_integer(std::string key, Integer& value, std::int64_t least, std::int64_t most,
                   std::string help);

  std::vector<Setting> settings_;
};

std::string flag_of(const Setting& setting);

}  // namespace swiftbalancer::tool
