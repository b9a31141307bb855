#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <swiftbalancer/error.hpp>

#include "engine_timed/round_profile.hpp"

namespace swiftbalancer::engine {
namespace {

namespace fs = std::filesystem;

const std::string kShipped =
    std::string(SWIFTBALANCER_SOURCE_DIR) + "/data/hardware/h100_nvlink_deepseek_v3.yaml";

std::string content_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

/// The shipped profile with one piece of text replaced, in a file of the test's own.
class BrokenProfile : public ::testing::Test {
 protected:
  BrokenProfile()
      : path_(fs::temp_directory_path() /
              ("swiftbalancer_profile_" + std::to_string(::getpid()) + ".yaml")) {}
  ~BrokenProfile() override { fs::remove(path_); }

  /// @returns the message, without the path.
  std::string message_after(const std::string& from, const std::string& to) {
    std::string text = content_of(kShipped);
    const std::size_t at = text.find(from);
    if (at == std::string::npos) return "the shipped profile does not contain " + from;
    text.replace(at, from.size(), to);
    line_ = std::to_string(
        1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
    return message_for(text);
  }
  std::string message_for(const std::string& text) {
    std::ofstream(path_) << text;
    try {
      load_hardware_profile(path_);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos) << "more than one line";
      EXPECT_EQ(message.rfind(path_.string() + ":", 0), 0U) << message;
      return message.substr(path_.string().size() + 1);
    }
    return "accepted";
  }

  const fs::path path_;
  std::string line_;  // where the text was replaced
};

TEST(HardwareProfileTest, EveryShippedProfileIsCompleteAndServesEveryPolicy) {
  const ClusterShape shape = even_shape(4, 2);
  int profiles = 0;
  for (const auto& file : fs::directory_iterator(fs::path(kShipped).parent_path())) {
    SCOPED_TRACE(file.path());
    const HardwareProfile profile = load_hardware_profile(file.path());
    EXPECT_EQ(profile.name, file.path().stem());
    for (const char* policy : {"eplb", "static", "stress", "swift"}) {
      TimedDeviceOptions options = options_for(shape);
      options.policy = policy;
      TimedDevice device(profile, shape, 0, options);
      device.experts(std::vector<std::uint32_t>{1, 0, 0, 0});
      EXPECT_GT(device.now_ns(), 0);
    }
    for (const auto& [name, constant] : profile.constants)
      EXPECT_FALSE(constant.source.empty()) << name;
    ++profiles;
  }
  EXPECT_GE(profiles, 2);
}

TEST(HardwareProfileTest, ValuesOfTheNamedModelAreThoseOfItsConfig) {
  const HardwareProfile profile = load_hardware_profile(kShipped);
  EXPECT_EQ(profile.model, "DeepSeek-V3");
  EXPECT_EQ(profile.constants.at("hbm_bandwidth").unit, "byte/s");
  EXPECT_EQ(profile.value("expert_flops_per_token"), 2.0 * 3 * 7168 * 2048);
  EXPECT_EQ(profile.value("expert_bytes"), 3.0 * 7168 * 2048 + 3.0 * 56 * 16 * 4);
  const double projections =
      7168.0 * 1536 + 1536.0 * 128 * 192 + 7168.0 * 576 + 512.0 * 128 * 256 + 128.0 * 128 * 7168;
  const double shared_expert = 3.0 * 7168 * 2048;
  EXPECT_EQ(profile.value("attention_flops_per_token"),
            2.0 * (projections + shared_expert + 7168.0 * 256));
  EXPECT_EQ(profile.value("attention_weight_bytes"),
            projections + shared_expert + 2.0 * 7168 * 256);
  EXPECT_EQ(profile.value("head_weight_bytes"), 2.0 * 7168 * 129280 / 8);
}

TEST(HardwareProfileTest, AMissingConstantIsNamed) {
  HardwareProfile profile;
  profile.name = "bare";
  try {
    profile.value("flops");
    FAIL() << "a missing constant was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(error.what(), "hardware profile 'bare' has no constant 'flops'");
  }
}

TEST(HardwareProfileTest, AFileThatIsNotThereIsAnIoError) {
  try {
    load_hardware_profile("/nonexistent/profile.yaml");
    FAIL() << "read a file that does not exist";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(error.what()).find("/nonexistent/profile.yaml"), std::string::npos);
  }
}

TEST_F(BrokenProfile, UnknownKeysAreRefusedWithTheirLine) {
  const std::string key = message_after("model: DeepSeek-V3", "modell: DeepSeek-V3");
  EXPECT_EQ(key,
            line_ + ": unknown key 'modell' in the profile; allowed are: constants, model, name");
  const std::string constant = message_after("step_barrier:", "step_bariier:");
  EXPECT_EQ(
      constant.rfind(line_ + ": unknown constant 'step_bariier'; known are: expert_bytes, ", 0), 0U)
      << constant;
  const std::string inner =
      message_after("{value: 1152, unit: byte,", "{value: 1152, units: byte,");
  EXPECT_EQ(inner, line_ +
                       ": unknown key 'units' in constant 'attention_bytes_per_context_token'; "
                       "allowed are: source, unit, value");
}

TEST_F(BrokenProfile, MissingKeysAreNamed) {
  EXPECT_NE(message_after("model: DeepSeek-V3\n", "").find("key 'model' is missing in the profile"),
            std::string::npos);
  EXPECT_NE(
      message_after("{value: 1152, unit: byte,", "{value: 1152,").find("key 'unit' is missing"),
      std::string::npos);
  EXPECT_NE(message_after("  combine_bytes_per_row:", "  # combine_bytes_per_row:")
                .find("constant 'combine_bytes_per_row' (unit byte) is missing; add it"),
            std::string::npos);
}

TEST_F(BrokenProfile, AKeyGivenTwiceIsRefused) {
  EXPECT_NE(
      message_after("model: DeepSeek-V3", "model: DeepSeek-V3\nmodel: other").find("given twice"),
      std::string::npos);
  const std::string again = "  record_call: {value: 1e-7, unit: s, source: again}\n";
  EXPECT_NE(message_after("  record_call:", again + "  record_call:")
                .find("constant 'record_call' is given twice"),
            std::string::npos);
}

TEST_F(BrokenProfile, ValuesMustBeFiniteAndAboveZero) {
  for (const char* value : {"0", "-1152", "nan", ".nan", "inf", ".inf", "1e999", "many", "1152 B",
                            "0x10", "[1]", "\"\""}) {
    SCOPED_TRACE(value);
    const std::string message =
        message_after("{value: 1152,", std::string("{value: ") + value + ",");
    EXPECT_EQ(message.rfind(line_ + ": ", 0), 0U) << message;
    EXPECT_TRUE(message.find("must be a finite number above 0") != std::string::npos ||
                message.find("must be a text that is not empty") != std::string::npos)
        << message;
  }
}

TEST_F(BrokenProfile, UnitsAndSharesAreChecked) {
  const std::string unit = message_after("{value: 1152, unit: byte,", "{value: 1152, unit: KB,");
  EXPECT_EQ(unit, line_ +
                      ": constant 'attention_bytes_per_context_token' has unit 'KB'; it must be "
                      "given in 'byte'");
  const std::string share = message_after("{value: 0.2, unit: 1,", "{value: 1.0, unit: 1,");
  EXPECT_EQ(
      share,
      line_ + ": constant 'copy_link_share' is 1.0; a share lies between 0 and 1, both excluded");
}

TEST_F(BrokenProfile, WhatIsNoProfileAtAllIsRefused) {
  EXPECT_NE(message_for("").find("must be a map"), std::string::npos);
  EXPECT_NE(message_for("- a\n- b\n").find("must be a map"), std::string::npos);
  EXPECT_NE(message_for("name: x\nmodel: y\nconstants: 3\n").find("must be a map"),
            std::string::npos);
  EXPECT_EQ(message_for("name: x\nmodel: [y\n").rfind("3: not valid YAML", 0), 0U);
}

}  // namespace
}  // namespace swiftbalancer::engine
