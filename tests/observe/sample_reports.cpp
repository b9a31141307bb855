// Writes the pages that browser_check.py opens: sample_reports FOLDER.

#include <cstdio>
#include <filesystem>
#include <string>

#include "observe/files.hpp"
#include "observe/report.hpp"
#include "observe/sample_run.hpp"

using namespace swiftbalancer::observe;

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: sample_reports FOLDER\n");
    return 2;
  }
  const std::string folder = std::string(argv[1]) + "/";
  std::filesystem::create_directories(folder);
  const auto write = [&](const char* name, const nlohmann::ordered_json& run) {
    write_file_atomically(folder + name, render_report(run.dump()));
  };
  write("typical.html", sample_run());
  write("no_hardware.html", sample_run({.timed = false}));
  write(
      "one_run.html",
      sample_run({.policies = {"static"}, .domains = {"python"}, .num_ranks = 1, .num_steps = 40}));
  write("large.html",
        sample_run({.policies = {"static", "eplb", "swift", "swift", "stress"},
                    .domains = {"python", "man_zh", "chess", "a domain of a rather long name",
                                "latin", "go", "c", "html"},
                    .num_layers = 58,
                    .num_ranks = 32,
                    .num_steps = 9000,
                    .steps_per_window = 30}));
  nlohmann::ordered_json hostile = sample_run({.policies = {"static", "</script><b>&\"'x", "swift"},
                                               .domains = {"<!--<script>", "\u4e2d\u6587"}});
  hostile["checks"]["outputs_identical"] = false;
  hostile["runs"][2]["health"]["ok"] = false;
  hostile["runs"][2]["health"]["reason"] = "planner failed: <i>why</i>";
  hostile["command"] = "swiftbalancer serve --model '</pre><script>alert(1)</script>'";
  write("hostile.html", hostile);
  return 0;
}
