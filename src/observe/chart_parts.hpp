#pragma once
// What all charts have in common: colours by run, rounding, the finished specification. Used by
// charts_over_time.cpp and charts_by_run.cpp only: it brings in the JSON library. Pure;
// thread-safe.

#include <nlohmann/json.hpp>

#include "observe/charts.hpp"
#include "observe/run_file.hpp"

namespace swiftbalancer::observe {

using Json = nlohmann::ordered_json;

/// The name that the hindsight plan has among the runs.
inline constexpr const char* kHindsight = "hindsight";

/// To six significant digits: more than a chart can show, and half the bytes.
double rounded(double value);

/// Encodes the run as a colour; the runs in the order of the file, then hindsight.
Json run_colour(const RunFile& file);

/// The specification as text, as wide as its box and `height` pixels high.
Spec finished(Json spec, int height);

}  // namespace swiftbalancer::observe
