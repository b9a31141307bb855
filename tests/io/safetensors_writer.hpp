#pragma once
// Safetensors files for tests: good ones from tensors, broken ones from a header written by hand.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace swiftbalancer::testing {

struct StoredTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

inline std::string file_with_header(std::string_view header, std::string_view data) {
  std::string text;
  for (int i = 0; i < 8; ++i) text.push_back(static_cast<char>(header.size() >> (8 * i) & 0xFF));
  return text.append(header).append(data);
}

inline std::string safetensors_file(const std::vector<StoredTensor>& tensors) {
  std::string header = "{";
  std::string data;
  for (const StoredTensor& tensor : tensors) {
    std::string shape;
    for (const std::int64_t size : tensor.shape)
      shape.append(shape.empty() ? "" : ",").append(std::to_string(size));
    const std::string begin = std::to_string(data.size());
    data += tensor.bytes;
    header.append(header.size() > 1 ? ",\"" : "\"").append(tensor.name).append(R"(":{"dtype":")");
    header.append(tensor.dtype)
        .append(R"(","shape":[)")
        .append(shape)
        .append(R"(],"data_offsets":[)");
    header.append(begin).append(",").append(std::to_string(data.size())).append("]}");
  }
  return file_with_header(header + "}", data);
}

}  // namespace swiftbalancer::testing
