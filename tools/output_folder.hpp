#pragma once
// The folder for results: found writable before any work is done, and created only when there is
// something to write. Main thread.

#include <string>

namespace swiftbalancer::tool {

/// @throws Error kIo: `folder` (or, where it does not exist, the path to it) cannot be written to,
/// or one of `files` in it
///         is a folder. Leaves nothing behind.
void check_output_folder(const std::string& folder, std::initializer_list<const char*> files);
/// The same for a single file.
void check_output_file(const std::string& file);

/// Creates what is missing. @throws Error kIo.
void create_folder(const std::string& folder);

}  // namespace swiftbalancer::tool
