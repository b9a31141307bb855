#include "run_tool.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace swiftbalancer::testing {

ToolResult run_tool(const TemporaryFolder& folder, const std::string& arguments) {
  const std::string out = folder.file("stdout.txt"), err = folder.file("stderr.txt");
  const std::string command = "cd '" + folder.path() +
                              "' && '" SWIFTBALANCER_BINARY_DIR "/bin/swiftbalancer' " + arguments +
                              " >'" + out + "' 2>'" + err + "' </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(err)};
}

nlohmann::json json_of(const TemporaryFolder& folder, const std::string& arguments) {
  const ToolResult result = run_tool(folder, arguments + " --json");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1) << result.out;
  return nlohmann::json::parse(result.out, nullptr, false);
}

std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::string data_path(const std::string& name) { return SWIFTBALANCER_SOURCE_DIR "/data/" + name; }

std::string short_serve() {
  return "serve --model " + data_path("models/tiny_qwen3_moe") +
         " --num-ranks 2 --num-requests 6 --steps-per-segment 5 --domains python,english "
         "--max-prompt-tokens 24 --min-prompt-tokens 8"
         " --min-output-tokens 2 --max-output-tokens 4 --window-assignments 64 "
         "--rebalance-interval 4";
}

}  // namespace swiftbalancer::testing
