#include "observe/page_sections.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "observe/charts.hpp"
#include "observe/figures.hpp"
#include "observe/format.hpp"

namespace swiftbalancer::observe {
namespace {

using Cells = std::vector<std::string>;

constexpr const char* kHindsightSwatch = "<i class=\"swatch dashed\"></i>";

/// A table in a box of its own that scrolls when the page is narrow. Cells are finished HTML; the
/// first is the row's name.
std::string table(const Cells& header, const std::vector<Cells>& rows, const char* style = "") {
  std::string html = fmt::format("<div class=\"scroll\"><table class=\"{}\"><thead><tr>", style);
  for (const std::string& cell : header) html += "<th scope=\"col\">" + cell + "</th>";
  html += "</tr></thead><tbody>";
  for (const Cells& row : rows) {
    html += "<tr><th scope=\"row\">" + row.front() + "</th>";
    for (std::size_t i = 1; i < row.size(); ++i) html += "<td>" + row[i] + "</td>";
    html += "</tr>";
  }
  return html + "</tbody></table></div>\n";
}

std::string swatch(const char* kind, std::size_t i) {
  return fmt::format("<i class=\"swatch\" style=\"background:var(--{}-{})\"></i>", kind, i);
}

std::string run_name(const RunFile& file, std::size_t i) {
  const Run& run = file.runs[i];
  std::string name = swatch("run", i) + escape_html(run.label);
  if (&run == baseline(file)) name += " <small>no balancing</small>";
  return name;
}

std::string count(std::int64_t value) { return format_count(static_cast<double>(value)); }

struct Card {
  std::string title, value, note;
  const char* style = "";
};

std::string card(const Card& card) {
  return fmt::format("<div class=\"card {}\"><h3>{}</h3><p class=\"value\">{}</p><p>{}</p></div>\n",
                     card.style, card.title, card.value, card.note);
}

/// Words that stay on one line while the line is wide enough.
std::string unit(const std::string& words) {
  return fmt::format("<span class=\"unit\">{}</span>", words);
}

/// "static 1.84 · eplb 1.14": a figure of every run but the featured one; runs without the figure
/// are left out.
template <typename Figure>
std::string others(const RunFile& file, Figure figure) {
  std::string text;
  for (const Run& run : file.runs) {
    const std::string value = figure(run);
    if (&run == &featured(file) || value == "n/a") continue;
    if (!text.empty()) text += " · ";
    text += unit(escape_html(run.label) + " " + value);
  }
  return text;
}

/// "29 % of eplb's" where another run, with policy eplb, moved anything.
std::string share_of_eplb(const RunFile& file, const Run& run) {
  const auto eplb = std::find_if(file.runs.begin(), file.runs.end(),
                                 [](const Run& other) { return other.policy == "eplb"; });
  if (eplb == file.runs.end() || &*eplb == &run || eplb->moves == 0) return "";
  const double share = static_cast<double>(run.moves) / static_cast<double>(eplb->moves);
  return unit(format_percent(share) + " of eplb's");
}

std::string imbalance(const Run& run) { return or_na(run.mean_after_switch, format_ratio); }
std::string step_time(const Run& run) { return or_na(run.mean_step_us_after_switch, format_us); }

Card outputs_card(const RunFile& file) {
  const std::string checked =
      file.slot_bytes_verified == 0
          ? "; slot bytes not compared (--verify-slots does)"
          : fmt::format(
                "; slot bytes equal the checkpoint's in {} comparisons (rank x committed unit)",
                count(file.slot_bytes_verified));
  if (file.runs.size() == 1) {
    return {"Output bytes", "1 run", "nothing to compare with" + checked};
  }
  if (!file.outputs_identical)
    return {"Output bytes", "✗ different", "runs disagree: a defect" + checked, "bad"};
  return {"Output bytes", "✓ identical", fmt::format("in all {} runs{}", file.runs.size(), checked),
          "good"};
}

Card stall_card(const Run& run) {
  const std::int64_t held_back = run.waits_for_plans + run.waits_for_copies;
  const std::string stall = run.virtual_stall_us
                                ? format_us(*run.virtual_stall_us) + " of virtual stall"
                                : format_us(run.packet_wait_ms * 1000) + " waiting for packets";
  return {"Waits for a plan or a copy", count(held_back),
          stall + " in " + count(run.steps) + " steps", held_back == 0 ? "good" : "bad"};
}

std::string step_time_note(const RunFile& file, const Run& run) {
  const Run* none = baseline(file);
  std::string note = others(file, step_time);
  if (none != nullptr && none != &run && none->mean_step_us_after_switch &&
      run.mean_step_us_after_switch && *none->mean_step_us_after_switch > 0) {
    const double change = *run.mean_step_us_after_switch / *none->mean_step_us_after_switch - 1;
    note += fmt::format(" · {} {} than without balancing", format_percent(std::abs(change)),
                        change <= 0 ? "less" : "more");
  }
  return note;
}

std::string bytes_note(const RunFile& file, const Run& run) {
  std::string note =
      others(file, [](const Run& other) { return format_bytes(shown_bytes(other)); });
  if (file.hardware) {
    if (!note.empty()) note += " · ";
    note += fmt::format("at the size of {}'s experts; really copied: {}",
                        escape_html(file.hardware->model), format_bytes(run.migrated_bytes));
  }
  return note;
}

std::string verdict(const RunFile& file, const Run& run) {
  std::size_t num_switches = file.segments.size() > 1 ? file.segments.size() - 1 : 0;
  std::string text =
      fmt::format("<strong>{}</strong> holds the rank imbalance at <strong>{}</strong>",
                  escape_html(run.label), imbalance(run));
  text += num_switches > 0
              ? fmt::format(" after {} domain switch{}", num_switches, num_switches > 1 ? "es" : "")
              : std::string(" under one domain");
  const std::string rest = others(file, imbalance);
  if (!rest.empty()) text += fmt::format(", against {}", rest);
  text += fmt::format(". A plan made in hindsight for every window has {}",
                      or_na(file.hindsight_mean_after_switch, format_ratio));
  const auto removed = excess_removed(file, run);
  if (removed)
    text += fmt::format("; {} of the excess over it is removed", unit(format_percent(*removed)));
  const std::string share = share_of_eplb(file, run);
  return text +
         fmt::format(", with {} moves{}{}.", count(run.moves), share.empty() ? "" : ", ", share);
}

std::string health_warnings(const RunFile& file) {
  std::string html;
  for (const Run& run : file.runs) {
    if (run.healthy) continue;
    html += fmt::format(
        "<p class=\"warning\" role=\"alert\">Balancing was not ok when run {} ended: {}. Serving "
        "went on with the last committed placement.</p>\n",
        escape_html(run.label), escape_html(run.health_reason));
  }
  return html;
}

Cells runs_row(const RunFile& file, std::size_t i) {
  const Run& run = file.runs[i];
  return {run_name(file, i),
          or_na(run.mean_over_windows, format_ratio),
          imbalance(run),
          or_na(run.mean_after_switch_by_shares, format_ratio),
          or_na(mean_after_switches(file, run.worst_layer_per_window), format_ratio),
          or_na(excess_removed(file, run), format_percent),
          fmt::format("{} / {}", format_percent(run.own_rank), format_percent(run.own_node)),
          count(run.moves),
          format_bytes(shown_bytes(run)),
          step_time(run),
          or_na(run.tokens_per_virtual_second, format_count),
          fmt::format("{:.1f} s", run.wall_seconds),
          fmt::format("<code title=\"{0}\">{1}</code>", escape_html(run.output_digest),
                      escape_html(run.output_digest.substr(0, 8)))};
}

std::string step_or(const std::optional<std::int64_t>& step, const char* otherwise) {
  return step ? std::to_string(*step) : otherwise;
}

std::string settings(const std::string& title,
                     const std::vector<std::pair<std::string, std::string>>& entries) {
  std::vector<Cells> rows;
  for (const auto& [key, value] : entries) rows.push_back({escape_html(key), escape_html(value)});
  return fmt::format("<div><h3>{}</h3>", title) + table({"key", "value"}, rows, "settings") +
         "</div>\n";
}

}  // namespace

std::string headline_section(const RunFile& file) {
  const Run& run = featured(file);
  const std::string hindsight = or_na(file.hindsight_mean_after_switch, format_ratio);
  const std::string rest = others(file, imbalance);
  std::string html = health_warnings(file) + "<p class=\"verdict\">" + verdict(file, run) +
                     "</p>\n<div class=\"cards\">\n";
  html += card({"Imbalance after switches", imbalance(run),
                (rest.empty() ? "" : rest + " · ") + unit("hindsight " + hindsight)});
  const auto removed = [&](const Run& other) {
    return or_na(excess_removed(file, other), format_percent);
  };
  const bool compared = baseline(file) != nullptr && baseline(file) != &run;
  html += card({"Excess over hindsight removed", removed(run),
                compared ? others(file, removed)
                         : std::string("needs a run with policy static and another to compare")});
  const std::string share = share_of_eplb(file, run);
  html += card({"Moves", count(run.moves),
                others(file, [](const Run& other) { return count(other.moves); }) +
                    (share.empty() ? "" : " · ") + share});
  html += card({"Bytes moved", format_bytes(shown_bytes(run)), bytes_note(file, run)});
  if (file.hardware)
    html += card({"Virtual time per step", step_time(run), step_time_note(file, run)});
  html += card(stall_card(run)) + card(outputs_card(file));
  return html + "</div>\n";
}

std::string runs_table(const RunFile& file) {
  std::vector<Cells> rows;
  for (std::size_t i = 0; i < file.runs.size(); ++i) rows.push_back(runs_row(file, i));
  rows.push_back({std::string(kHindsightSwatch) + "hindsight <small>not served</small>",
                  or_na(file.hindsight_mean_over_windows, format_ratio),
                  or_na(file.hindsight_mean_after_switch, format_ratio), "",
                  or_na(mean_after_switches(file, file.hindsight_worst_layer), format_ratio), "",
                  "", "", "", "", "", "", ""});
  return table({"run", "imbalance, all windows", "after switches", "by the shares", "worst layer",
                "excess removed", "tokens on own rank / node", "moves", "bytes",
                "virtual time / step", "tokens / virtual s", "wall time", "output digest"},
               rows);
}

std::string run_legend(const RunFile& file, bool with_hindsight) {
  std::string html = "<p class=\"legend\">";
  for (std::size_t i = 0; i < file.runs.size(); ++i)
    html += "<span>" + run_name(file, i) + "</span> ";
  if (with_hindsight)
    html += std::string("<span>") + kHindsightSwatch + "hindsight plan of each window</span>";
  return html + "</p>\n";
}

std::string terms_table(const RunFile& file) {
  Cells header{"term, virtual ms per step"};
  for (std::size_t i = 0; i < file.runs.size(); ++i) header.push_back(run_name(file, i));
  const std::vector<std::string> charged = charged_terms(file);
  std::vector<std::string> terms = charged;
  for (const auto& [term, total] : file.runs.front().virtual_terms_us) {
    if (std::find(terms.begin(), terms.end(), term) == terms.end()) terms.push_back(term);
  }
  std::vector<Cells> rows;
  Series totals(file.runs.size(), 0.0);
  for (std::size_t t = 0; t < terms.size(); ++t) {
    Cells row{(t < charged.size() ? swatch("term", t) : "") + escape_html(terms[t])};
    for (std::size_t i = 0; i < file.runs.size(); ++i) {
      const double steps = static_cast<double>(std::max<std::int64_t>(file.runs[i].steps, 1));
      const double per_step = term_us(file.runs[i], terms[t]) / 1000 / steps;
      totals[i] += per_step;
      row.push_back(per_step == 0 ? "0" : fmt::format("{:.4f}", per_step));
    }
    rows.push_back(row);
  }
  Cells sum{"sum"};
  for (const double total : totals) sum.push_back(fmt::format("{:.4f}", total));
  rows.push_back(sum);
  return table(header, rows);
}

std::string stall_table(const RunFile& file) {
  std::vector<Cells> rows;
  for (std::size_t i = 0; i < file.runs.size(); ++i) {
    const Run& run = file.runs[i];
    rows.push_back({run_name(file, i), count(run.waits_for_plans), count(run.waits_for_copies),
                    count(run.waits_for_packets), format_us(run.packet_wait_ms * 1000),
                    or_na(run.virtual_stall_us, format_us),
                    run.timed_device_ms ? format_us(*run.timed_device_ms * 1000) : "n/a"});
  }
  return table({"run", "waits for a plan", "waits for a copy", "waits for packets",
                "wall time of packet waits", "virtual stall", "held by the timed device"},
               rows);
}

std::string health_words(const Run& run) {
  std::string text = run.healthy ? "ok" : "not ok: ";
  if (run.healthy && !run.health_reason.empty()) text += ", recovered from: ";
  text += escape_html(run.health_reason);
  for (const auto& [rank, requests] : run.losses)
    text += fmt::format("; rank {} lost with {} requests", rank, count(requests));
  return text;
}

std::string health_table(const RunFile& file) {
  std::vector<Cells> rows;
  for (std::size_t i = 0; i < file.runs.size(); ++i) {
    const Run& run = file.runs[i];
    std::string results;
    for (const auto& [result, number] : run.rebalances)
      results +=
          fmt::format("{}{} {}", results.empty() ? "" : ", ", count(number), escape_html(result));
    rows.push_back({run_name(file, i), health_words(run),
                    escape_html(run.mode) + (run.warm_start ? ", warm start" : ""),
                    results.empty() ? "none" : results,
                    run.plan_age_steps ? count(*run.plan_age_steps) + " steps" : "n/a",
                    run.planner_running ? "running" : "down", count(run.planner_restarts),
                    count(run.dropped_samples), count(run.membership), count(run.failures)});
  }
  return table({"run", "balancing", "mode at the end", "rebalances", "age of the plan", "planner",
                "planner restarts", "dropped samples", "reconfigurations", "failures"},
               rows);
}

std::string generations_tables(const RunFile& file) {
  std::string html;
  for (std::size_t i = 0; i < file.runs.size(); ++i) {
    const Run& run = file.runs[i];
    std::vector<Cells> rows;
    for (const Generation& g : run.generations) {
      rows.push_back({std::to_string(g.opened_step), step_or(g.adopted_step, "never"),
                      step_or(g.finished_step, "under way"),
                      escape_html(g.result.empty() ? "under way" : g.result), count(g.moves),
                      format_bytes(g.bytes), format_ratio(g.imbalance_before),
                      format_ratio(g.imbalance_after), or_na(g.imbalance_by_shares, format_ratio),
                      or_na(g.imbalance_achieved, format_ratio)});
    }
    const std::string name = fmt::format("{}: {} generation{}", run_name(file, i), rows.size(),
                                         rows.size() == 1 ? "" : "s");
    if (rows.empty()) {
      html += "<p>" + name + "</p>\n";
      continue;
    }
    html += "<details" + std::string(rows.size() <= 12 ? " open" : "") + "><summary>" + name +
            "</summary>";
    html += table({"opened at step", "adopted", "finished", "result", "moves", "bytes",
                   "imbalance before", "predicted after", "by the shares", "achieved"},
                  rows, "generations");
    html += "</details>\n";
  }
  return html;
}

std::string virtual_section(const RunFile& file) {
  std::string html =
      "<div class=\"pair\"><div class=\"box\"><h3>Really computed</h3><ul>"
      "<li>every token of every request, by the rank processes: router, experts, attention, "
      "sampling</li>"
      "<li>rank loads, imbalance, plans, moves, commits, output bytes</li>"
      "<li>every moved expert's bytes, at the size of the served checkpoint</li>"
      "<li>waits by cause and wall time, on this machine</li></ul></div>\n";
  if (!file.hardware) {
    return html +
           "<div class=\"box\"><h3>Virtual</h3><p>Nothing: this was run without a timed device, so "
           "there is no step "
           "time to compare. Ranks share this machine's cores; wall time does not show what "
           "balancing wins. "
           "Run with <code>--device timed</code> for virtual times.</p></div></div>\n";
  }
  const Hardware& hardware = *file.hardware;
  html += fmt::format(
      "<div class=\"box virtual\"><h3>Virtual</h3><ul>"
      "<li>all step times, their terms and the virtual stall: charged by hardware profile "
      "<strong>{0}</strong>, never "
      "measured</li><li>bytes “at scale”: moves × the expert size of <strong>{1}</strong></li>"
      "<li><code>token_scale</code> = <strong>{2}</strong>: each real token stands for {2} tokens "
      "of {1}</li>"
      "<li>when a plan or a copy counts as finished: at its virtual time; where the real work is "
      "late the harness waits, "
      "at no virtual cost (held by the timed device)</li></ul></div></div>\n",
      escape_html(hardware.name), escape_html(hardware.model), format_exact(hardware.token_scale));
  std::vector<Cells> rows;
  for (const Constant& constant : hardware.constants) {
    rows.push_back({escape_html(constant.name), format_exact(constant.value),
                    escape_html(constant.unit), escape_html(constant.source)});
  }
  return html + "<h3>Every charged constant</h3>\n" +
         table({"constant", "value", "unit", "source"}, rows, "constants");
}

std::string configuration_section(const RunFile& file) {
  std::vector<std::pair<std::string, std::string>> traffic = file.traffic;
  for (const Segment& segment : file.segments) {
    traffic.emplace_back("domain from step " + std::to_string(segment.first_step), segment.domain);
  }
  return "<div class=\"columns\">" + settings("Configuration", file.config) +
         settings("Model", file.model) + settings("Shape", file.shape) +
         settings("Traffic", traffic) + settings("Machine", file.machine) + "</div>\n";
}

}  // namespace swiftbalancer::observe
