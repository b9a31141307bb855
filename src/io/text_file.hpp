#pragma once
// Whole small files as text. Used by the readers of this folder and by the tool. Thread-safe.

#include <string>

namespace swiftbalancer::io {

/// @throws Error kIo naming the path and the cause.
std::string read_text_file(const std::string& path);

}  // namespace swiftbalancer::io
