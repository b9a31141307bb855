#include "observe/report.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <swiftbalancer/error.hpp>

#include "observe/sample_run.hpp"

namespace swiftbalancer::observe {
namespace {

using Json = nlohmann::json;

/// The chart specifications in a page by id.
std::map<std::string, std::string> specs(const std::string& page) {
  std::map<std::string, std::string> found;
  const std::string opening = "<script type=\"application/json\" data-chart=\"";
  for (std::size_t at = 0; (at = page.find(opening, at)) != std::string::npos;) {
    at += opening.size();
    const std::size_t name_end = page.find('"', at);
    const std::size_t begin = name_end + 2;
    found[page.substr(at, name_end - at)] =
        page.substr(begin, page.find("</script>", begin) - begin);
  }
  return found;
}

/// Rows of all data of a specification; every number in them must be finite (JSON writes others as
/// null).
void count_rows(const Json& spec, std::size_t& rows) {
  if (spec.contains("data")) {
    for (const Json& row : spec["data"]["values"]) {
      ++rows;
      for (const auto& [key, value] : row.items())
        EXPECT_FALSE(value.is_null()) << key << " in " << row;
    }
  }
  if (spec.contains("layer")) {
    for (const Json& layer : spec["layer"]) count_rows(layer, rows);
  }
}

/// The page without its scripts and style: what is read.
std::string text_of(std::string page) {
  for (const std::string element : {"script", "style"}) {
    for (std::size_t at = 0; (at = page.find("<" + element, at)) != std::string::npos;) {
      const std::string closing = "</" + element + ">";
      page.erase(at, page.find(closing, at) + closing.size() - at);
    }
  }
  return page;
}

TEST(Report, EveryChartHasDataAndOnlyFiniteNumbers) {
  const auto charts = specs(render_report(sample_run().dump()));
  for (const char* id : {"imbalance", "worst-layer", "load-0-before", "load-2-after", "step-time",
                         "terms", "moves", "bytes", "moves-over-time"}) {
    ASSERT_TRUE(charts.contains(id)) << id;
  }
  for (const auto& [id, text] : charts) {
    SCOPED_TRACE(id);
    ASSERT_TRUE(Json::accept(text));
    std::size_t rows = 0;
    count_rows(Json::parse(text), rows);
    EXPECT_GE(rows, 3u);
  }
}

TEST(Report, HeadlineShowsTheFiguresOfTheFile) {
  auto run = sample_run();
  run["hindsight"]["mean_after_switch"] = 1.0;
  run["runs"][0]["imbalance"]["mean_after_switch"] = 2.0;
  run["runs"][1]["imbalance"]["mean_after_switch"] = 1.333;
  run["runs"][1]["moves"] = 400;
  run["runs"][2]["imbalance"]["mean_after_switch"] = 1.25;
  run["runs"][2]["moves"] = 100;
  run["runs"][2]["migrated_bytes"] = 4.2e6;
  run["runs"][2]["migrated_bytes_at_scale"] = 7.77e9;
  run["runs"][0]["virtual_mean_step_us_after_switch"] = 8000;
  run["runs"][2]["virtual_mean_step_us_after_switch"] = 6000;
  const std::string page = render_report(run.dump());
  const std::string headline = page.substr(
      page.find("id=\"headline\""), page.find("id=\"imbalance\"") - page.find("id=\"headline\""));
  for (const char* figure :
       {"1.250", "static 2.000", "eplb 1.333", "hindsight 1.000", "75 %", "eplb 67 %",
        "25 % of eplb's", "7.77 GB", "4.20 MB", "6.00 ms", "static 8.00 ms",
        "25 % less than without balancing", "41.5 us", "✓ identical", "288 comparisons"}) {
    EXPECT_NE(headline.find(figure), std::string::npos) << figure << " in " << headline;
  }
}

TEST(Report, EveryConstantIsShownWithUnitAndSource) {
  const auto run = sample_run();
  const std::string page = text_of(render_report(run.dump()));
  for (const auto& [name, constant] : run["hardware"]["constants"].items()) {
    EXPECT_NE(page.find(name), std::string::npos) << name;
    EXPECT_NE(page.find("<td>" + constant["unit"].get<std::string>() + "</td>"), std::string::npos)
        << name;
  }
  EXPECT_NE(page.find("vendor&#39;s data sheet, one direction"), std::string::npos);
  EXPECT_NE(page.find("<td>44040192</td>"), std::string::npos);
  EXPECT_NE(page.find("<code>token_scale</code> = <strong>64</strong>"), std::string::npos);
}

TEST(Report, WithoutATimedDeviceNothingVirtualIsShownAndThePageSaysSo) {
  const std::string page = render_report(sample_run({.timed = false}).dump());
  const auto charts = specs(page);
  EXPECT_FALSE(charts.contains("step-time"));
  EXPECT_FALSE(charts.contains("terms"));
  EXPECT_TRUE(charts.contains("imbalance"));
  EXPECT_NE(page.find("No virtual times"), std::string::npos);
  EXPECT_EQ(text_of(page).find("Virtual time per step"), std::string::npos);
}

TEST(Report, TextOfTheFileCannotBecomeMarkup) {
  auto run =
      sample_run({.policies = {"static", "</script><b>x"}, .domains = {"<!--<script>", "b"}});
  run["command"] = "<i>command</i>";
  run["config"]["<u>key"] = "<u>value";
  run["hardware"]["constants"]["<s>"] = {{"value", 1}, {"unit", "<s>u"}, {"source", "<s>s"}};
  run["runs"][0]["health"]["ok"] = false;
  run["runs"][0]["health"]["reason"] = "<em>why";
  const std::string page = render_report(run.dump());
  for (const char* markup : {"<b>x", "<!--<script>", "<i>command", "<u>", "<s>", "<em>why"}) {
    EXPECT_EQ(page.find(markup), std::string::npos) << markup;
  }
  EXPECT_NE(text_of(page).find("&lt;em&gt;why"), std::string::npos);
  // The names survive: a chart's data read back is what the file said.
  EXPECT_EQ(Json::parse(specs(page).at("moves"))["data"]["values"][1]["run"], "</script><b>x");
}

TEST(Report, ShowsThatOutputsDiffer) {
  auto run = sample_run();
  run["checks"]["outputs_identical"] = false;
  EXPECT_NE(render_report(run.dump()).find("✗ different"), std::string::npos);
}

TEST(Report, ARunTooShortForAWindowStillGivesAPage) {
  auto run = sample_run({.policies = {"static"}, .domains = {"python"}, .num_steps = 3});
  run["windows"]["steps"] = Json::array();
  run["hindsight"] = {{"imbalance", Json::array()},
                      {"imbalance_worst_layer", Json::array()},
                      {"mean_over_windows", nullptr},
                      {"mean_after_switch", nullptr}};
  auto& only = run["runs"][0];
  only["imbalance"]["per_window"] = only["imbalance"]["per_window_worst_layer"] = Json::array();
  only["imbalance"]["mean_over_windows"] = only["imbalance"]["mean_after_switch"] = nullptr;
  only["virtual_mean_step_us_after_switch"] = nullptr;
  for (const char* when : {"first_window", "last_window", "before", "after"})
    only["rank_load"][when] = Json::array();
  const std::string page = render_report(run.dump());
  EXPECT_NE(page.find("too short for a single window"), std::string::npos);
  EXPECT_FALSE(specs(page).contains("imbalance"));
}

TEST(Report, SaysThatLongRunsAreThinned) {
  const std::string page = render_report(
      sample_run({.policies = {"static"}, .num_steps = 5000, .steps_per_window = 50}).dump());
  EXPECT_NE(page.find("Of 5000 steps 2000 are drawn"), std::string::npos);
}

TEST(Report, OnlyACommitAfterTheSwitchAnswersIt) {
  auto run = sample_run({.policies = {"swift"}});
  EXPECT_NE(render_report(run.dump()).find("after the answer"), std::string::npos);
  for (auto& commit : run["runs"][0]["commits"]) commit["step"] = 1;
  const std::string page = render_report(run.dump());
  EXPECT_EQ(page.find("after the answer"), std::string::npos);
  EXPECT_NE(page.find("two windows later"), std::string::npos);
}

TEST(Report, LoadsNothingFromANetwork) {
  const std::string page = render_report(sample_run().dump());
  for (const char* reference : {"src=\"http", "href=\"http", "url(http", "@import"})
    EXPECT_EQ(text_of(page).find(reference), std::string::npos);
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
  EXPECT_GT(page.size(), 800'000u) << "the charting library is not in the page";
}

TEST(Report, RefusesABadFile) { EXPECT_THROW(render_report("{}"), Error); }

}  // namespace
}  // namespace swiftbalancer::observe
