#pragma once
// Samples the loads of single steps from the load of a window: what a step of so many tokens would
// have routed, had they been drawn independently from the window's distribution (multinomial). Used
// by `replay` and by tests. A draw depends on its seed and step only. Thread-safe.

#include <cstdint>

#include <swiftbalancer/load.hpp>

namespace swiftbalancer::io {

/// @param window   tokens by layer and expert; a layer without any stays without.
/// @param assignments  token-expert assignments per layer (tokens times top-k), 0 to 2^40.
/// @returns per layer, counts that sum to `assignments`.
/// Cost: one binomial draw per layer and expert, about 50 ns each.
ExpertLoad sample_step(const ExpertLoad& window, std::int64_t assignments, std::uint64_t seed,
                       std::uint64_t step);

}  // namespace swiftbalancer::io
