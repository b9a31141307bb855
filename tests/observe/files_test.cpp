#include "observe/files.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <swiftbalancer/error.hpp>

namespace swiftbalancer::observe {
namespace {

class WriteFile : public testing::Test {
 protected:
  WriteFile() {
    std::string pattern = testing::TempDir() + "/swiftbalancer_files_XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~WriteFile() override { std::filesystem::remove_all(folder_); }

  std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::ptrdiff_t num_files() {
    return std::distance(std::filesystem::directory_iterator(folder_),
                         std::filesystem::directory_iterator());
  }

  std::string folder_;
};

TEST_F(WriteFile, ReplacesTheOldFileAndLeavesNothingElse) {
  const std::string path = folder_ + "/run.json";
  write_file_atomically(path, "old, and longer");
  write_file_atomically(path, std::string("new\0bytes", 9));
  EXPECT_EQ(read(path), std::string("new\0bytes", 9));
  EXPECT_EQ(num_files(), 1);
}

TEST_F(WriteFile, AMissingFolderIsNamed) {
  const std::string path = folder_ + "/none/run.json";
  try {
    write_file_atomically(path, "x");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(error.what()).find(path + ": No such file or directory"),
              std::string::npos)
        << error.what();
  }
  EXPECT_EQ(num_files(), 0);
}

TEST_F(WriteFile, AFolderInThePlaceOfTheFileIsAnErrorAndNothingIsLeftBehind) {
  std::filesystem::create_directory(folder_ + "/run.json");
  EXPECT_THROW(write_file_atomically(folder_ + "/run.json", "x"), Error);
  EXPECT_EQ(num_files(), 1);
}

}  // namespace
}  // namespace swiftbalancer::observe
