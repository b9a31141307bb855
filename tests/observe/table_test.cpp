#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <swiftbalancer/error.hpp>

#include "observe/report.hpp"
#include "observe/sample_run.hpp"

namespace swiftbalancer::observe {
namespace {

/// The line that starts with `name`.
std::string line_of(const std::string& table, const std::string& name) {
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(name, 0) == 0) return line;
  }
  return "";
}

std::size_t widest(const std::string& table) {
  std::size_t width = 0;
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) width = std::max(width, line.size());
  return width;
}

nlohmann::ordered_json with_round_numbers() {
  auto run = sample_run();
  run["hindsight"]["mean_after_switch"] = 1.0;
  run["runs"][0]["imbalance"]["mean_after_switch"] = 2.0;
  run["runs"][2]["imbalance"]["mean_over_windows"] = 1.375;
  run["runs"][2]["imbalance"]["mean_after_switch"] = 1.25;
  run["runs"][2]["moves"] = 123;
  run["runs"][2]["migrated_bytes_at_scale"] = 7.5e9;
  run["runs"][2]["virtual_mean_step_us_after_switch"] = 4321.5;
  return run;
}

TEST(Table, ShowsTheFiguresOfEachRun) {
  const std::string table = render_table(with_round_numbers().dump());
  const std::string swift = line_of(table, "swift");
  for (const char* cell : {" 1.375 ", " 1.250 ", " 75 % ", " 123 ", " 7.50 GB ", " 4.322 ",
                           " 41.5 us ", " identical"}) {
    EXPECT_NE(swift.find(cell), std::string::npos) << cell << " in: " << swift;
  }
  EXPECT_NE(line_of(table, "hindsight").find(" 1.000 "), std::string::npos) << table;
  EXPECT_NE(line_of(table, "static").find(" n/a "), std::string::npos) << table;
}

TEST(Table, ShowsWhatTheSharesSayBesideWhatWasCounted) {
  auto run = with_round_numbers();
  run["runs"][2]["imbalance_by_shares"]["mean_over_windows"] = 1.125;
  run["runs"][2]["imbalance_by_shares"]["mean_after_switch"] = nullptr;
  run["runs"][2]["locality"] = {{"rows", 1000}, {"own_rank", 0.124}, {"own_node", 0.376}};
  const std::string table = render_table(run.dump());
  const std::string block = table.substr(table.find("\nimbalance  "));
  EXPECT_EQ(line_of(block, "swift"),
            "swift          1.375     1.125     1.250       n/a      12 %      38 %")
      << block;
}

TEST(Table, StaysWithinAHundredColumns) {
  EXPECT_LE(widest(render_table(sample_run().dump())), 100u);
  auto run = sample_run({.policies = {"static", "a policy of a long name", "swift"},
                         .num_layers = 58,
                         .num_ranks = 32,
                         .num_steps = 9000});
  run["runs"][1]["health"]["ok"] = false;
  run["runs"][1]["health"]["reason"] = std::string(300, 'x');
  run["runs"][1]["rebalances"][std::string(200, 'r')] = 123456789;
  run["runs"][1]["moves"] = 123456789;
  run["runs"][1]["migrated_bytes_at_scale"] = 9.99e15;
  for (auto& [term, total] : run["runs"][1]["virtual_terms_us"].items()) total = 1e15;
  run["hardware"]["name"] = std::string(120, 'n');
  run["checks"]["outputs_identical"] = false;
  EXPECT_LE(widest(render_table(run.dump())), 100u) << render_table(run.dump());
}

TEST(Table, NamesTheProfileAndShowsWhatAStepIsChargedForPerRun) {
  auto run = sample_run();
  run["runs"][2]["steps"] = 400;
  run["runs"][2]["virtual_terms_us"]["attention"] = 400 * 123.5;
  run["runs"][2]["virtual_terms_us"]["expert_weights"] = 400 * 67.25;
  const std::string table = render_table(run.dump());
  EXPECT_NE(
      line_of(table, "profile").find("example-accelerator; model DeepSeek-V3; token_scale 64"),
      std::string::npos)
      << table;
  const std::string terms = table.substr(table.find("us/step"));
  EXPECT_NE(line_of(terms, "us/step").find(" attention "), std::string::npos) << table;
  const std::string swift = line_of(terms, "swift");
  EXPECT_NE(swift.find(" 123.5 "), std::string::npos) << table;
  EXPECT_NE(swift.find(" 67.2 "), std::string::npos) << table;
  for (const char* name : {"static", "eplb"}) EXPECT_NE(line_of(terms, name), "") << table;
}

TEST(Table, WithoutATimedDeviceVirtualTimeIsNotAvailable) {
  const std::string table = render_table(sample_run({.timed = false}).dump());
  EXPECT_NE(line_of(table, "swift").find(" n/a "), std::string::npos) << table;
  EXPECT_NE(table.find("virtual time: n/a"), std::string::npos) << table;
  EXPECT_EQ(table.find("token_scale"), std::string::npos) << table;
  EXPECT_EQ(table.find("us/step"), std::string::npos) << table;
}

TEST(Table, NamesTheRunWhoseOutputsDiffer) {
  auto run = sample_run();
  run["checks"]["outputs_identical"] = false;
  run["runs"][2]["output_digest"] = "0000";
  const std::string table = render_table(run.dump());
  EXPECT_NE(line_of(table, "swift").find("DIFFERENT"), std::string::npos) << table;
  EXPECT_EQ(line_of(table, "eplb").find("DIFFERENT"), std::string::npos) << table;
}

TEST(Table, ShowsTheHealthOfEachRunAndWhatItsRebalancesCameTo) {
  auto run = sample_run();
  run["runs"][1]["health"]["mode"] = "paused";
  run["runs"][1]["health"]["planner_restarts"] = 2;
  run["runs"][1]["health"]["planner_running"] = false;
  run["runs"][1]["health"]["reason"] = "a planner was lost";
  run["runs"][1]["losses"] = {{{"rank", 3}, {"lost_requests", {7, 8}}}};
  run["runs"][2]["health"]["dropped_samples"] = 7;
  run["runs"][2]["warm_start"] = true;
  run["runs"][2]["health"]["ok"] = false;
  run["runs"][2]["health"]["reason"] = "a reason";
  const std::string table = render_table(run.dump());
  const std::string health = table.substr(table.find("\nhealth\n"));
  EXPECT_EQ(line_of(health, "static"), "static    ok; rebalances: none");
  EXPECT_EQ(
      line_of(health, "eplb"),
      "eplb      recovered; rank 3 lost with 2 requests; mode paused; planner down; 2 planner "
      "restarts; re");
  EXPECT_EQ(line_of(health, "swift"),
            "swift     NOT OK; 7 dropped samples; warm start; rebalances: 3 committed, 1 "
            "nothing_to_gain");
  EXPECT_NE(health.find("\nswift: balancing is not ok: a reason\n"), std::string::npos) << health;
  EXPECT_NE(health.find("\neplb: recovered from: a planner was lost\n"), std::string::npos)
      << health;
  EXPECT_EQ(line_of(table, "swift").find("NOT"), std::string::npos) << "outputs are as they are";
}

TEST(Table, RefusesABadFile) { EXPECT_THROW(render_table("{}"), Error); }

}  // namespace
}  // namespace swiftbalancer::observe
