// What an engine does with the library, in small: two ranks as threads, two experts each, static
// placement, ten steps. Includes every public header, so that each one is proven to stand on what
// is installed.

#include <array>
#include <cstdio>
#include <cstdlib>
#include <latch>
#include <thread>
#include <vector>

#include <swiftbalancer/balancer.hpp>
#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/model_registration.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>
#include <swiftbalancer/shape.hpp>
#include <swiftbalancer/transport.hpp>

namespace {

using namespace swiftbalancer;

constexpr std::uint64_t kSteps = 10;

void check(bool condition, const char* what) {
  if (condition) return;
  std::printf("consumer: not true: %s\n", what);
  std::exit(1);
}

void run_rank(const ClusterShape& shape, std::unique_ptr<Transport> transport,
              std::latch& finished) {
  const int rank = transport->rank();
  const int num_slots = shape.slots_per_rank(rank);
  BalancerConfig config;
  config.policy = "static";
  Balancer balancer(shape, config, std::move(transport));
  std::vector<std::array<std::byte, 64>> weights(static_cast<std::size_t>(num_slots));
  for (int slot = 0; slot < num_slots; ++slot) {
    auto& bytes = weights[static_cast<std::size_t>(slot)];
    const std::array parts{WeightPart{bytes.data(), bytes.size()}};
    balancer.register_weights(0, slot, parts);
  }
  balancer.start(Placement::initial(shape));
  const ModelRegistration model(
      balancer, R"({"model_type": "qwen3_moe", "num_hidden_layers": 1, "num_experts": 3})");
  for (std::uint64_t step = 1; step <= kSteps; ++step) {
    balancer.begin_step({.step = step, .phase = Phase::kDecode}).throw_if_failed();
    const std::int32_t slot = balancer.dispatch_table(0).slot(0, 0);
    check(balancer.placement().layer(0)[static_cast<std::size_t>(slot)] == 0,
          "expert 0 is sent to a slot that holds it");
    const std::vector<std::uint32_t> counts(static_cast<std::size_t>(num_slots), 5);
    balancer.record(0, counts);
    balancer.end_step().throw_if_failed();
  }
  check(balancer.stats().steps == kSteps, "all steps are counted");
  check(model.get_all_moe_loads() == std::vector<std::int64_t>(weights.size(), 5 * kSteps),
        "the loads of a registered model add up");
  check(balancer.stats().moves == 0, "the static policy moves nothing");
  check(balancer.health().ok, "the balancer is healthy");
  // Nobody leaves while the other still needs its packets.
  finished.arrive_and_wait();
}

}  // namespace

int main() {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 3, .num_ranks = 2, .num_slots = 4});
  const std::vector<double> loads =
      rank_load(shape, Placement::initial(shape).layer(0), {}, std::vector<std::int64_t>{8, 4, 4});
  check(imbalance(loads) >= 1.0, "imbalance is at least 1");
  check(policy_names().size() >= 3, "the policies are linked in");

  auto transports = make_thread_transports(shape.num_ranks());
  std::latch finished(shape.num_ranks());
  std::vector<std::jthread> ranks;
  for (auto& transport : transports) {
    ranks.emplace_back(
        [&shape, &finished, &transport] { run_rank(shape, std::move(transport), finished); });
  }
  ranks.clear();
  std::printf("consumer: %d ranks made %llu steps\n", shape.num_ranks(),
              static_cast<unsigned long long>(kSteps));
}
