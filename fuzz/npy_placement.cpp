// Placement files: placements as .npy files.

#include "placement_round_trip.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftbalancer::fuzz;
  placement_round_trip("npy", std::string(text_of(data, size)));
  return 0;
}
