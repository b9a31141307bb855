#include "planner/registry.hpp"

#include <array>
#include <string>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {
namespace {

struct Entry {
  std::string_view name;
  std::unique_ptr<Policy> (*make)();
};

constexpr std::array kPolicies = {
    // sorted by name
    Entry{"eplb", make_eplb_policy},
    Entry{"static", make_static_policy},
    Entry{"stress", make_stress_policy},
    Entry{"swift", make_swift_policy},
};

}  // namespace

std::unique_ptr<Policy> make_policy(std::string_view name) {
  std::string known;
  for (const Entry& entry : kPolicies) {
    if (entry.name == name) return entry.make();
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw Error(ErrorCode::kInvalidArgument,
              "unknown policy '" + std::string(name) + "'; the policies are: " + known);
}

std::vector<std::string_view> policy_names() {
  std::vector<std::string_view> names;
  for (const Entry& entry : kPolicies) names.push_back(entry.name);
  return names;
}

}  // namespace swiftbalancer
