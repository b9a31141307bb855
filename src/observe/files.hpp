#pragma once
// Writing result files so that a reader never sees half of one. Used by the tool. Thread-safe for
// different paths.

#include <string>
#include <string_view>

namespace swiftbalancer::observe {

/// Writes `contents` to a new file beside `path`, then renames it: `path` is the old file or the
/// whole new one.
/// @throws Error kIo naming the path and the cause; nothing is left behind.
void write_file_atomically(const std::string& path, std::string_view contents);

}  // namespace swiftbalancer::observe
