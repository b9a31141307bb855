#pragma once
// The requests of a run: seeded excerpts and concatenations of a domain's prompts, the domain
// changing from segment to segment, so that the load on the experts drifts. A request's content
// depends on seed, request id and domain only, never on the number of ranks. Built once before the
// ranks start; immutable, thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model.hpp"

namespace swiftbalancer::engine {

enum class Sampling { kGreedy, kTemperature };

struct TrafficOptions {
  std::string prompts_file;  ///< JSON: {"domain": ["prompt", ...], ...}
  std::vector<std::string> domains = {"python", "man_zh", "metamath",
                                      "english"};  ///< One segment each, in order.
  int steps_per_segment = 100;
  double arrivals_per_step = 2.0;
  int num_requests =
      0;  ///< 0: as many as arrive in the segments. More than that prolong the last segment.
  int min_prompt_tokens = 48;
  int max_prompt_tokens = 144;
  int min_output_tokens = 8;
  int max_output_tokens = 24;
  std::uint64_t seed = 1;
  Sampling sampling = Sampling::kGreedy;
  double temperature = 1.0;  ///< For kTemperature.
};

struct Request {
  int id = 0;
  int segment = 0;
  std::uint64_t arrival_step = 1;
  std::vector<std::int32_t> prompt;
  int max_output_tokens = 0;
};

struct Segment {
  std::string domain;
  std::uint64_t first_step = 1;  ///< Of its first arrival.
};

struct Traffic {
  TrafficOptions options;
  std::vector<Request> requests;  ///< By id; arrival steps never fall.
  std::vector<Segment> segments;
  std::int64_t prompt_tokens = 0;
  std::uint64_t last_arrival_step = 0;
};

/// @throws Error kIo: prompts file missing or not as described; kInvalidArgument: a value out of
/// range (says the allowed
///         one), a domain the file does not have (lists those it has), requests longer than the
///         model's positions.
Traffic make_traffic(const TrafficOptions& options, const ModelInfo& model);

}  // namespace swiftbalancer::engine
