#include "engine/traffic.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>

#include "engine/random.hpp"

namespace swiftbalancer::engine {
namespace {

constexpr double kMaxRequests = 1e8;

using Prompts = std::map<std::string, std::vector<std::string>>;

[[noreturn]] void invalid(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message);
}

Prompts read_prompts(const std::string& path) {
  std::ifstream file(path);
  if (!file)
    throw Error(ErrorCode::kIo, "cannot read the prompts file \"" + path +
                                    "\": give a JSON file of prompts by domain");
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
  const std::string expected =
      "prompts file \"" + path + "\" must be a JSON object of domains, each a list of texts";
  if (!json.is_object()) throw Error(ErrorCode::kIo, expected);
  Prompts prompts;
  for (const auto& [domain, texts] : json.items()) {
    if (!texts.is_array()) throw Error(ErrorCode::kIo, expected + "; \"" + domain + "\" is none");
    for (const auto& text : texts) {
      if (!text.is_string()) throw Error(ErrorCode::kIo, expected + "; \"" + domain + "\" is none");
      if (!text.get_ref<const std::string&>().empty())
        prompts[domain].push_back(text.get<std::string>());
    }
  }
  return prompts;
}

void check_range(const char* what, int low, int high) {
  if (low < 1 || high < low) {
    invalid(std::string(what) + " tokens from " + std::to_string(low) + " to " +
            std::to_string(high) + ": the least must be at least 1 and the most not below it");
  }
}

void check_options(const TrafficOptions& options, const ModelInfo& model) {
  if (options.domains.empty())
    invalid("domains is empty: name at least one domain of the prompts file");
  if (options.steps_per_segment < 1) {
    invalid("steps_per_segment is " + std::to_string(options.steps_per_segment) +
            ": must be at least 1");
  }
  if (!(options.arrivals_per_step > 0.0) || options.arrivals_per_step > 1e6) {
    invalid("arrivals_per_step is " + std::to_string(options.arrivals_per_step) +
            ": must be above 0 and at most 1e6");
  }
  if (options.num_requests < 0) {
    invalid("num_requests is " + std::to_string(options.num_requests) +
            ": must be at least 1, or 0 for all that arrive");
  }
  check_range("prompt", options.min_prompt_tokens, options.max_prompt_tokens);
  check_range("output", options.min_output_tokens, options.max_output_tokens);
  if (options.max_prompt_tokens > model.max_positions - options.max_output_tokens) {
    invalid("max_prompt_tokens " + std::to_string(options.max_prompt_tokens) +
            " + max_output_tokens " + std::to_string(options.max_output_tokens) +
            ": the model has " + std::to_string(model.max_positions) + " positions");
  }
  if (options.sampling == Sampling::kTemperature && !(options.temperature > 0.0)) {
    invalid("temperature is " + std::to_string(options.temperature) +
            ": must be above 0; for 0 choose greedy sampling");
  }
}

const std::vector<std::string>& prompts_of(const Prompts& prompts, const std::string& domain,
                                           const std::string& file) {
  const auto found = prompts.find(domain);
  if (found != prompts.end()) return found->second;
  std::string names;
  for (const auto& [name, texts] : prompts) names += (names.empty() ? "" : ", ") + name;
  invalid("domain \"" + domain + "\" is not in the prompts file \"" + file + "\": it has " + names);
}

std::uint64_t hash_name(const std::string& name) {
  std::uint64_t hash = 0;
  for (const char c : name) hash = mix64(hash ^ static_cast<unsigned char>(c));
  return hash;
}

bool starts_character(char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }

// Begins anywhere in one prompt, at a character, and goes on with further prompts until it is long
// enough.
std::vector<std::int32_t> draw_prompt(const std::vector<std::string>& texts, std::uint64_t seed,
                                      std::uint64_t stream, int length) {
  std::uint64_t counter = 16;  // 0 to 15 are for the request itself
  std::vector<std::int32_t> tokens;
  while (tokens.size() < static_cast<std::size_t>(length)) {
    const std::string& text = texts[draw(seed, stream, counter++) % texts.size()];
    std::size_t at = tokens.empty() ? draw(seed, stream, counter++) % text.size() : 0;
    while (at > 0 && !starts_character(text[at])) --at;
    for (; at < text.size() && tokens.size() < static_cast<std::size_t>(length); ++at) {
      tokens.push_back(static_cast<unsigned char>(text[at]));
    }
  }
  return tokens;
}

}  // namespace

Traffic make_traffic(const TrafficOptions& options, const ModelInfo& model) {
  check_options(options, model);
  const Prompts prompts = read_prompts(options.prompts_file);
  Traffic traffic;
  traffic.options = options;
  for (const std::string& domain : options.domains) {
    const auto index = traffic.segments.size();
    traffic.segments.push_back(
        {domain, 1 + index * static_cast<std::uint64_t>(options.steps_per_segment)});
    prompts_of(prompts, domain, options.prompts_file);
  }
  const double in_segments = options.arrivals_per_step * options.steps_per_segment *
                             static_cast<double>(options.domains.size());
  if (options.num_requests == 0 && in_segments > kMaxRequests) {
    invalid("arrivals_per_step " + std::to_string(options.arrivals_per_step) +
            " x steps_per_segment " + std::to_string(options.steps_per_segment) + " x " +
            std::to_string(options.domains.size()) +
            " domains: more than 100000000 requests; lower them, or set num_requests");
  }
  const int count = options.num_requests > 0
                        ? options.num_requests
                        : std::max(1, static_cast<int>(std::floor(in_segments)));
  const int last_segment = static_cast<int>(traffic.segments.size()) - 1;
  for (int id = 0; id < count; ++id) {
    Request request;
    request.id = id;
    const auto steps_before =
        static_cast<std::uint64_t>(std::floor(id / options.arrivals_per_step));
    request.arrival_step = 1 + steps_before;
    request.segment = static_cast<int>(
        std::min(steps_before / static_cast<std::uint64_t>(options.steps_per_segment),
                 static_cast<std::uint64_t>(last_segment)));
    const std::string& domain = traffic.segments[static_cast<std::size_t>(request.segment)].domain;
    const std::uint64_t stream = hash_name(domain) ^ static_cast<std::uint64_t>(id);
    const int length =
        draw_between(options.seed, stream, 0, options.min_prompt_tokens, options.max_prompt_tokens);
    request.max_output_tokens =
        draw_between(options.seed, stream, 1, options.min_output_tokens, options.max_output_tokens);
    request.prompt = draw_prompt(prompts.at(domain), options.seed, stream, length);
    traffic.prompt_tokens += length;
    traffic.last_arrival_step = request.arrival_step;
    traffic.requests.push_back(std::move(request));
  }
  std::erase_if(traffic.segments, [&](const Segment& segment) {
    return segment.first_step > traffic.last_arrival_step;
  });
  return traffic;
}

}  // namespace swiftbalancer::engine
