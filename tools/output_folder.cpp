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

[[noreturn]] void fail(const std::string& folder, const std::string& cause) {
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
void probe(const std::string& folder, const fs::path& existing) {
  std::string name = (existing / ".swiftbalancer-probe-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) fail(folder, std::strerror(errno));
  rmdir(name.c_str());
}

}  // namespace

void check_output_folder(const std::string& folder, std::initializer_list<const char*> files) {
  const fs::path existing = existing_part(fs::absolute(folder).lexically_normal());
  std::error_code error;
  if (!fs::is_directory(existing, error)) fail(folder, existing.string() + " is not a folder");
  probe(folder, existing);
  for (const char* file : files) {
    if (fs::is_directory(fs::path(folder) / file, error))
      fail(folder, std::string(file) + " in it is a folder");
  }
}

void check_output_file(const std::string& file) {
  const fs::path path(file);
  const std::string name = path.filename().string();
  if (name.empty()) fail(file, "it names a folder, a file is needed");
  check_output_folder(path.has_parent_path() ? path.parent_path().string() : ".", {name.c_str()});
}

void create_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(folder, error.message());
}

}  // namespace swiftbalancer::tool
