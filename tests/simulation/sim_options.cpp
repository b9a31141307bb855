#include "simulation/sim_options.hpp"

#include <algorithm>
#include <limits>
#include <random>
#include <sstream>

namespace swiftbalancer::simulation {
namespace {

// What is drawn from, in the order of drawing.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : random_(seed) {}
  int pick(std::initializer_list<int> values) {
    return *(values.begin() + static_cast<std::ptrdiff_t>(random_() % values.size()));
  }
  std::uint64_t pick_count(std::initializer_list<int> values) {
    return static_cast<std::uint64_t>(pick(values));
  }
  bool flip() { return pick({0, 1}) == 1; }

 private:
  std::mt19937_64 random_;
};

// Faults, and what makes something of itself begin.
constexpr int SimOptions::* kFaultOptions[] = {
    &SimOptions::copy_failure,    &SimOptions::send_failure, &SimOptions::planner_failure,
    &SimOptions::planner_differs, &SimOptions::planner_loss, &SimOptions::planner_throws,
    &SimOptions::early_request,   &SimOptions::slow_copies,  &SimOptions::stuck_copies,
    &SimOptions::slow_loads,      &SimOptions::mode_change,  &SimOptions::deaths,
    &SimOptions::joins,           &SimOptions::bad_joins,    &SimOptions::gather_failures,
    &SimOptions::damages,         &SimOptions::losses,       &SimOptions::timeouts,
    &SimOptions::change_timeouts, &SimOptions::load_failures};

void draw_shape(SimOptions& options, Draws& draws) {
  options.num_ranks = draws.pick({1, 2, 2, 3, 3, 4, 8, 16});
  options.num_moe_layers = draws.pick({1, 2, 3, 5});
  options.num_logical_experts = options.num_ranks * draws.pick({1, 2}) + draws.pick({0, 1, 2});
  options.num_slots = options.num_logical_experts + draws.pick({0, 1, 2, 5});
  options.uneven_slots = draws.flip();
  options.nodes = static_cast<Nodes>(draws.pick({0, 1, 2}));
  options.install_mode = draws.flip() ? InstallMode::kCopy : InstallMode::kSwap;
  options.num_parts = draws.pick({1, 2, 3});
  options.uneven_parts = options.install_mode == InstallMode::kCopy && draws.flip();
  options.staging_experts = draws.pick({1, 2, 3, 8});
}

void draw_configuration(SimOptions& options, Draws& draws) {
  options.packet_interval = draws.pick_count({1, 1, 2, 3});
  options.packet_lag = draws.pick_count({1, 2, 3, 5});
  options.rebalance_interval = draws.pick_count({1, 2, 4, 8, 0});
  if (options.rebalance_interval == 0)  // only who asks for it gets one
    options.rebalance_interval = std::numeric_limits<std::uint64_t>::max();
  // At least what a plan needs, on a rank that is configured with a longer lag too.
  const std::uint64_t least = options.packet_lag / options.packet_interval + 1;
  options.max_open_sets = std::max(draws.pick_count({3, 10, 100}), least);
  options.max_active_sets = std::max(draws.pick_count({4, 12, 10'000}), least);
  options.copies_per_step = draws.pick({0, 1, 2});
  options.control_mode =
      draws.pick({0, 0, 1}) == 0 ? ControlMode::kReplicated : ControlMode::kLeader;
  const int tables = draws.pick({0, 0, 1, 2});
  options.decode_tables = tables == 1;
  options.draw_tables = tables == 2;
  options.num_steps =
      options.num_ranks >= 8 ? draws.pick_count({12, 20}) : draws.pick_count({20, 40});
  options.barrier = draws.flip();
  options.phases = static_cast<Phases>(draws.pick({0, 1, 2}));
  options.uneven_shares = draws.flip();
  options.can_cancel = draws.flip();
  options.slow_senders = draws.flip();
  options.ring_bytes = draws.pick({0, 0, 64, 512, 4096});
  options.blocking = draws.pick({0, 0, 0, 0, 0, 0, 0, 1}) == 1;
  options.planner_restarts = draws.pick({-1, -1, 0, 3});
}

void draw_faults(SimOptions& options, Draws& draws) {
  options.copy_failure = draws.pick({0, 0, 5, 20});
  options.send_failure = draws.pick({0, 0, 5});
  options.planner_failure = draws.pick({0, 0, 5});
  options.planner_differs = draws.pick({0, 0, 5});
  options.planner_loss = draws.pick({0, 0, 0, 3});
  options.planner_throws = draws.pick({0, 0, 0, 1});
  options.early_request = draws.pick({0, 10, 50, 100});
  options.slow_copies = draws.pick({0, 50, 95});
  options.stuck_copies = draws.pick({0, 0, 20});
  options.slow_loads = draws.pick({0, 0, 90});
  options.idle = draws.pick({0, 30});
  options.mode_change = draws.pick({0, 0, 5});
  const int most_deaths = options.num_ranks - 1;
  options.deaths = std::min(most_deaths, draws.pick({0, 0, 1, 2, most_deaths}));
  options.silent_deaths = draws.flip();
  options.joins = options.deaths > 0 ? draws.pick({0, 0, 1, 3}) : 0;
  options.bad_joins = draws.pick({0, 0, 0, 1});
  options.gather_failures = draws.pick({0, 0, 1, 3});
  options.damages = draws.pick({0, 0, 0, 2});
  options.losses = options.control_mode == ControlMode::kLeader ? draws.pick({0, 0, 2}) : 0;
  options.timeouts = draws.pick({0, 0, 0, 2});
  options.change_timeouts = draws.pick({0, 0, 0, 2});
  options.load_failures = draws.pick({0, 0, 0, 1});
  // The ranks left need room for all experts.
  if (options.deaths > 0) options.num_slots += options.num_ranks * 2;
  if (options.deaths > 2) options.num_slots += options.num_logical_experts;
}

}  // namespace

SimOptions SimOptions::draw(std::uint64_t seed) {
  Draws draws(seed);
  SimOptions options;
  options.seed = seed;
  draw_shape(options, draws);
  draw_configuration(options, draws);
  draw_faults(options, draws);
  return options;
}

void SimOptions::clear_faults() {
  for (auto fault : kFaultOptions) this->*fault = 0;
}

ShapeOptions SimOptions::shape() const {
  ShapeOptions shape;
  shape.num_moe_layers = num_moe_layers;
  shape.num_logical_experts = num_logical_experts;
  shape.num_ranks = num_ranks;
  shape.num_slots = num_slots;
  std::mt19937_64 random(seed * 7 + 3);
  if (uneven_slots) {
    shape.slots_per_rank.assign(static_cast<std::size_t>(num_ranks), 1);
    for (int left = num_slots - num_ranks; left > 0; --left)
      ++shape.slots_per_rank[random() % shape.slots_per_rank.size()];
  }
  for (int rank = 0; nodes != Nodes::kOne && num_ranks > 1 && rank < num_ranks; ++rank)
    shape.node_of_rank.push_back(nodes == Nodes::kBlocks ? rank * 2 / num_ranks : rank % 2);
  return shape;
}

std::vector<SimOptions> SimOptions::simpler() const {
  std::vector<SimOptions> variants;
  const auto with = [&](auto member, auto value) {
    SimOptions variant = *this;
    if (variant.*member == value) return;
    variant.*member = value;
    variants.push_back(variant);
  };
  for (auto fault : kFaultOptions) with(fault, 0);
  for (auto feature : {&SimOptions::idle, &SimOptions::ring_bytes, &SimOptions::copies_per_step})
    with(feature, 0);
  for (auto feature :
       {&SimOptions::uneven_slots, &SimOptions::uneven_parts, &SimOptions::decode_tables,
        &SimOptions::draw_tables, &SimOptions::uneven_shares, &SimOptions::slow_senders,
        &SimOptions::silent_deaths, &SimOptions::blocking})
    with(feature, false);
  with(&SimOptions::barrier, true);
  with(&SimOptions::can_cancel, true);
  with(&SimOptions::nodes, Nodes::kOne);
  with(&SimOptions::phases, Phases::kAllDecode);
  with(&SimOptions::num_parts, 1);
  with(&SimOptions::num_moe_layers, 1);
  with(&SimOptions::planner_restarts, -1);
  with(&SimOptions::packet_interval, std::uint64_t{1});
  with(&SimOptions::control_mode, ControlMode::kReplicated);
  if (!uneven_parts) with(&SimOptions::install_mode, InstallMode::kSwap);
  if (num_steps > 5) with(&SimOptions::num_steps, num_steps * 2 / 3);
  if (num_ranks > 2) {
    with(&SimOptions::num_ranks, num_ranks / 2);
    with(&SimOptions::num_ranks, num_ranks - 1);
  }
  return variants;
}

std::string SimOptions::to_string() const {
  std::ostringstream out;
  constexpr const char* kNodeNames[] = {"one node", "nodes in blocks", "interleaved nodes"};
  constexpr const char* kPhaseNames[] = {"decode", "phases per step", "phases per rank"};
  out << "seed " << seed << ": ranks " << num_ranks << " layers " << num_moe_layers << " experts "
      << num_logical_experts << " slots " << num_slots << (uneven_slots ? " uneven, " : ", ")
      << kNodeNames[static_cast<int>(nodes)] << ", parts " << num_parts
      << (uneven_parts ? " uneven" : "") << ", interval " << packet_interval << " lag "
      << packet_lag << " rebalance " << rebalance_interval << " open sets " << max_open_sets
      << " active sets " << max_active_sets << " copies a step " << copies_per_step << " pool "
      << staging_experts << " steps " << num_steps
      << (install_mode == InstallMode::kSwap ? " swap" : " copy")
      << (control_mode == ControlMode::kLeader ? " leader" : " replicated")
      << (decode_tables ? " decode-tables" : "") << (draw_tables ? " draw-tables" : "")
      << (barrier ? " barrier, " : " free-running, ") << kPhaseNames[static_cast<int>(phases)]
      << (uneven_shares ? ", shares" : "") << (can_cancel ? ", cancel" : ", no-cancel")
      << (slow_senders ? " slow-senders" : "") << (blocking ? " blocking" : "") << ", ring "
      << ring_bytes;
  const auto say = [&out](const char* name, int value) {
    if (value > 0) out << ' ' << name << ' ' << value;
  };
  out << "; faults:";
  say("planner_restarts", planner_restarts + 1);
  say("copy_failure", copy_failure);
  say("send_failure", send_failure);
  say("planner_failure", planner_failure);
  say("planner_differs", planner_differs);
  say("planner_loss", planner_loss);
  say("planner_throws", planner_throws);
  say("early", early_request);
  say("slow", slow_copies);
  say("stuck", stuck_copies);
  say("slow_loads", slow_loads);
  say("idle", idle);
  say("modes", mode_change);
  say("deaths", deaths);
  say("silent", silent_deaths ? 1 : 0);
  say("joins", joins);
  say("bad_joins", bad_joins);
  say("gather_failures", gather_failures);
  say("damages", damages);
  say("losses", losses);
  say("timeouts", timeouts);
  say("change_timeouts", change_timeouts);
  say("load_failures", load_failures);
  return out.str();
}

}  // namespace swiftbalancer::simulation
