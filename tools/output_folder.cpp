#include "output_folder.hpp"

#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::tool {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse_output(const std::string& folder, const std::string& cause) {
  throw Error(ErrorCode::kIo,
              folder + ": cannot be written to: " + cause + "; choose another --out");
}

// The nearest folder above `path` (or itself) that exists.
fs::path existing_part(fs::path path) {
  std::error_code error;
  while (path.has_relative_path() && !fs::exists(fs::symlink_status(path, error)))
    path = path.parent_path();
  return path;
}

// Permissions alone do not tell (root, read-only and special file systems): try it.
// @param shown what the user asked for.
void check_path(const std::string& shown, const fs::path& folder) {
  const fs::path existing = existing_part(fs::absolute(folder).lexically_normal());
  std::error_code error;
  if (!fs::is_directory(existing, error))
    refuse_output(shown, existing.string() + " is not a folder");
  std::string name = (existing / ".swiftbalancer-probe-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) refuse_output(shown, std::strerror(errno));
  rmdir(name.c_str());
}

}  // namespace

void check_output_folder(const std::string& folder, std::initializer_list<const char*> files) {
  check_path(folder, folder);
  for (const char* file : files) {
    std::error_code error;
    if (fs::is_directory(fs::path(folder) / file, error))
      refuse_output(folder, std::string(file) + " in it is a folder");
  }
}

void check_output_file(const std::string& file) {
  const fs::path path(file);
  std::error_code error;
  if (!path.has_filename() || fs::is_directory(path, error))
    refuse_output(file, "it is a folder, a file is needed");
  check_path(file, path.has_parent_path() ? path.parent_path() : ".");
}

void create_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) refuse_output(folder, error.message());
}

}  // namespace swiftbalancer::tool
