#include "observe/report.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "observe/assets.hpp"
#include "observe/charts.hpp"
#include "observe/figures.hpp"
#include "observe/format.hpp"
#include "observe/page_sections.hpp"
#include "observe/run_file.hpp"

namespace swiftbalancer::observe {
namespace {

std::string chart(const std::string& id, const std::string& label, const Spec& spec) {
  return fmt::format(
      "<div class=\"chart\" id=\"chart-{0}\" role=\"img\" aria-label=\"{1}\"></div>"
      "<script type=\"application/json\" data-chart=\"{0}\">{2}</script>\n",
      id, escape_html(label), spec);
}

std::string section(const char* id, const char* title, const std::string& body) {
  return fmt::format("<section id=\"{}\"><h2>{}</h2>\n{}</section>\n", id, title, body);
}

std::string note(const std::string& text) { return "<p class=\"note\">" + text + "</p>\n"; }

std::string thinning_note(const RunFile& file) {
  std::int64_t steps = 0;
  for (const Run& run : file.runs) steps = std::max(steps, run.steps);
  if (steps <= static_cast<std::int64_t>(kMaxPointsPerLine)) return "";
  return fmt::format(" Of {} steps {} are drawn: the lowest and the highest of each stretch.",
                     steps, kMaxPointsPerLine);
}

std::string imbalance_section(const RunFile& file) {
  std::string body = run_legend(file, true);
  if (file.windows.empty()) {
    return section("imbalance", "Imbalance over time",
                   note("The run was too short for a single window: no imbalance to draw."));
  }
  body += chart("imbalance", "Imbalance per window of every run and of the hindsight plan",
                imbalance_chart(file));
  body += note(
      fmt::format("Bold: max / mean rank load over windows of at least {} token-expert "
                  "assignments, mean over layers; 1 is perfect, and "
                  "sampling noise alone is above 1. Faint: each step by itself; mostly sampling "
                  "noise of small batches, cut at the top.{} "
                  "Dots: steps with commits. Vertical rules: the domain of the traffic changes.",
                  file.window_assignments, thinning_note(file)));
  body += "<h3>Worst layer</h3>\n" +
          chart("worst-layer", "Imbalance of the worst layer per window", worst_layer_chart(file));
  return section("imbalance", "Imbalance over time", body);
}

/// Whether the run committed anything from the first domain switch on. Commits before it answer
/// the first domain.
bool answered_a_switch(const RunFile& file, const Run& run) {
  return file.segments.size() > 1 &&
         std::any_of(run.commits.begin(), run.commits.end(), [&](const Commit& commit) {
           return commit.step >= file.segments[1].first_step;
         });
}

/// The colours of the common scale, as a strip: its ends and the even load in the middle.
std::string heat_legend(std::pair<double, double> range) {
  return fmt::format(
             "<p class=\"heat-legend\"><span>{}</span><i class=\"strip\"></i><span>{}</span></p>\n",
             format_ratio(range.first), format_ratio(range.second)) +
         note(
             "Load of a rank / mean rank load of its layer, the same colours in all maps; the "
             "middle colour is 1, an even load. "
             "With a domain switch: the window just before the first switch was answered, and the "
             "second after "
             "(never answered: after the switch).");
}

std::string heat_section(const RunFile& file) {
  const auto range = heat_range(file);
  const bool switched = file.segments.size() > 1;
  if (file.windows.empty()) {
    return section("loads", "Rank loads before and after",
                   note("The run was too short for a single window: no loads to draw."));
  }
  std::string body = heat_legend(range) + "<div class=\"heats\">\n";
  for (std::size_t i = 0; i < file.runs.size(); ++i) {
    const Run& run = file.runs[i];
    const std::string label = escape_html(run.label);
    const bool answered = answered_a_switch(file, run);
    const char* before = !switched  ? "first window"
                         : answered ? "switched, not answered"
                                    : "at the switch";
    const char* after = !switched  ? "last window"
                        : answered ? "after the answer"
                                   : "two windows later";
    body += fmt::format(
        "<div class=\"heat-pair\"><h3><i class=\"swatch\" "
        "style=\"background:var(--run-{})\"></i>{}</h3><div>",
        i, label);
    const auto map = [&](const char* when, const char* id, const Matrix& load) {
      return fmt::format("<figure><figcaption>{}</figcaption>", when) +
             chart(fmt::format("load-{}-{}", i, id), run.label + ", rank loads, " + when,
                   heat_chart(load, range)) +
             "</figure>";
    };
    body += map(before, "before", run.load_before) + map(after, "after", run.load_after) +
            "</div></div>\n";
  }
  return section("loads", "Rank loads before and after", body + "</div>\n");
}

std::string time_section(const RunFile& file) {
  if (!file.hardware) {
    return section(
        "time", "Step time",
        note("No virtual times: this was run without a timed device (<code>--device none</code>). "
             "Ranks share this machine's cores, so wall time would not show what balancing wins."));
  }
  std::string body;
  if (!file.windows.empty()) {
    body += run_legend(file, false) +
            chart("step-time", "Virtual time per step of every run", step_time_chart(file));
  }
  body +=
      note(fmt::format("Virtual time, charged by hardware profile {} at token_scale {}; nobody "
                       "measured it with a watch. "
                       "Bold: mean over each window. Faint: each step, cut at the top.{}",
                       escape_html(file.hardware->name), format_exact(file.hardware->token_scale),
                       thinning_note(file)));
  body += "<h3>What a step's virtual time is made of</h3>\n";
  if (!charged_terms(file).empty()) {
    body += chart("terms", "Virtual time per step by term, stacked, for every run",
                  virtual_terms_chart(file));
  }
  return section("time", "Step time (virtual)", body + terms_table(file));
}

std::string moves_section(const RunFile& file) {
  std::string body =
      "<div class=\"pair\"><div><h3>Moves</h3>" +
      chart("moves", "Moves of every run", moves_chart(file)) + "</div><div><h3>Bytes</h3>" +
      chart("bytes", "Bytes moved by every run", bytes_chart(file)) +
      "</div></div>\n<h3>Moves over time</h3>\n" + run_legend(file, false) +
      chart("moves-over-time", "Moves committed up to each step", moves_over_time_chart(file));
  return section("moves", "Moves and bytes",
                 body + note("A move: a slot receives an expert that its rank did not hold."));
}

/// The colours --run-0 ... of this page's runs and, last, of hindsight: a policy has the same
/// colour on every page.
std::string run_colours(const RunFile& file) {
  std::string style = ":root{";
  int others = 0;
  for (std::size_t i = 0; i < file.runs.size(); ++i) {
    const Run& run = file.runs[i];
    const bool first_of_policy = run.label == run.policy;
    std::string name = fmt::format("--other-{}", others % 4);
    if (&run == baseline(file)) {
      name = "--static";
    } else if (first_of_policy && (run.policy == "eplb" || run.policy == "swift")) {
      name = "--" + run.policy;
    } else {
      ++others;
    }
    style += fmt::format("--run-{}:var({});", i, name);
  }
  return style + fmt::format("--run-{}:var(--hindsight)}}", file.runs.size());
}

std::string subtitle(const RunFile& file) {
  const auto counted = [](auto n, const char* word) {
    return fmt::format("{} {}{}", n, word, n == 1 ? "" : "s");
  };
  return fmt::format(
      "{}, {}, {}{} · {} · swiftbalancer {}", counted(file.num_ranks, "rank"),
      counted(file.num_layers, "MoE layer"), counted(file.runs.size(), "run"),
      file.hardware ? ", virtual time as on " + escape_html(file.hardware->name) : std::string(),
      escape_html(file.created), escape_html(file.version));
}

std::string page_body(const RunFile& file) {
  std::string body =
      fmt::format("<header><h1>Serving with live expert balancing</h1><p>{}</p></header>\n<main>\n",
                  subtitle(file));
  body += section("headline", "What balancing did",
                  headline_section(file) + runs_table(file) +
                      note("By the shares: had every expert's tokens after switches been divided "
                           "exactly by the planned shares; beside it what the slots counted."));
  body +=
      "<noscript><p class=\"warning\">The charts need JavaScript; the tables do "
      "not.</p></noscript>\n";
  body += imbalance_section(file) + heat_section(file) + time_section(file) + moves_section(file);
  body += section("stall", "Stall and waits by cause",
                  stall_table(file) + note("Counts over all ranks. The engine never waits for a "
                                           "plan or a copy; a wait for packets "
                                           "is for those of its own step. Held: wall time of the "
                                           "harness, outside the four calls."));
  body += section("health", "Health", health_table(file));
  body += section("generations", "Generations",
                  generations_tables(file) +
                      note("Imbalance, mean over layers. Before and after as the plan predicted; "
                           "then two of the first window that began after its last commit: by the "
                           "shares, as its tokens divide by the planned shares; achieved, as the "
                           "slots have counted."));
  body += section("virtual", "What was computed and what is virtual", virtual_section(file));
  body += section("configuration", "Configuration and machine",
                  configuration_section(file) + "<div class=\"scroll\"><pre>" +
                      escape_html(file.command) + "</pre></div>");
  return body + "</main>\n";
}

}  // namespace

std::string render_report(const std::string& run_json) {
  const RunFile file = parse_run_file(run_json);
  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      // The page may load nothing from anywhere; the charting library compiles its expressions,
      // hence unsafe-eval.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'; "
      "script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n<title>SwiftBalancer report</title>\n<style>";
  page.append(page_css()).append(run_colours(file)).append("</style></head>\n");
  page += fmt::format("<body data-series=\"{}\">\n", file.runs.size() + 1) + page_body(file) +
          "<script>";
  page.append(vega_bundle())
      .append("</script>\n<script>")
      .append(page_js())
      .append("</script>\n</body></html>\n");
  return page;
}

}  // namespace swiftbalancer::observe
