// Only on the branch ops: stands in for the lead's implementation until the merge; delete it there.
#include "runtime/balancer_core.hpp"

namespace swiftbalancer {
struct Balancer::Impl : BalancerCore {
  using BalancerCore::BalancerCore;
};
void Balancer::set_mode(BalancingMode mode) noexcept { impl_->state.mode = mode; }
}  // namespace swiftbalancer
