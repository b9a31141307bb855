#pragma once
// Names a checkpoint by what is in it, so that ranks find out at their start that they have opened
// different ones. Called once, by whoever sets the engine up.

#include <string>

#include "io/checkpoint.hpp"

namespace swiftbalancer::io {

/// 16 hex digits over config.json, the names, types, shapes and sizes of all tensors, and samples
/// of the bytes of at most 64 of them: other weights in the same tensors are told apart where they
/// differ in a sample, as those of another training do. Reads no more than the samples.
std::string checkpoint_digest(const Checkpoint& checkpoint);

}  // namespace swiftbalancer::io
