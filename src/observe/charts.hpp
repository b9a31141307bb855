#pragma once
// The charts as Vega-Lite specifications: data and meaning, no colours. Colours come from the
// page's style sheet through the named ranges category (runs, then hindsight), ordinal (virtual
// terms) and diverging (heat maps), so that one specification serves light and dark. Pure;
// thread-safe.

#include <string>
#include <utility>
#include <vector>

#include "observe/run_file.hpp"

namespace swiftbalancer::observe {

inline constexpr std::size_t kMaxPointsPerLine = 2000;

/// A specification may stand in a <script> element as it is: it holds no '<'.
using Spec = std::string;

Spec imbalance_chart(const RunFile& file);
Spec worst_layer_chart(const RunFile& file);
Spec step_time_chart(const RunFile& file);      ///< Needs a timed device.
Spec virtual_terms_chart(const RunFile& file);  ///< Needs a timed device.
Spec moves_chart(const RunFile& file);
Spec bytes_chart(const RunFile& file);
Spec moves_over_time_chart(const RunFile& file);

/// Lowest and highest rank load / mean rank load of any layer, over all heat maps: their common
/// colour scale.
std::pair<double, double> heat_range(const RunFile& file);
Spec heat_chart(const Matrix& load, std::pair<double, double> range);

/// At most kMaxPointsPerLine of the points: of each bucket of steps its lowest and its highest, so
/// that the width of the noise stays as it is. Pairs of (step, value); steps count from 1.
std::vector<std::pair<std::int64_t, double>> thinned(const Series& per_step);

/// Terms that are not zero in every run, in the order of the first run.
std::vector<std::string> charged_terms(const RunFile& file);
/// Microseconds of `term` in `run`; 0 where the run has none.
double term_us(const Run& run, const std::string& term);

}  // namespace swiftbalancer::observe
