// `serve`: what it writes and says when all is well.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include <nlohmann/json.hpp>

#include <swiftbalancer/transport.hpp>

#include "tool/run_tool.hpp"

namespace swiftbalancer::testing {
namespace {

namespace fs = std::filesystem;

TEST(ServeCommand, WritesRunAndReportAndPrintsTheTable) {
  const TemporaryFolder folder;
  const ToolResult result = run_tool(
      folder, short_serve() + " --policy static,eplb --stress --verify-slots --out results");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const std::string run = read_file(folder.file("results/run.json"));
  for (const char* text : {"\"policy\": \"static\"", "\"policy\": \"eplb\"",
                           "\"policy\": \"stress\"", "\"outputs_identical\": true"}) {
    EXPECT_NE(run.find(text), std::string::npos) << text;
  }
  EXPECT_NE(read_file(folder.file("results/report.html")).find("</html>"), std::string::npos);
  EXPECT_NE(result.out.find("open in a browser: results/report.html"), std::string::npos)
      << result.out;
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.file("results")), fs::directory_iterator()),
            2);

  const ToolResult shown = run_tool(folder, "inspect results/run.json");
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_NE(result.out.find(shown.out), std::string::npos) << "inspect shows another table:\n"
                                                           << shown.out;
}

// Found by fuzzing: writing the record failed when everything had been run.
TEST(ServeCommand, APathInAnotherEncodingIsRecordedWithReplacements) {
  const TemporaryFolder folder;
  const ToolResult result = run_tool(folder, short_serve() + " --out caf\xe9");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::string run = read_file(folder.file("caf\xe9/run.json"));
  EXPECT_NE(run.find("caf\xef\xbf\xbd"), std::string::npos);
}

TEST(ServeCommand, FlagsOverrideTheFileAndTheEffectiveSettingsAreRecorded) {
  const TemporaryFolder folder;
  folder.write("serve.yaml",
               "policy: [swift]\nseed: 5\nout: from_file\nquiet: true\ntransport: thread\n");
  const ToolResult result = run_tool(folder, short_serve() + " --config serve.yaml --seed 7");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::string run = read_file(folder.file("from_file/run.json"));
  EXPECT_NE(run.find("\"seed\": 7"), std::string::npos);
  EXPECT_NE(run.find("\"transport\": \"thread\""), std::string::npos);
  EXPECT_THAT(result.out, ::testing::Not(::testing::ContainsRegex("swift +[0-9]+ %  ")))
      << "progress in spite of quiet";
}

TEST(ServeCommand, BudgetsAndLimitsOfAFileBindThePlansThatAreServed) {
  const TemporaryFolder folder;
  folder.write("serve.yaml", "model: " + data_path("models/tiny_qwen3_moe") + "\nhardware: " +
                                 data_path("hardware/h100_nvlink_deepseek_v3.yaml") +
                                 "\nnum_ranks: 2\nnum_requests: 40\nsteps_per_segment: 20\n"
                                 "domains: [python, english]\nmin_prompt_tokens: 8\n"
                                 "max_prompt_tokens: 24\nmin_output_tokens: 2\n"
                                 "max_output_tokens: 4\nwindow_assignments: 64\n"
                                 "rebalance_interval: 4\nquiet: true\ntransport: thread\n"
                                 "rank_speeds: [1, 0.5]\npinned_experts: [0, 1]\n"
                                 "max_moves_per_rebalance: 3\nmax_replicas: 3\n");
  // Moves of the largest plan, and of all.
  const auto moves_with = [&](const std::string& horizon) {
    const ToolResult result =
        run_tool(folder, "serve --config serve.yaml --out results --horizon " + horizon);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const auto run = nlohmann::json::parse(read_file(folder.file("results/run.json")));
    EXPECT_EQ(run.at("config").at("max_moves_per_rebalance"), 3);
    std::pair<int, int> moves{0, 0};
    for (const auto& generation : run.at("runs").at(0).at("generations")) {
      moves.first = std::max(moves.first, generation.at("moves").get<int>());
      moves.second += generation.at("moves").get<int>();
    }
    return moves;
  };
  const auto [largest, all] = moves_with("1000000");
  EXPECT_LE(largest, 3);
  EXPECT_GT(all, 0);
  EXPECT_EQ(moves_with("1").second, 0) << "nothing pays within one step";
}

TEST(ServeCommand, CleansUpAfterARunThatWasKilledAndSaysSo) {
  const TemporaryFolder folder;
  const pid_t gone = fork();
  ASSERT_GE(gone, 0);
  const auto name_of = [](pid_t maker) {
    return "swiftbalancer." + std::to_string(maker) + ".0.exchange";
  };
  if (gone == 0) {
    static_cast<void>(new ShmGroup(name_of(getpid()), 2));
    _exit(0);  // ends without taking it back
  }
  ASSERT_EQ(waitpid(gone, nullptr, 0), gone);
  const std::string name = name_of(gone);
  ASSERT_TRUE(fs::exists("/dev/shm/" + name));
  const ToolResult result = run_tool(folder, short_serve() + " --transport shm --quiet");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find(name), std::string::npos) << result.out;
  EXPECT_FALSE(fs::exists("/dev/shm/" + name));
}

}  // namespace
}  // namespace swiftbalancer::testing
