#pragma once
// run.json as people read it: a self-contained page and a terminal table. Called by the tool after
// serving, and by `inspect`; on any thread, pure.

#include <string>

namespace swiftbalancer::observe {

/// One HTML page that needs no network and no other file: headline, charts, tables, what is
/// computed and what is virtual.
/// @throws Error kInvalidArgument: one line naming the key of run.json and what is wrong with it.
std::string render_report(const std::string& run_json);

/// One line per run and one for the hindsight plan, then what the columns mean; at most 100 columns
/// wide.
/// @throws Error as render_report.
std::string render_table(const std::string& run_json);

}  // namespace swiftbalancer::observe
