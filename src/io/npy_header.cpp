#include "io/npy_header.hpp"

#include <algorithm>
#include <set>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::io {
namespace {

constexpr std::uint64_t kMaxValues = std::uint64_t{1} << 32;
constexpr std::size_t kMaxDimensions = 8;
constexpr std::size_t kMaxDigits = 10;

class HeaderReader {
 public:
  HeaderReader(const std::string& path, std::string_view text) : path_(path), text_(text) {}

  NpyHeader read() {
    expect('{');
    while (!skip('}')) {
      const std::string key = quoted();
      if (!seen_.insert(key).second) fail("key '" + key + "' is given twice");
      expect(':');
      read_value(key);
      if (!skip(',') && peek() != '}') fail("a comma or } is needed");
    }
    if (peek() != '\0') fail("there is more behind the dictionary");
    for (const char* key : {"descr", "fortran_order", "shape"}) {
      if (!seen_.contains(key)) fail(std::string("there is no key '") + key + "'");
    }
    count_values();
    return std::move(header_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kIo,
                path_ + ": header, byte " + std::to_string(position_) + ": " + what);
  }

  // The next character that is no space; 0 at the end.
  char peek() {
    while (position_ < text_.size() && (text_[position_] == ' ' || text_[position_] == '\n'))
      ++position_;
    return position_ < text_.size() ? text_[position_] : '\0';
  }
  bool skip(char wanted) {
    if (peek() != wanted) return false;
    ++position_;
    return true;
  }
  void expect(char wanted) {
    if (!skip(wanted)) fail(std::string("'") + wanted + "' is needed");
  }

  std::string quoted() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail("a text in quotes is needed");
    const std::size_t begin = ++position_;
    const std::size_t end = text_.find(quote, begin);
    if (end == std::string_view::npos) fail("a text has no end");
    position_ = end + 1;
    const std::string text(text_.substr(begin, end - begin));
    if (std::ranges::any_of(text, [](char c) { return c < ' ' || c > '~' || c == '\\'; }))
      fail("a text holds a character that element types and keys do not have");
    return text;
  }

  bool boolean() {
    peek();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(position_, word.size()) != word) continue;
      position_ += word.size();
      return value;
    }
    fail("True or False is needed");
  }

  std::int64_t extent() {
    peek();
    std::int64_t value = 0;
    std::size_t digits = 0;
    for (; position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9';
         ++position_) {
      if (++digits > kMaxDigits) fail("the shape is too large");
      value = value * 10 + (text_[position_] - '0');
    }
    if (digits == 0) fail("a number is needed");
    return value;
  }

  void read_value(const std::string& key) {
    if (key == "descr") {
      if (peek() == '[') fail("structured element types are not supported; save one field");
      header_.descr = quoted();
    } else if (key == "fortran_order") {
      header_.fortran_order = boolean();
    } else if (key == "shape") {
      expect('(');
      while (!skip(')')) {
        if (header_.shape.size() == kMaxDimensions) fail("the shape has too many dimensions");
        header_.shape.push_back(extent());
        if (!skip(',') && peek() != ')') fail("a comma or ) is needed");
      }
    } else {
      fail("key '" + key + "' is unknown");
    }
  }

  void count_values() {
    for (const std::int64_t extent : header_.shape) {
      const auto factor = static_cast<std::uint64_t>(extent);
      // Asked before multiplying: the product itself may wrap around to a small number.
      if (factor != 0 && header_.num_values > kMaxValues / factor) fail("the shape is too large");
      header_.num_values *= factor;
    }
  }

  const std::string& path_;
  std::string_view text_;
  std::size_t position_ = 0;
  std::set<std::string> seen_;
  NpyHeader header_;
};

}  // namespace

NpyHeader parse_npy_header(const std::string& path, std::string_view text) {
  return HeaderReader(path, text).read();
}

}  // namespace swiftbalancer::io
