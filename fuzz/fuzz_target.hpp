#pragma once
// What the fuzz targets share. A target is one function that libFuzzer calls with bytes: a reader
// must refuse them by Error or Status, or take them and give them back the same. Anything else
// (another exception, a sanitizer's finding, a hang) is a defect.

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/shape.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace swiftbalancer::fuzz {

/// Ends the run with the input as a finding unless the condition holds.
inline void expect(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "not true: %s\n", what);
  std::abort();
}

inline std::span<const std::byte> bytes_of(const std::uint8_t* data, std::size_t size) {
  return std::as_bytes(std::span(data, size));
}
inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// @returns whether `read` took its input; false when it was refused by Error with a message.
template <typename Read>
bool accepted(Read read) {
  try {
    read();
    return true;
  } catch (const Error& error) {
    expect(*error.what() != '\0', "an error says why");
    return false;
  }
}

/// A file of this process whose contents are the input, for readers of files.
class InputFile {
 public:
  explicit InputFile(const std::string& name)
      : folder_(std::filesystem::temp_directory_path() /
                ("swiftbalancer-fuzz-" + std::to_string(::getpid()))),
        path_((folder_ / name).string()) {
    std::filesystem::create_directories(folder_);
  }
  ~InputFile() { std::filesystem::remove_all(folder_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  void write(std::string_view text) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << text;
  }

 private:
  std::filesystem::path folder_;
  std::string path_;
};

/// Small enough for messages of a few hundred bytes: 2 layers, 3 experts, 2 ranks, 4 slots.
inline const ClusterShape& small_shape() {
  static const ClusterShape shape(
      {.num_moe_layers = 2, .num_logical_experts = 3, .num_ranks = 2, .num_slots = 4});
  return shape;
}

}  // namespace swiftbalancer::fuzz
