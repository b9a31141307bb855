#pragma once
// How long a test waits for a peer, a thread or a process before it calls that a hang. It says
// nothing of speed: a test that comes near it is broken. The value stands in
// cmake/SwiftBalancerTests.cmake, beside ctest's limit for a whole test.

#include <chrono>

namespace swiftbalancer::testing_support {

inline constexpr std::chrono::seconds kWaitLimit{SWIFTBALANCER_WAIT_LIMIT_SECONDS};

}  // namespace swiftbalancer::testing_support
