#include "observe/chart_parts.hpp"

#include <cmath>

namespace swiftbalancer::observe {

double rounded(double value) {
  if (value == 0.0) return 0.0;
  const double unit = std::pow(10.0, 5 - std::floor(std::log10(std::abs(value))));
  return std::isfinite(unit) && unit > 0 ? std::round(value * unit) / unit : value;
}

Json run_colour(const RunFile& file) {
  Json domain = Json::array();
  for (const Run& run : file.runs) domain.push_back(run.label);
  domain.push_back(kHindsight);
  return {{"field", "run"},
          {"type", "nominal"},
          {"legend", nullptr},
          {"scale", {{"domain", domain}, {"range", "category"}}}};
}

Spec finished(Json spec, int height) {
  spec["$schema"] = "https://vega.github.io/schema/vega-lite/v6.json";
  spec["width"] = "container";
  spec["height"] = height;
  spec["autosize"] = {{"type", "fit-x"}, {"contains", "padding"}};
  std::string text = spec.dump();
  // A name in the data could close the <script> element that holds this.
  for (std::size_t at = 0; (at = text.find('<', at)) != std::string::npos;)
    text.replace(at, 1, "\\u003c");
  return text;
}

}  // namespace swiftbalancer::observe
