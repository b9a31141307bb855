#pragma once
// The registry of model families. A family is one .cpp file that implements Model, declares its
// loader here and has one line in families.cpp. Called by load_model and by the loaders themselves,
// on the thread that sets the engine up.

#include <memory>
#include <string>

#include "engine/kernels.hpp"
#include "engine/model.hpp"
#include "io/model_config.hpp"

namespace swiftbalancer::engine {

/// Builds a model from an opened checkpoint. @throws Error as load_model.
using FamilyLoader = std::unique_ptr<Model> (*)(io::Checkpoint checkpoint,
                                                const io::ModelConfig& config);

std::unique_ptr<Model> load_qwen3_moe(io::Checkpoint checkpoint, const io::ModelConfig& config);

/// "supported families: a, b", for messages.
std::string families_hint();

/// The dtype of a tensor that must be BF16 or F32 and of this shape. @throws Error kIo naming file
/// and tensor.
WeightType check_weight(const io::Checkpoint& checkpoint, const std::string& name,
                        const std::vector<std::int64_t>& shape);

/// A checked tensor as floats, and as tiles for the kernels.
std::vector<float> load_vector(const io::Checkpoint& checkpoint, const std::string& name, int size);
PackedMatrix load_matrix(const io::Checkpoint& checkpoint, const std::string& name, int rows,
                         int cols);

}  // namespace swiftbalancer::engine
