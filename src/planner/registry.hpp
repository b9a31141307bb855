#pragma once
// The policies that exist, one factory per file. A new policy is one file, one line here and one in
// registry.cpp.

#include <memory>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

std::unique_ptr<Policy> make_eplb_policy();
std::unique_ptr<Policy> make_static_policy();
std::unique_ptr<Policy> make_stress_policy();
std::unique_ptr<Policy> make_swift_policy();

}  // namespace swiftbalancer
