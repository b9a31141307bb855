#include "planner/routing_traffic.hpp"

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

namespace swiftbalancer::testing {

RecordedRouting::RecordedRouting() {
  const std::string path =
      std::string(SWIFTBALANCER_SOURCE_DIR) + "/tests/planner/data/tinymoe_routing_u8.bin";
  std::ifstream file(path, std::ios::binary);
  ids_.assign(std::istreambuf_iterator<char>(file), {});
  if (ids_.size() != std::size_t{kDomains} * kRequests * kTokens * kLayers * kTopK) {
    throw std::runtime_error(path + " is missing or has the wrong size");
  }
}

ClusterShape RecordedRouting::shape() {
  return ClusterShape({.num_moe_layers = kLayers,
                       .num_logical_experts = kExperts,
                       .num_ranks = 8,
                       .num_slots = 80});
}

RoutingTraffic::RoutingTraffic(const RecordedRouting& routing, int concurrency, int domain,
                               unsigned seed)
    : routing_(routing),
      domain_(domain),
      random_(seed),
      requests_(static_cast<std::size_t>(concurrency)) {
  for (Request& request : requests_) request = fresh(true);
}

RoutingTraffic::Request RoutingTraffic::fresh(bool anywhere) {
  // Plain modulo: the same on every standard library.
  const auto draw = [&](int bound) {
    return static_cast<int>(random_() % static_cast<unsigned>(bound));
  };
  const int id = draw(RecordedRouting::kRequests);
  return {domain_, id, anywhere ? draw(RecordedRouting::kTokens) : 0};
}

void RoutingTraffic::switch_to(int domain) {
  domain_ = domain;
  for (Request& request : requests_) request = fresh(true);
}

ExpertLoad RoutingTraffic::next_step() {
  ExpertLoad load(RecordedRouting::kLayers, RecordedRouting::kExperts);
  for (Request& request : requests_) {
    if (request.token == RecordedRouting::kTokens) request = fresh(false);
    for (int layer = 0; layer < RecordedRouting::kLayers; ++layer) {
      for (int choice = 0; choice < RecordedRouting::kTopK; ++choice) {
        const int expert =
            routing_.expert(request.domain, request.id, request.token, layer, choice);
        ++load.layer(layer)[static_cast<std::size_t>(expert)];
      }
    }
    ++request.token;
  }
  return load;
}

}  // namespace swiftbalancer::testing
