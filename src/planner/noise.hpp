#pragma once
// How uneven a sample of even loads looks: what no plan can win. Used by the planner and plan jobs;
// pure.

namespace swiftbalancer {

/// What sampling noise alone adds to the imbalance of a layer that is in truth even, on average.
/// @param tokens of the layer in the sample.
double noise_imbalance(int num_ranks, double tokens, double dispersion);

}  // namespace swiftbalancer
