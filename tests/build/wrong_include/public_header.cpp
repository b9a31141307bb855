// A planner source may not know the transport or what stands above it: this must not compile.
#include <swiftbalancer/transport.hpp>
