#include "observe/run_file.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <swiftbalancer/error.hpp>

#include "observe/charts.hpp"
#include "observe/figures.hpp"
#include "observe/sample_run.hpp"

namespace swiftbalancer::observe {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string message_for(const std::string& text) {
  try {
    parse_run_file(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "no error";
}

struct BadFile {
  const char* name;
  std::function<void(OrderedJson&)> spoil;
  const char* expected;
};

class BadRunFile : public testing::TestWithParam<BadFile> {};

TEST_P(BadRunFile, IsRefusedWithTheKeyAndWhatIsWrong) {
  OrderedJson file = sample_run();
  GetParam().spoil(file);
  const std::string message = message_for(file.dump());
  EXPECT_NE(message.find(GetParam().expected), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    RunFile, BadRunFile,
    testing::Values(
        BadFile{"missing", [](OrderedJson& f) { f["runs"][1].erase("moves"); },
                "runs[1].moves is missing"},
        BadFile{"nested", [](OrderedJson& f) { f["runs"][0]["imbalance"].erase("per_step"); },
                "runs[0].imbalance.per_step is missing"},
        BadFile{"text_for_number", [](OrderedJson& f) { f["runs"][1]["wall_seconds"] = "a\nb"; },
                "runs[1].wall_seconds is a string (a b), expected a number"},
        BadFile{"negative", [](OrderedJson& f) { f["runs"][0]["moves"] = -1; },
                "runs[0].moves is a number (-1), expected an integer >= 0"},
        BadFile{"fraction", [](OrderedJson& f) { f["runs"][0]["moves"] = 0.5; },
                "runs[0].moves is a number (0.5), expected an integer >= 0"},
        BadFile{"huge", [](OrderedJson& f) { f["runs"][0]["moves"] = 18446744073709551615ULL; },
                "expected an integer >= 0"},
        BadFile{"hole", [](OrderedJson& f) { f["hindsight"]["imbalance"][3] = nullptr; },
                "hindsight.imbalance[3] is a null"},
        BadFile{"short", [](OrderedJson& f) { f["runs"][2]["imbalance"]["per_window"].erase(0); },
                "runs[2].imbalance.per_window has 79 numbers, expected 80 (one per window)"},
        BadFile{"ranks", [](OrderedJson& f) { f["runs"][0]["rank_load"]["after"][1].push_back(1); },
                "runs[0].rank_load.after[1] has 9 numbers, expected 8 (one per rank)"},
        BadFile{"window", [](OrderedJson& f) { f["windows"]["steps"][0] = {5, 1}; },
                "windows.steps[0] is a array ([5,1]), expected [first_step"},
        BadFile{"object", [](OrderedJson& f) { f["traffic"] = 3; },
                "traffic is a number (3), expected an object"},
        BadFile{"no_runs", [](OrderedJson& f) { f["runs"] = OrderedJson::array(); },
                "runs is a array ([]), expected at least one run"},
        BadFile{"format", [](OrderedJson& f) { f["format"] = "other"; },
                "expected \"swiftbalancer.run\""},
        BadFile{"version", [](OrderedJson& f) { f["format_version"] = 2; },
                "format_version is a number (2), expected 1"}),
    [](const auto& case_info) { return std::string(case_info.param.name); });

TEST(RunFile, TextThatIsNoJsonIsRefusedWithThePlace) {
  EXPECT_EQ(message_for("{\"format\": "), "run.json: not valid JSON, see byte 12 of 11");
  EXPECT_EQ(message_for("[1e999]"), "run.json: not valid JSON: a number is too large to be read");
  EXPECT_NE(message_for("[]").find("the file is a array"), std::string::npos);
  EXPECT_NE(message_for("").find("not valid JSON"), std::string::npos);
}

TEST(Figures, WindowsCountFromTheSecondAfterEachSwitch) {
  RunFile file;
  file.windows = {{1, 4}, {5, 8}, {9, 12}, {13, 16}, {17, 20}, {21, 24}};
  file.segments = {{"a", 1}, {"b", 14}};
  EXPECT_EQ(windows_after_switches(file),
            (std::vector<bool>{false, false, true, false, false, true}));
}

TEST(Figures, ExcessRemovedIsMeasuredFromNoBalancingToHindsight) {
  OrderedJson json = sample_run();
  json["hindsight"]["mean_after_switch"] = 1.0;
  json["runs"][0]["imbalance"]["mean_after_switch"] = 2.0;
  json["runs"][2]["imbalance"]["mean_after_switch"] = 1.25;
  const RunFile file = parse_run_file(json.dump());
  EXPECT_DOUBLE_EQ(excess_removed(file, file.runs[2]).value(), 0.75);
  EXPECT_FALSE(excess_removed(file, file.runs[0]).has_value());
  EXPECT_EQ(featured(file).policy, "swift");

  json["hindsight"]["mean_after_switch"] = 2.0;
  const RunFile nothing_to_remove = parse_run_file(json.dump());
  EXPECT_FALSE(excess_removed(nothing_to_remove, nothing_to_remove.runs[2]).has_value());
}

TEST(Thinning, KeepsEveryPointOfAShortLineAndTheExtremesOfALongOne) {
  EXPECT_EQ(thinned({3, 1, 2}),
            (std::vector<std::pair<std::int64_t, double>>{{1, 3}, {2, 1}, {3, 2}}));
  Series steps(50001, 1.0);
  steps[31234] = 9.0;
  steps[50000] = 0.5;
  const auto points = thinned(steps);
  EXPECT_LE(points.size(), kMaxPointsPerLine);
  EXPECT_GT(points.size(), kMaxPointsPerLine / 2 - 1);
  EXPECT_NE(std::find(points.begin(), points.end(), std::pair<std::int64_t, double>(31235, 9.0)),
            points.end());
  EXPECT_EQ(points.back(), (std::pair<std::int64_t, double>(50001, 0.5)));
  EXPECT_TRUE(std::is_sorted(points.begin(), points.end()));
}

}  // namespace
}  // namespace swiftbalancer::observe
