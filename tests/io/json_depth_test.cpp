#include "io/json_depth.hpp"

#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <swiftbalancer/error.hpp>

#include "io/checkpoint.hpp"
#include "io/load_file.hpp"
#include "io/model_config.hpp"
#include "io/placement_file.hpp"
#include "io/safetensors_writer.hpp"
#include "io/temporary_folder.hpp"

namespace swiftbalancer::io {
namespace {

std::string nested(int depth) {
  const auto size = static_cast<std::size_t>(depth);
  return std::string(size, '[') + std::string(size, ']');
}

TEST(JsonDepth, CountsListsAndObjectsOutsideOfTexts) {
  EXPECT_FALSE(is_too_deep(nested(kMaxJsonDepth)));
  EXPECT_TRUE(is_too_deep(nested(kMaxJsonDepth + 1)));
  EXPECT_FALSE(is_too_deep(R"({"\"[": ")" + nested(1000) + R"(\\"})"));
  std::string wide;
  for (int i = 0; i < 1000; ++i) wide += "{}[],";
  EXPECT_FALSE(is_too_deep(wide));
}

// Found by fuzzing: a message that showed such a value overflowed the stack.
TEST(JsonDepth, NoReaderOverflowsItsStackOnDeepFiles) {
  const std::string deep = nested(1'000'000);
  const testing::TemporaryFolder folder;
  folder.write("loads.json", "[[{\"a\": " + deep + "}]]");
  folder.write("deep.safetensors",
               testing::file_with_header("{\"a\": {\"dtype\": " + deep + "}}", ""));
  const std::string placement =
      R"({"format": "swiftbalancer.placement", "format_version": )" + deep + "}";
  EXPECT_FALSE(is_placement(placement));
  const std::function<void()> readers[] = {
      [&] { ModelConfig(R"({"model_type": )" + deep + "}", "config.json").text("model_type"); },
      [&] { read_loads(folder.file("loads.json")); },
      [&] { Checkpoint::open(folder.file("deep.safetensors")); },
      [&] { parse_placement("placement.json", placement); },
  };
  for (const auto& read : readers) {
    try {
      read();
      ADD_FAILURE() << "nothing thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_THAT(error.what(), ::testing::HasSubstr("nested deeper than 100"));
    }
  }
}

}  // namespace
}  // namespace swiftbalancer::io
