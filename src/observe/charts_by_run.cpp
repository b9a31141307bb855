#include <algorithm>

#include "observe/chart_parts.hpp"
#include "observe/charts.hpp"
#include "observe/figures.hpp"

namespace swiftbalancer::observe {
namespace {

Spec bars(const RunFile& file, const char* title, double (*value)(const Run&), const char* format) {
  Json values = Json::array();
  double high = 1;
  for (const Run& run : file.runs) {
    values.push_back({{"run", run.label}, {"value", rounded(value(run))}});
    high = std::max(high, value(run));
  }
  const Json y = {{"field", "run"}, {"type", "nominal"}, {"sort", nullptr}, {"title", nullptr}};
  const Json x = {{"field", "value"},
                  {"type", "quantitative"},
                  {"title", title},
                  {"axis", {{"format", format}, {"tickCount", 4}, {"labelOverlap", true}}},
                  // Room for the number that stands at the end of the longest bar.
                  {"scale", {{"domain", {0, rounded(high * 1.25)}}, {"nice", false}}}};
  const Json layers = Json::array(
      {{{"mark", {{"type", "bar"}, {"tooltip", true}}},
        {"encoding", {{"x", x}, {"y", y}, {"color", run_colour(file)}}}},
       {{"mark", {{"type", "text"}, {"style", "bar-value"}, {"align", "left"}, {"dx", 5}}},
        {"encoding",
         {{"x", x},
          {"y", y},
          {"text", {{"field", "value"}, {"type", "quantitative"}, {"format", format}}}}}}});
  return finished({{"data", {{"values", values}}}, {"layer", layers}},
                  30 + 34 * static_cast<int>(file.runs.size()));
}

}  // namespace

std::vector<std::string> charged_terms(const RunFile& file) {
  std::vector<std::string> terms;
  for (const Run& run : file.runs) {
    for (const auto& [term, total] : run.virtual_terms_us) {
      if (total != 0 && std::find(terms.begin(), terms.end(), term) == terms.end())
        terms.push_back(term);
    }
  }
  return terms;
}

double term_us(const Run& run, const std::string& term) {
  for (const auto& [name, total] : run.virtual_terms_us) {
    if (name == term) return total;
  }
  return 0.0;
}

Spec virtual_terms_chart(const RunFile& file) {
  const std::vector<std::string> terms = charged_terms(file);
  Json values = Json::array();
  for (const Run& run : file.runs) {
    for (std::size_t i = 0; i < terms.size(); ++i) {
      const double per_step =
          term_us(run, terms[i]) / 1000 / static_cast<double>(std::max<std::int64_t>(run.steps, 1));
      values.push_back(
          {{"run", run.label}, {"term", terms[i]}, {"value", rounded(per_step)}, {"order", i}});
    }
  }
  const Json tips =
      Json::array({{{"field", "run"}},
                   {{"field", "term"}},
                   {{"field", "value"}, {"title", "ms per step"}, {"format", ".4f"}}});
  const Json encoding = {
      {"y", {{"field", "run"}, {"type", "nominal"}, {"sort", nullptr}, {"title", nullptr}}},
      {"x",
       {{"field", "value"},
        {"type", "quantitative"},
        {"stack", "zero"},
        {"title", "virtual ms per step, mean over the run"},
        {"axis", {{"tickCount", 5}, {"labelOverlap", true}}}}},
      {"color",
       {{"field", "term"},
        {"type", "nominal"},
        {"legend", nullptr},
        {"scale", {{"domain", terms}, {"range", "ordinal"}}}}},
      {"order", {{"field", "order"}, {"type", "quantitative"}}},
      {"tooltip", tips}};
  return finished({{"data", {{"values", values}}},
                   {"mark", {{"type", "bar"}, {"style", "term"}}},
                   {"encoding", encoding}},
                  40 + 44 * static_cast<int>(file.runs.size()));
}

Spec moves_chart(const RunFile& file) {
  return bars(file, "moves", [](const Run& run) { return static_cast<double>(run.moves); }, "~s");
}

Spec bytes_chart(const RunFile& file) {
  const char* title = file.hardware ? "GB at the named model's size" : "GB really moved";
  return bars(file, title, [](const Run& run) { return shown_bytes(run) / 1e9; }, ",.3~r");
}

std::pair<double, double> heat_range(const RunFile& file) {
  std::pair<double, double> range{0.95, 1.05};  // never empty, even if every rank has the same load
  for (const Run& run : file.runs) {
    for (const Matrix* load : {&run.load_before, &run.load_after}) {
      for (const Series& row : *load) {
        const double middle_load = mean(row).value_or(0.0);
        if (middle_load <= 0) continue;
        const auto [low, high] = std::minmax_element(row.begin(), row.end());
        range.first = std::min(range.first, *low / middle_load);
        range.second = std::max(range.second, *high / middle_load);
      }
    }
  }
  return range;
}

Spec heat_chart(const Matrix& load, std::pair<double, double> range) {
  Json values = Json::array();
  for (std::size_t layer = 0; layer < load.size(); ++layer) {
    const double mean_load = mean(load[layer]).value_or(0.0);
    if (mean_load <= 0) continue;  // a layer without tokens has no balance to show
    for (std::size_t rank = 0; rank < load[layer].size(); ++rank) {
      values.push_back({{"layer", layer},
                        {"rank", rank},
                        {"tokens", load[layer][rank]},
                        {"ratio", rounded(load[layer][rank] / mean_load)}});
    }
  }
  const Json axis = {
      {"labelOverlap", true}, {"ticks", false}, {"domain", false}, {"labelAngle", 0}};
  const Json tips =
      Json::array({{{"field", "layer"}, {"title", "MoE layer"}},
                   {{"field", "rank"}, {"title", "rank"}},
                   {{"field", "ratio"}, {"title", "load / mean of layer"}, {"format", ".3f"}},
                   {{"field", "tokens"}, {"title", "tokens"}, {"format", ",.0f"}}});
  const Json encoding = {
      {"x", {{"field", "rank"}, {"type", "ordinal"}, {"title", "rank"}, {"axis", axis}}},
      {"y", {{"field", "layer"}, {"type", "ordinal"}, {"title", "MoE layer"}, {"axis", axis}}},
      {"color",
       {{"field", "ratio"},
        {"type", "quantitative"},
        {"legend", nullptr},
        {"scale",
         {{"domain", {rounded(range.first), rounded(range.second)}},
          {"domainMid", 1.0},
          {"range", "diverging"}}}}},
      {"tooltip", tips}};
  const int height = std::clamp(40 + 16 * static_cast<int>(load.size()), 90, 360);
  return finished({{"data", {{"values", values}}},
                   {"mark", {{"type", "rect"}, {"style", "heat"}}},
                   {"encoding", encoding}},
                  height);
}

}  // namespace swiftbalancer::observe
