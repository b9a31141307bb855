// Weights from disk: io::Checkpoint on one .safetensors file.

#include <cstring>

#include <nlohmann/json.hpp>

#include "fuzz_target.hpp"
#include "io/checkpoint.hpp"

using namespace swiftbalancer;

namespace {

// The tensors as a file of their own, in the order of their names.
std::string written(const io::Checkpoint& checkpoint) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const std::size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
    header[name] = {{"dtype", tensor.dtype_name},
                    {"shape", tensor.shape},
                    {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + text + data;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::InputFile input("input.safetensors");
  static const fuzz::InputFile output("output.safetensors");
  input.write(fuzz::text_of(data, size));
  fuzz::accepted([&] {
    const auto checkpoint = io::Checkpoint::open(input.path());
    output.write(written(checkpoint));
    const auto again = io::Checkpoint::open(output.path());
    fuzz::expect(written(again) == written(checkpoint), "tensors come back as they were written");
    for (const auto& [name, tensor] : checkpoint.tensors())
      fuzz::expect(&checkpoint.tensor(name) == &tensor, "a tensor is found by its name");
  });
  return 0;
}
