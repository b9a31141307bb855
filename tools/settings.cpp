#include "settings.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include <swiftbalancer/error.hpp>

#include "parse_number.hpp"

namespace swiftbalancer::tool {
namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> items;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    items.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

}  // namespace

template <typename Integer>
void Settings::add_integer(std::string key, Integer& value, std::int64_t least, std::int64_t most,
                           std::string help) {
  Setting setting{std::move(key),
                  std::move(help),
                  SettingKind::kInteger,
                  fmt::format("an integer from {} to {}", least, most),
                  {},
                  {}};
  setting.set = [&value, least, most](const std::string& text) {
    const auto number = parse_number<std::int64_t>(text);
    if (!number || *number < least || *number > most) return false;
    value = static_cast<Integer>(*number);
    return true;
  };
  setting.text = [&value] { return std::to_string(value); };
  settings_.push_back(std::move(setting));
}

void Settings::integer(std::string key, int& value, int least, int most, std::string help) {
  add_integer(std::move(key), value, least, most, std::move(help));
}

void Settings::integer(std::string key, std::int64_t& value, std::int64_t least, std::int64_t most,
                       std::string help) {
  add_integer(std::move(key), value, least, most, std::move(help));
}

void Settings::integer(std::string key, std::uint64_t& value, std::int64_t least, std::int64_t most,
                       std::string help) {
  add_integer(std::move(key), value, least, most, std::move(help));
}

void Settings::number(std::string key, double& value, double least, double most, std::string help) {
  Setting setting{std::move(key),
                  std::move(help),
                  SettingKind::kNumber,
                  fmt::format("a number from {} to {}", least, most),
                  {},
                  {}};
  setting.set = [&value, least, most](const std::string& text) {
    const auto number = parse_number<double>(text);
    if (!number || !std::isfinite(*number) || *number < least || *number > most) return false;
    value = *number;
    return true;
  };
  setting.text = [&value] { return fmt::format("{}", value); };
  settings_.push_back(std::move(setting));
}

void Settings::text(std::string key, std::string& value, std::string help) {
  Setting setting{
      std::move(key), std::move(help), SettingKind::kText, "a text that is not empty", {}, {}};
  setting.set = [&value](const std::string& text) {
    value = text;
    return !text.empty();
  };
  setting.text = [&value] { return value; };
  settings_.push_back(std::move(setting));
}

void Settings::list_setting(std::string key, std::string allowed, std::string help) {
  settings_.push_back({std::move(key),
                       std::move(help),
                       SettingKind::kList,
                       std::move(allowed) + ", with commas between them",
                       {},
                       {}});
}

void Settings::list(std::string key, std::vector<std::string>& value, std::string help) {
  list_setting(std::move(key), "words", std::move(help));
  settings_.back().set = [&value](const std::string& text) {
    value = split(text);
    return std::ranges::none_of(value, &std::string::empty);
  };
  settings_.back().text = [&value] { return fmt::format("{}", fmt::join(value, ",")); };
}

void Settings::integers(std::string key, std::vector<int>& value, int least, int most,
                        std::string help) {
  list_setting(std::move(key), fmt::format("integers from {} to {}, ranges like 3-60", least, most),
               std::move(help));
  settings_.back().set = [&value, least, most](const std::string& text) {
    std::vector<int> numbers;
    for (const std::string& item : split(text)) {
      const std::size_t dash = item.find('-', 1);
      const auto first = parse_number<int>(item.substr(0, dash));
      const auto last =
          dash == std::string::npos ? first : parse_number<int>(item.substr(dash + 1));
      if (!first || !last || *first < least || *last > most || *first > *last) return false;
      for (int number = *first; number <= *last; ++number) numbers.push_back(number);
    }
    value = std::move(numbers);
    return true;
  };
  settings_.back().text = [&value] { return fmt::format("{}", fmt::join(value, ",")); };
}

void Settings::flag(std::string key, bool& value, std::string help) {
  Setting setting{std::move(key), std::move(help), SettingKind::kFlag, "true or false", {}, {}};
  setting.set = [&value](const std::string& text) {
    value = text == "true";
    return text == "true" || text == "false";
  };
  setting.text = [&value] { return std::string(value ? "true" : "false"); };
  settings_.push_back(std::move(setting));
}

void Settings::choice(std::string key, std::vector<std::string> words,
                      std::function<void(std::size_t)> set, std::function<std::size_t()> get,
                      std::string help) {
  Setting setting{std::move(key),
                  std::move(help),
                  SettingKind::kText,
                  fmt::format("{}", fmt::join(words, ", ")),
                  {},
                  {}};
  setting.set = [words, set](const std::string& text) {
    const auto found = std::ranges::find(words, text);
    if (found == words.end()) return false;
    set(static_cast<std::size_t>(found - words.begin()));
    return true;
  };
  setting.text = [words, get] { return words[get()]; };
  settings_.push_back(std::move(setting));
}

void Settings::operand_text(std::string key, std::string& value, std::string help) {
  text(std::move(key), value, std::move(help));
  settings_.back().operand = true;
}

void Settings::operand_choice(std::string key, std::vector<std::string> words,
                              std::function<void(std::size_t)> set,
                              std::function<std::size_t()> get, std::string help) {
  choice(std::move(key), std::move(words), std::move(set), std::move(get), std::move(help));
  settings_.back().operand = true;
}

void Settings::assign(Setting& setting, const std::string& value, const std::string& where) {
  if (!setting.set(value)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is '{}'; allowed: {}", where, value, setting.allowed));
  }
  setting.given = true;
}

bool Settings::given(std::string_view key) const {
  return std::ranges::any_of(
      settings_, [key](const Setting& setting) { return setting.key == key && setting.given; });
}

std::string Settings::text_of(std::string_view key) const {
  return std::ranges::find(settings_, key, &Setting::key)->text();
}

std::string flag_of(const Setting& setting) {
  if (setting.operand) return setting.key;
  std::string flag = "--" + setting.key;
  std::ranges::replace(flag, '_', '-');
  return flag;
}

}  // namespace swiftbalancer::tool
