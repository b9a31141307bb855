#pragma once
// Traffic with recorded routing for planner tests: a fixed number of requests is served at a time,
// each emits one token a step and is replaced by another of its domain when it ends. Tokens of a
// request are alike, so loads are noisier than independent tokens: what a planner meets in service.
// Seeded; single thread.

#include <cstdint>
#include <random>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer::testing {

/// data/tinymoe_routing_u8.bin, see data/README.md.
class RecordedRouting {
 public:
  static constexpr int kDomains = 4, kRequests = 40, kTokens = 128, kLayers = 4, kTopK = 4,
                       kExperts = 64;
  RecordedRouting();
  /// All of its layers, on 8 ranks with 80 slots.
  static ClusterShape shape();
  int expert(int domain, int request, int token, int layer, int choice) const {
    const std::size_t at = static_cast<std::size_t>(
        (((domain * kRequests + request) * kTokens + token) * kLayers + layer) * kTopK + choice);
    return ids_[at];
  }

 private:
  std::vector<std::uint8_t> ids_;
};

class RoutingTraffic {
 public:
  static constexpr int kRequests = 256;  ///< At a time, where a test does not ask for others.
  RoutingTraffic(const RecordedRouting& routing, int concurrency, int domain, unsigned seed);
  /// All running requests are replaced by requests of another domain.
  void switch_to(int domain);
  /// From now on requests that end are replaced by requests of this domain.
  void drift_to(int domain) { domain_ = domain; }
  /// The load of the next step: concurrency * top-k assignments per layer.
  ExpertLoad next_step();

 private:
  struct Request {
    int domain, id, token;
  };
  Request fresh(bool anywhere);

  const RecordedRouting& routing_;
  int domain_;
  std::mt19937 random_;
  std::vector<Request> requests_;
};

}  // namespace swiftbalancer::testing
