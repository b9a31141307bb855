#pragma once
// The parts of the page that are no data: style sheet, script, charting library. They are compiled
// in, so the tool needs no files beside it. Used by report.cpp. Thread-safe (constant).

#include <string_view>

namespace swiftbalancer::observe {

std::string_view page_css();
std::string_view page_js();
/// Vega, Vega-Lite and vega-embed as one script that defines window.vegaEmbed.
std::string_view vega_bundle();

}  // namespace swiftbalancer::observe
