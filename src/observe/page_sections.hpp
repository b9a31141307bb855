#pragma once
// The parts of the page that are text: headline, tables, notes. Each returns finished HTML, every
// text of the file escaped. Used by report.cpp. Pure; thread-safe.

#include <string>

#include "observe/run_file.hpp"

namespace swiftbalancer::observe {

std::string headline_section(const RunFile& file);  ///< Verdict in one sentence, then the figures.
std::string runs_table(const RunFile& file);        ///< One row per run, then hindsight.
/// Which colour is which run, for charts with or without the hindsight plan.
std::string run_legend(const RunFile& file, bool with_hindsight);
std::string terms_table(
    const RunFile& file);  ///< Virtual time by term and run; also the chart's legend.
std::string stall_table(const RunFile& file);
std::string health_table(const RunFile& file);
std::string generations_tables(const RunFile& file);
std::string virtual_section(
    const RunFile& file);  ///< What was computed, what is virtual, every constant.
std::string configuration_section(const RunFile& file);

}  // namespace swiftbalancer::observe
