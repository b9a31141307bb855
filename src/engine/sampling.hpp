#pragma once
// Choice of the next token. Pure, thread-safe; the draw is keyed by request and position, so it is
// the same on any rank.

#include <cstdint>
#include <span>

#include "engine/traffic.hpp"

namespace swiftbalancer::engine {

/// @param logits [vocab_size], scratched. @param position of the token that is chosen. Greedy: the
/// best, ties by id.
std::int32_t choose_token(std::span<float> logits, const TrafficOptions& options, int request,
                          int position);

}  // namespace swiftbalancer::engine
