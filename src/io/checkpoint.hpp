#pragma once
// Read-only view of a Hugging Face checkpoint folder: config.json as JSON text and the tensors of
// every .safetensors file, memory-mapped. Used by the engine's model families and by `inspect`.
// Immutable after open; thread-safe.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace swiftbalancer::io {

enum class DType { kF32, kBF16, kI32, kI64, kOther };

struct Tensor {
  DType dtype = DType::kOther;
  std::string dtype_name;  ///< As the file says, e.g. "BF16".
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::string file;  ///< For messages.
};

class Checkpoint {
 public:
  /// Opens folder/config.json and every folder/*.safetensors. A single .safetensors path opens just
  /// that file.
  /// @throws Error kIo: missing folder or file, header larger than the file, not JSON, tensor out
  /// of range, overlapping
  ///         tensors, byte count not shape times dtype, duplicate names, truncated. Names file and
  ///         tensor.
  static Checkpoint open(const std::string& path);
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::string& path() const noexcept;
  /// Text of config.json ("" for a single file).
  const std::string& config_json() const noexcept;
  const std::map<std::string, Tensor, std::less<>>& tensors() const noexcept;
  /// @throws Error kIo naming the tensor when it is missing.
  const Tensor& tensor(std::string_view name) const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftbalancer::io
