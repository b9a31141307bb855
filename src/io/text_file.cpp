#include "io/text_file.hpp"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::io {

std::string read_text_file(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    throw Error(ErrorCode::kIo, path + ": is a folder, a file is needed");
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Error(ErrorCode::kIo, path + ": cannot be read: " + std::strerror(errno));
  std::ostringstream text;
  // An empty file sets failbit on text, a failed read badbit on the stream.
  text << stream.rdbuf();
  if (stream.bad()) throw Error(ErrorCode::kIo, path + ": cannot be read: " + std::strerror(errno));
  return text.str();
}

}  // namespace swiftbalancer::io
