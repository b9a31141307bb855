// The control: what a planner source may include compiles.
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>

#include "planner/planner.hpp"
