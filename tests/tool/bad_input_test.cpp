// Bad input ends in one clear line and exit code 2, and nothing is written.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "tool/run_tool.hpp"

namespace swiftbalancer::testing {
namespace {

namespace fs = std::filesystem;

// Also that `out`, where all commands here would write, does not exist.
void expect_refused(const TemporaryFolder& folder, const std::string& arguments,
                    const std::string& mentioned) {
  SCOPED_TRACE(arguments);
  const ToolResult result = run_tool(folder, arguments);
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_TRUE(result.err.starts_with("swiftbalancer: error: ")) << result.err;
  EXPECT_NE(result.err.find(mentioned), std::string::npos)
      << "no mention of " << mentioned << " in: " << result.err;
  EXPECT_FALSE(fs::exists(folder.file("out")));
}

std::string serve_model(const std::string& model) {
  return "serve --model " + model + " --prompts-file " + data_path("models/prompts.json") +
         " --num-ranks 2";
}

TEST(BadInput, FlagsWithValuesThatAreNotAllowedAreRefusedWithTheRange) {
  const TemporaryFolder folder;
  const struct {
    const char* flags;
    const char* mentioned;
  } cases[] = {
      {"--num-ranks 0", "--num-ranks is '0'; allowed: an integer from 1 to 256"},
      {"--num-ranks 257", "--num-ranks is '257'; allowed: an integer from 1 to 256"},
      {"--num-ranks -3", "--num-ranks is '-3'; allowed: an integer from 1 to"},
      {"--num-ranks many", "--num-ranks is 'many'; allowed: an integer from 1 to"},
      {"--num-ranks 2.5", "--num-ranks is '2.5'"},
      {"--num-ranks 99999999999999999999", "99999999999999999999"},
      {"--num-redundant-experts -1",
       "--num-redundant-experts is '-1'; allowed: an integer from 0 to"},
      {"--num-nodes 0", "--num-nodes is '0'"},
      {"--token-scale 0", "--token-scale is '0'"},
      {"--steps-per-segment -5", "--steps-per-segment is '-5'"},
      {"--arrivals-per-step 0", "--arrivals-per-step is '0'"},
      {"--arrivals-per-step nan", "--arrivals-per-step is 'nan'"},
      {"--rebalance-interval 0", "--rebalance-interval is '0'"},
      {"--packet-lag 0", "--packet-lag is '0'"},
      {"--staging-bytes 0", "--staging-bytes is '0'"},
      {"--imbalance-trigger 0.5", "--imbalance-trigger is '0.5'; allowed: a number from 1 to"},
      {"--transport mpi", "--transport is 'mpi'; allowed: thread, shm"},
      {"--device gpu", "--device is 'gpu'; allowed: none, timed"},
      {"--mode off", "--mode is 'off'; allowed: on, paused, plan-only"},
      {"--metrics 70000", "--metrics is '70000'; allowed: an integer from -1 to 65535"},
      {"--control .", "control socket .: there is a file of that name"},
      {"--control missing/c.sock", "missing/c.sock: cannot be made: No such file"},
      {"--placement . --policy swift", "it is a folder"},
      {"--placement p.json --policy static,swift", "--placement goes with one policy, there are 2"},
      {"--install-mode move", "--install-mode is 'move'; allowed: swap, copy"},
      {"--policy swiftest",
       "unknown policy 'swiftest'; the policies are: eplb, static, stress, swift"},
      {"--policy static,,swift", "--policy is 'static,,swift'"},
      {"--device timed", "hardware"},
      {"--device timed --hardware missing.yaml", "missing.yaml"},
      {"--domains python,klingon", "klingon"},
      {"--num-rank 3", "--num-rank"},
      {"--min-prompt-tokens 10 --max-prompt-tokens 9", "9"},
      {"--staging-bytes 10", "10"},
      {"--num-ranks 100", "100"},
      {"--num-nodes 3", "3"},
  };
  for (const auto& c : cases) {
    expect_refused(folder,
                   serve_model(data_path("models/tiny_qwen3_moe")) + " --num-ranks 2 " + c.flags,
                   c.mentioned);
  }
}

TEST(BadInput, AControlSocketMustHaveAListenerAndAPathThatFits) {
  const TemporaryFolder folder;
  folder.write("file", "not a socket");
  expect_refused(folder, "control gone.sock pause", "gone.sock: No such file");
  expect_refused(folder, "control file health", "file: Connection refused");
  expect_refused(folder, "control gone.sock stop",
                 "request is 'stop'; allowed: pause, resume, plan-only, health");
  expect_refused(folder, "control gone.sock", "request is required");
  expect_refused(folder, "control " + std::string(200, 'x') + " health",
                 "the path has 200 bytes; allowed: 1 to 107");
}

TEST(BadInput, APlacementToStartFromMustBeOneOfThisCluster) {
  const TemporaryFolder folder;
  const std::string serve =
      serve_model(data_path("models/tiny_qwen3_moe")) + " --placement placement.json";
  folder.write("placement.json", "{}");
  expect_refused(folder, serve, "placement.json: key format is missing");
  folder.write("placement.json", "no JSON");
  expect_refused(folder, serve, "placement.json: is not a JSON object");
  folder.write("loads.json", "[[1, 2, 3, 4]]");
  ASSERT_EQ(run_tool(folder,
                     "plan loads.json --num-ranks 2 --num-slots 4 --out "
                     "placement.json")
                .exit_code,
            0);
  expect_refused(folder, serve, "placement for num_moe_layers 1, this run has 6");
}

TEST(BadInput, ConfigurationFilesAreStrict) {
  const TemporaryFolder folder;
  const struct {
    const char* text;
    const char* mentioned;
  } cases[] = {
      {"num_ranks: 2\nnum_rank: 3\n", "bad.yaml:2: unknown key 'num_rank'"},
      {"num_ranks: [1, 2]\n", "bad.yaml:1: num_ranks must be a single value"},
      {"\nnum_ranks: two\n", "bad.yaml:2: num_ranks is 'two'; allowed: an integer"},
      {"quiet: 3\n", "bad.yaml:1: quiet is '3'; allowed: true or false"},
      {"num_ranks: 2\nseed: 1\nnum_ranks: 3\n", "bad.yaml:3: key 'num_ranks' is given twice"},
      {"- 1\n- 2\n", "bad.yaml:1:"},
      {"a: [1\n", "bad.yaml:"},
  };
  for (const auto& c : cases) {
    folder.write("bad.yaml", c.text);
    expect_refused(folder, serve_model(data_path("models/tiny_qwen3_moe")) + " --config bad.yaml",
                   c.mentioned);
  }
  expect_refused(folder, "serve --config missing.yaml", "missing.yaml");
}

// A checkpoint folder with a config.json and a weights file.
std::string make_checkpoint(const TemporaryFolder& folder, const std::string& config,
                            const std::string& weights) {
  fs::create_directories(folder.file("model"));
  folder.write("model/config.json", config);
  folder.write("model/model.safetensors", weights);
  return "model";
}

std::string replaced(std::string text, const std::string& from, const std::string& to,
                     bool everywhere = false) {
  std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  for (; at != std::string::npos;
       at = everywhere ? text.find(from, at + to.size()) : std::string::npos)
    text.replace(at, from.size(), to);
  return text;
}

std::string with_header(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + header + std::string(data_bytes, '\0');
}

TEST(BadInput, BrokenCheckpointsAreRefused) {
  const TemporaryFolder folder;
  const std::string config = read_file(data_path("models/tiny_qwen3_moe/config.json"));
  const std::string weights = read_file(data_path("models/tiny_qwen3_moe/model.safetensors"));
  const struct {
    const char* what;
    std::string config;
    std::string weights;
    const char* mentioned;
  } cases[] = {
      {"truncated", config, weights.substr(0, weights.size() / 2), "model.safetensors"},
      {"header larger than the file", config,
       replaced(weights, weights.substr(0, 8), std::string("\xff\xff\xff\x7f\0\0\0\0", 8)),
       "header"},
      {"overlapping tensors", config,
       with_header(
           R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
           12),
       "overlap"},
      {"tensor out of range", config,
       with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4), "data_offsets"},
      {"wrong dtype", config, replaced(weights, "\"dtype\":\"BF16\"", "\"dtype\": \"I16\"", true),
       "I16"},
      {"wrong shape", config, replaced(weights, "\"shape\":[48,128]", "\"shape\":[128,48]", true),
       "[128, 48]"},
      {"missing tensor", config,
       with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "missing"},
      {"no experts", replaced(config, "\"num_experts\"", "\"no_experts\""), weights, "num_experts"},
      {"unknown family", replaced(config, "\"qwen3_moe\"", "\"llama\""), weights, "llama"},
      {"not JSON", "{", weights, "config.json"},
      {"no config", "", weights, "config.json"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    expect_refused(folder, serve_model(make_checkpoint(folder, c.config, c.weights)), c.mentioned);
    expect_refused(folder, "inspect model", c.mentioned);
  }
  expect_refused(folder, serve_model("nowhere"), "nowhere");
  expect_refused(folder, "serve", "--model is missing");
}

TEST(BadInput, OutputThatCannotBeWrittenIsFoundBeforeServing) {
  const TemporaryFolder folder;
  folder.write("file", "");
  const std::string serve = serve_model(data_path("models/tiny_qwen3_moe"));
  for (const char* out : {"file", "file/below", "/proc/nowhere"}) {
    expect_refused(folder, serve + " --out " + out, out);
    EXPECT_EQ(run_tool(folder, serve + " --out " + out).out, "") << "it has begun to serve";
  }
  fs::create_directories(folder.file("full/report.html"));
  expect_refused(folder, serve + " --out full", "report.html");
}

TEST(BadInput, PlanRefusesLoadsAndPlacementsThatDoNotFit) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[5, 3, 2, 1]]");
  folder.write("text.json", "hello");
  folder.write("negative.json", "[[5, -3]]");
  folder.write("ragged.json", "[[5, 3], [1]]");
  folder.write("flat.json", "[5, 3]");
  folder.write("huge.json", "[[5, 9007199254740993]]");
  folder.write("unsigned.json", "[[5, 18446744073709551615]]");
  folder.write("deep.json", "[[[[5, 3]]]]");
  folder.write("empty.json", "[]");
  folder.write("cut.npy", std::string("\x93NUMPY\x01\x00\x76\x00{'descr'", 17));
  folder.write("placement.json", R"({"format": "swiftbalancer.placement", "extra": 1})");
  const struct {
    const char* arguments;
    const char* mentioned;
  } cases[] = {
      {"missing.npy --num-ranks 2 --num-slots 4", "missing.npy"},
      {"text.json --num-ranks 2 --num-slots 4", "text.json"},
      {"negative.json --num-ranks 2 --num-slots 4", "-3"},
      {"ragged.json --num-ranks 2 --num-slots 4", "unequal"},
      {"flat.json --num-ranks 2 --num-slots 4", "[2]"},
      {"huge.json --num-ranks 2 --num-slots 4", "9007199254740993"},
      {"unsigned.json --num-ranks 2 --num-slots 4", "18446744073709551615"},
      {"deep.json --num-ranks 2 --num-slots 4", "deeper than 3"},
      {"empty.json --num-ranks 2 --num-slots 4", "empty.json"},
      {"cut.npy --num-ranks 2 --num-slots 4", "cut.npy"},
      {"loads.json --num-ranks 2 --num-slots 3", "num_slots is 3"},
      {"loads.json --num-ranks 6 --num-slots 4", "num_ranks is 6"},
      {"loads.json --num-ranks 0 --num-slots 4", "--num-ranks is '0'"},
      {"loads.json --num-ranks 2 --num-slots 4 --num-expert-groups 3", "num_expert_groups is 3"},
      {"loads.json --num-ranks 2 --num-slots 4 --window 1", "--window is 1"},
      {"loads.json --num-ranks 2 --num-slots 4 --policy best", "unknown policy 'best'"},
      {"loads.json --num-ranks 2", "--num-slots"},
      {"loads.json --placement placement.json", "extra"},
      {"loads.json --placement placement.json --num-ranks 2", "num_ranks"},
      {"loads.json --num-ranks 2 --num-slots 4 --out loads.json/x", "loads.json/x"},
  };
  for (const auto& c : cases)
    expect_refused(folder, std::string("plan ") + c.arguments, c.mentioned);
}

TEST(BadInput, CommandLinesThatMakeNoSenseAreRefused) {
  const TemporaryFolder folder;
  expect_refused(folder, "", "subcommand");
  expect_refused(folder, "juggle", "juggle");
  expect_refused(folder, "plan", "LOADS");
  expect_refused(folder, "inspect nowhere", "nowhere");
  folder.write("notes.txt", "hello");
  expect_refused(folder, "inspect notes.txt", "notes.txt");
}

}  // namespace
}  // namespace swiftbalancer::testing
