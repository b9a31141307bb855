#include "engine/families.hpp"

#include <filesystem>
#include <swiftbalancer/error.hpp>
#include <utility>

namespace swiftbalancer::engine {
namespace {

struct Family {
  std::string_view model_type;  ///< As config.json spells it.
  FamilyLoader load;
};

// Sorted by name.
constexpr Family kFamilies[] = {
    {"qwen3_moe", load_qwen3_moe},
};

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text.append(i > 0 ? ", " : "").append(std::to_string(shape[i]));
  return text + "]";
}

}  // namespace

std::vector<std::string> model_families() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.model_type);
  return names;
}

std::string families_hint() {
  std::string hint = "supported families:";
  for (const Family& family : kFamilies)
    hint.append(&family == kFamilies ? " " : ", ").append(family.model_type);
  return hint;
}

std::unique_ptr<Model> load_model(const std::string& folder) {
  io::Checkpoint checkpoint = io::Checkpoint::open(folder);
  if (checkpoint.config_json().empty()) {
    throw Error(ErrorCode::kIo,
                folder + ": config.json is missing or empty; a checkpoint folder is needed");
  }
  const io::ModelConfig config(checkpoint.config_json(),
                               (std::filesystem::path(folder) / "config.json").string());
  const std::string model_type = config.text("model_type");
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return family.load(std::move(checkpoint), config);
  }
  config.unsupported("model_type", "this family is not supported; " + families_hint());
}

WeightType check_weight(const io::Checkpoint& checkpoint, const std::string& name,
                        const std::vector<std::int64_t>& shape) {
  const io::Tensor& tensor = checkpoint.tensor(name);
  if (tensor.dtype != io::DType::kBF16 && tensor.dtype != io::DType::kF32) {
    throw Error(ErrorCode::kIo, tensor.file + ": tensor \"" + name + "\" has dtype " +
                                    tensor.dtype_name + "; BF16 or F32 is needed");
  }
  if (tensor.shape != shape) {
    throw Error(ErrorCode::kIo, tensor.file + ": tensor \"" + name + "\" has shape " +
                                    shape_text(tensor.shape) + "; config.json says " +
                                    shape_text(shape));
  }
  return tensor.dtype == io::DType::kBF16 ? WeightType::kBF16 : WeightType::kF32;
}

std::vector<float> load_vector(const io::Checkpoint& checkpoint, const std::string& name,
                               int size) {
  const WeightType type = check_weight(checkpoint, name, {size});
  std::vector<float> values(static_cast<std::size_t>(size));
  to_floats(checkpoint.tensor(name).bytes.data(), type, values);
  return values;
}

PackedMatrix load_matrix(const io::Checkpoint& checkpoint, const std::string& name, int rows,
                         int cols) {
  const WeightType type = check_weight(checkpoint, name, {rows, cols});
  return {checkpoint.tensor(name).bytes.data(), type, rows, cols};
}

}  // namespace swiftbalancer::engine
