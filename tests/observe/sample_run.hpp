#pragma once
// A run.json made by code: deterministic, plausible, of any size. Used by the tests of observe and
// by the browser check.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace swiftbalancer::observe {

struct SampleOptions {
  std::vector<std::string> policies = {"static", "eplb", "swift"};
  std::vector<std::string> domains = {"python", "man_zh", "chess"};
  int num_layers = 6;
  int num_ranks = 8;
  int num_steps = 400;
  int steps_per_window = 5;
  bool timed = true;
};

nlohmann::ordered_json sample_run(const SampleOptions& options = {});

}  // namespace swiftbalancer::observe
