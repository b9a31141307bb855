#include "io/checkpoint_digest.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace swiftbalancer::io {
namespace {

constexpr std::size_t kSampledTensors = 64;
constexpr std::size_t kSamples = 8;  // of a tensor
constexpr std::size_t kSampleBytes = 8;

// FNV-1a; lengths go in first, so that "ab", "c" and "a", "bc" differ.
class Digest {
 public:
  void add(std::span<const std::byte> bytes) {
    add_number(bytes.size());
    add_bytes(bytes);
  }
  void add(const std::string& text) { add(std::as_bytes(std::span(text))); }
  void add_number(std::uint64_t number) { add_bytes(std::as_bytes(std::span(&number, 1))); }
  std::string hex() const {
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value_));
    return text;
  }

 private:
  void add_bytes(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes)
      value_ = (value_ ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3ULL;
  }
  std::uint64_t value_ = 0xcbf29ce484222325ULL;
};

}  // namespace

std::string checkpoint_digest(const Checkpoint& checkpoint) {
  Digest digest;
  digest.add(checkpoint.config_json());
  const auto& tensors = checkpoint.tensors();
  const std::size_t every = std::max<std::size_t>(1, tensors.size() / kSampledTensors);
  std::size_t index = 0;
  for (const auto& [name, tensor] : tensors) {
    digest.add(name);
    digest.add(tensor.dtype_name);
    digest.add(std::as_bytes(std::span(tensor.shape)));
    digest.add_number(tensor.bytes.size());
    if (index++ % every != 0 || tensor.bytes.size() < kSampleBytes) continue;
    const std::size_t last = tensor.bytes.size() - kSampleBytes;
    for (std::size_t i = 0; i < kSamples; ++i)
      digest.add(tensor.bytes.subspan(last / (kSamples - 1) * i, kSampleBytes));
  }
  return digest.hex();
}

}  // namespace swiftbalancer::io
