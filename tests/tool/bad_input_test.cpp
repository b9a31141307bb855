// Bad input ends in one clear line and exit code 2, and nothing is written.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "io/npy_bytes.hpp"
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
      {"--horizon 100", "horizon needs a hardware profile"},
      {"--horizon 100 --hardware missing.yaml", "missing.yaml"},
      {"--horizon 100 --hardware x.yaml --policy static,eplb",
       "the cost gate (horizon) is given, which policy eplb does not go by"},
      {"--max-moves-per-rebalance -2", "--max-moves-per-rebalance is '-2'"},
      {"--max-bytes-per-rank x", "--max-bytes-per-rank is 'x'"},
      {"--rank-speeds 1,0", "'0' is no speed"},
      {"--rank-speeds 1", "rank_speeds has 1 entries for 2 ranks"},
      {"--pinned-experts 0,77777", "expert 77777 does not exist"},
      {"--max-replicas 3 --stress", "max_replicas is given, which policy stress does not go by"},
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
  expect_refused(folder, serve, "placement.json: has no key format");
  folder.write("placement.json", "no JSON");
  expect_refused(folder, serve, "placement.json:1:2: is not JSON");
  folder.write("loads.json", "[[1, 2, 3, 4]]");
  ASSERT_EQ(run_tool(folder,
                     "plan --loads loads.json --num-ranks 2 --num-redundant-experts 0 -o "
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
  folder.write("nan.npy", npy("<f8", "1, 2", raw<double>({1.0, std::nan("")})));
  folder.write("whole.npy", npy("<i4", "1, 4", raw<std::int32_t>({3, 2, 1, 0})));
  folder.write("huge.json", "[[5, 9007199254740993]]");
  folder.write("flat.json", "[5, 3]");
  folder.write("twice.json", R"({"expert_load": [[1]], "expert_load": [[2]]})");
  folder.write("cut.npy", std::string("\x93NUMPY\x01\x00\x76\x00{'descr'", 17));
  folder.write("placement.json", R"({"format_version": 2, "extra": 1})");
  folder.write("location.json", R"({"physical_to_logical_map": [[0, 1, 2, 7]]})");
  folder.write("missing.yaml", "num_slots: 4\ninitial_global_assignments: {0: [0, 1, 2, 2]}\n");
  const std::string shape = " --num-ranks 2 --num-redundant-experts 2 -o out";
  const struct {
    std::string arguments;
    const char* mentioned;
  } cases[] = {
      {"nowhere.npy" + shape + ".json", "nowhere.npy"},
      {"text.json" + shape + ".json", "text.json:1:1: is not JSON"},
      {"negative.json" + shape + ".json", "holds -3 at [0, 1]"},
      {"nan.npy" + shape + ".json", "value nan at [0, 1]"},
      {"huge.json" + shape + ".json", "9007199254740993"},
      {"flat.json" + shape + ".json", "shape [2]"},
      {"twice.json" + shape + ".json", "given twice"},
      {"cut.npy" + shape + ".json", "cut.npy"},
      {"loads.json --num-ranks 2 --num-redundant-experts -1", "allowed: an integer from 0"},
      {"loads.json --num-ranks 2 --slots-per-rank 2,1", "num_slots is 3, fewer than the 4"},
      {"loads.json --num-ranks 2 --slots-per-rank 2,1,1", "slots_per_rank has 3 entries for 2"},
      {"loads.json --num-ranks 2 --slots-per-rank 2,x", "--slots-per-rank is '2,x'"},
      {"loads.json --slots-per-rank 3,3 --num-redundant-experts 2", "choose one"},
      {"loads.json --num-ranks 2 --nodes 0,1,1", "node_of_rank has 3 entries for 2"},
      {"loads.json --num-ranks 2 --nodes 0,5", "names node 5"},
      {"loads.json --num-ranks 2 --nodes 1,1", "no rank is on node 0"},
      {"loads.json --num-ranks 2 --nodes 0,1 --num-nodes 2", "choose one"},
      {"loads.json --num-ranks 2 --num-nodes 3", "num_nodes is 3"},
      {"loads.json --num-ranks 6 --num-redundant-experts 0", "num_ranks is 6"},
      {"loads.json --num-ranks 0", "--num-ranks is '0'"},
      {"loads.json --num-ranks 2 --num-expert-groups 3", "num_expert_groups is 3"},
      {"loads.json --num-ranks 2 --window 1", "--window is 1; loads.json has windows 0 to 0"},
      {"loads.json --num-ranks 2 --window 0 --sum", "choose one"},
      {"loads.json --num-ranks 2 --score-window 7", "--score-window is 7"},
      {"loads.json --num-ranks 2 --policy best", "unknown policy 'best'"},
      {"loads.json --num-ranks 2 --dispatch odd", "--dispatch is 'odd'; allowed: even, split"},
      {"loads.json --num-ranks 2 --model-layers 3,2 -o p.json", "2 model layers for 1 MoE"},
      {"loads.json --num-ranks 2 --max-moves-per-layer 3", "goes with --from"},
      {"loads.json", "--num-ranks is needed"},
      {"loads.json --num-ranks 2 --dead-ranks 1", "--dead-ranks goes with --from"},
      {"loads.json --num-ranks 2 --from whole.npy --dead-ranks 2", "dead rank 2 does not exist"},
      {"loads.json --num-ranks 2 --from whole.npy --dead-ranks 1", "slots"},
      {"loads.json --num-ranks 2 --rank-speeds 1", "--rank-speeds has 1 speeds for 2 ranks"},
      {"loads.json --num-ranks 2 --rank-speeds 1,0", "'0' is no speed"},
      {"loads.json --num-ranks 2 --rank-speeds 1,1e-320", "rank speeds are from 1e-320 to 1"},
      {"loads.json --num-ranks 2 --sweep 0 --expert-bytes 1e15", "--expert-bytes is '1e15'"},
      {"loads.json --num-ranks 2 --pinned-experts 1", "goes with --from"},
      {"loads.json --num-ranks 2 --max-replicas 1 --policy eplb", "of policy swift"},
      {"loads.json --num-ranks 2 --top-k 2", "top_k is given, which goes with --sweep"},
      {"loads.json --num-ranks 2 --max-bytes-per-rank 5", "max_bytes_per_rank goes with --from"},
      {"loads.json --num-ranks 2 --from whole.npy --max-bytes-per-rank 5", "--expert-bytes"},
      {"loads.json --num-ranks 2 --from whole.npy --expert-bytes 5", "expert_bytes is given"},
      {"loads.json --num-ranks 2 --from whole.npy --max-moves-per-rebalance -2",
       "--max-moves-per-rebalance is '-2'"},
      {"loads.json --num-ranks 2 --from whole.npy --pinned-experts 4", "expert 4 does not exist"},
      {"loads.json --num-ranks 2 --from whole.npy --max-rank-moves 1 --policy eplb",
       "max_rank_moves is given, which policy eplb does not go by"},
      {"loads.json --num-ranks 2 --from whole.npy --max-cross-node-replicas 0 "
       "--max-moves-per-layer 1",
       "makes full plans"},
      {"loads.json --num-ranks 2 --sweep 4:2:1", "--sweep is '4:2:1'"},
      {"loads.json --num-ranks 2 --sweep 0,2 -o x.json", "out is given"},
      {"loads.json --num-ranks 2 --horizon 5", "--horizon goes with --from"},
      {"loads.json --num-ranks 2 --sweep 0 --hardware no.yaml", "no.yaml"},
      {"loads.json --from placement.json", "unknown key \"extra\""},
      {"loads.json --from location.json", "give --num-ranks"},
      {"loads.json --from location.json --num-ranks 2 --model-layers 0,0",
       "model layer 0 comes after model layer 0"},
      {"loads.json --from location.json --num-ranks 2", "holds expert 7; allowed are 0 to 3"},
      {"loads.json --from missing.yaml --num-ranks 2", "no slot for expert 3"},
      {"loads.json --from whole.npy --num-ranks 2 --format sglang", "is of format npy, not sglang"},
      {"loads.json --from loads.json --num-ranks 2", "no known format"},
      {"loads.json --num-ranks 2 -o out", "its extension names no format"},
      {"loads.json --num-ranks 2 -o out --format vllm", "unknown format 'vllm'"},
      {"loads.json --slots-per-rank 3,2 -o out --format sglang", "rank 0 has 3, rank 1 has 2"},
      {"loads.json --num-ranks 2 -o loads.json/x.json", "loads.json/x.json"},
  };
  for (const auto& c : cases) {
    expect_refused(folder, "plan --loads " + c.arguments, c.mentioned);
    EXPECT_FALSE(fs::exists(folder.file("out.json")));
  }
}

TEST(BadInput, CompareRefusesPlacementsOfDifferentClusters) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[5, 3, 2, 1]]");
  const std::string plan = "plan --loads loads.json --policy static ";
  ASSERT_EQ(run_tool(folder, plan + "--num-ranks 2 --model x -o a.json").exit_code, 0);
  ASSERT_EQ(run_tool(folder, plan + "--num-ranks 4 -o b.json").exit_code, 0);
  ASSERT_EQ(run_tool(folder, plan + "--num-ranks 2 --model y -o c.json").exit_code, 0);
  folder.write("others.json", "[[5, 3, 2]]");
  expect_refused(folder, "compare a.json b.json", "a.json has num_ranks 2, b.json has 4");
  expect_refused(folder, "compare a.json c.json", "a.json has model x, c.json has y");
  expect_refused(folder, "compare a.json nowhere.json", "nowhere.json");
  expect_refused(folder, "compare a.json", "TO is required");
  expect_refused(folder, "compare a.json a.json --loads others.json", "the loads have 3");
  expect_refused(folder, "compare a.json loads.json", "no known format");
  expect_refused(folder, "compare a.json a.json --window 0", "window is given");
  expect_refused(folder, "compare a.json a.json --sum", "sum is given");
  expect_refused(folder, "compare a.json a.json --nodes 0,1", "not expected");
  expect_refused(folder, "compare a.json a.json --expert-bytes 1125899906842624",
                 "--expert-bytes is '1125899906842624'");
}

// Every byte is cut in tests/formats; here that the tool says so and writes nothing.
TEST(BadInput, CutPlacementsOfEveryFormatEndPlansWithoutOutput) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[5, 3, 2, 1]]");
  for (const char* format : {"swiftbalancer", "vllm-ascend", "sglang", "tensorrt-llm", "npy"}) {
    ASSERT_EQ(run_tool(folder, std::string("plan --loads loads.json --num-ranks 2 -o whole "
                                           "--format ") +
                                   format)
                  .exit_code,
              0);
    const std::string whole = read_file(folder.file("whole"));
    for (const std::size_t size : {std::size_t{0}, whole.size() / 2, whole.size() - 3}) {
      folder.write("cut", whole.substr(0, size));
      expect_refused(folder, "plan --loads loads.json --num-ranks 2 --from cut -o out.json", "cut");
      EXPECT_FALSE(fs::exists(folder.file("out.json")));
    }
  }
}

TEST(BadInput, CommandLinesThatMakeNoSenseAreRefused) {
  const TemporaryFolder folder;
  expect_refused(folder, "", "subcommand");
  expect_refused(folder, "juggle", "juggle");
  expect_refused(folder, "plan", "--loads is needed");
  expect_refused(folder, "inspect nowhere", "nowhere");
  folder.write("notes.txt", "hello");
  expect_refused(folder, "inspect notes.txt", "notes.txt");
}

}  // namespace
}  // namespace swiftbalancer::testing
