#include "simulation/sim_options.hpp"

#include <random>
#include <sstream>

namespace swiftbalancer::simulation {

SimOptions SimOptions::draw(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto pick = [&random](std::initializer_list<int> values) {
    return *(values.begin() + static_cast<std::ptrdiff_t>(random() % values.size()));
  };
  SimOptions options;
  options.seed = seed;
  options.num_ranks = pick({1, 2, 2, 3, 3, 4, 8, 16});
  options.num_moe_layers = pick({1, 2, 3, 5});
  options.num_logical_experts = options.num_ranks * pick({1, 2}) + pick({0, 1, 2});
  options.num_slots = options.num_logical_experts + pick({0, 1, 2, 5});
  options.packet_interval = static_cast<std::uint64_t>(pick({1, 1, 2, 3}));
  options.packet_lag = static_cast<std::uint64_t>(pick({1, 2, 3, 5}));
  options.rebalance_interval = static_cast<std::uint64_t>(pick({1, 2, 4, 8}));
  options.max_open_sets = static_cast<std::uint64_t>(pick({3, 10, 100}));
  options.staging_experts = pick({1, 2, 3, 8});
  options.install_mode = pick({0, 1}) == 0 ? InstallMode::kSwap : InstallMode::kCopy;
  options.control_mode = pick({0, 0, 1}) == 0 ? ControlMode::kReplicated : ControlMode::kLeader;
  options.can_cancel = pick({0, 1}) == 1;
  options.slow_senders = pick({0, 1}) == 1;
  options.num_steps =
      static_cast<std::uint64_t>(options.num_ranks >= 8 ? pick({12, 20}) : pick({20, 40}));
  options.copy_failure = pick({0, 0, 5, 20});
  options.send_failure = pick({0, 0, 5});
  options.planner_failure = pick({0, 0, 5});
  options.planner_differs = pick({0, 0, 5});
  options.planner_loss = pick({0, 0, 3});
  options.early_request = pick({0, 10, 50});
  options.slow_copies = pick({0, 50, 95});
  options.idle = pick({0, 30});
  options.mode_change = pick({0, 0, 5});
  options.deaths = pick({0, 0, 1, 2});
  options.joins = pick({0, 0, 1});
  options.gather_failures = pick({0, 0, 1});
  if (options.deaths > 0 || options.joins > 0) options.num_slots += options.num_ranks * 2;
  return options;
}

std::vector<SimOptions> SimOptions::simpler() const {
  std::vector<SimOptions> variants;
  const auto with = [&](auto member, auto value) {
    SimOptions variant = *this;
    if (variant.*member == value) return;
    variant.*member = value;
    variants.push_back(variant);
  };
  for (auto fault :
       {&SimOptions::copy_failure, &SimOptions::send_failure, &SimOptions::planner_failure,
        &SimOptions::planner_differs, &SimOptions::planner_loss, &SimOptions::early_request,
        &SimOptions::idle, &SimOptions::slow_copies, &SimOptions::mode_change, &SimOptions::deaths,
        &SimOptions::joins, &SimOptions::gather_failures})
    with(fault, 0);
  with(&SimOptions::num_moe_layers, 1);
  with(&SimOptions::packet_interval, std::uint64_t{1});
  with(&SimOptions::can_cancel, true);
  with(&SimOptions::slow_senders, false);
  with(&SimOptions::control_mode, ControlMode::kReplicated);
  with(&SimOptions::install_mode, InstallMode::kSwap);
  if (num_steps > 5) with(&SimOptions::num_steps, num_steps * 2 / 3);
  if (num_ranks > 2) {
    with(&SimOptions::num_ranks, num_ranks / 2);
    with(&SimOptions::num_ranks, num_ranks - 1);
  }
  return variants;
}

std::string SimOptions::to_string() const {
  std::ostringstream out;
  out << "seed " << seed << ": ranks " << num_ranks << " layers " << num_moe_layers << " experts "
      << num_logical_experts << " slots " << num_slots << " interval " << packet_interval << " lag "
      << packet_lag << " rebalance " << rebalance_interval << " open sets " << max_open_sets
      << " pool " << staging_experts << " steps " << num_steps << " mode "
      << (install_mode == InstallMode::kSwap ? "swap" : "copy")
      << (control_mode == ControlMode::kLeader ? " leader" : " replicated")
      << (can_cancel ? " cancel" : " no-cancel") << (slow_senders ? " slow-senders" : "")
      << " copy_failure " << copy_failure << " send_failure " << send_failure
      << " planner failure/differs/loss " << planner_failure << '/' << planner_differs << '/'
      << planner_loss << " early " << early_request << " slow " << slow_copies << " modes "
      << mode_change << " deaths " << deaths << " joins " << joins << " gather_failures "
      << gather_failures;
  return out.str();
}

}  // namespace swiftbalancer::simulation
