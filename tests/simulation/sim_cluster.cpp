#include "simulation/sim_cluster.hpp"

#include <algorithm>
#include <cstring>
#include <sstream>

namespace swiftbalancer::simulation {
namespace {

// An expert's weights name it, so that wrong bytes are seen wherever they turn up.
struct Weights {
  std::int32_t layer = -1;
  std::int32_t expert = -1;
  std::uint64_t filler = 0x5A5A5A5A5A5A5A5AULL;
};

// A random legal plan: swaps and overwrites of replicas. The same on every rank for the same base
// and seed.
Plan random_plan(const ServedState& base, const ClusterShape& shape, std::uint64_t seed) {
  std::mt19937_64 random(seed * 7919 + 17);
  Plan plan;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    if (random() % 4 == 0) continue;
    const auto now = base.placement.layer(layer);
    std::vector<std::int32_t> next(now.begin(), now.end());
    for (std::uint64_t change = random() % 4; change-- > 0;) {
      auto& a = next[random() % next.size()];
      auto& b = next[random() % next.size()];
      if (random() % 2 == 0) {
        std::swap(a, b);
      } else if (std::ranges::count(next, b) > 1) {
        b = a;
      }
    }
    LayerChange entry;
    entry.moe_layer_id = layer;
    entry.plan.placement = next;
    entry.plan.shares = even_shares(next, shape.num_logical_experts());
    entry.plan.moves = count_moves(now, next, shape);
    plan.changes.push_back(std::move(entry));
  }
  std::ranges::shuffle(plan.changes, random);
  return plan;
}

// Takes a number of rounds that differs between ranks; may fail.
class SimPlanJob final : public PlanJob {
 public:
  SimPlanJob(Plan plan, int rounds, bool fails)
      : plan_(std::move(plan)), rounds_(rounds), fails_(fails) {}
  bool advance() override {
    if (--rounds_ > 0) return false;
    if (fails_) throw std::runtime_error("simulated planner failure");
    return true;
  }
  Plan take() override { return plan_; }

 private:
  Plan plan_;
  int rounds_;
  bool fails_;
};

ShapeOptions shape_options(const SimOptions& options) {
  ShapeOptions shape;
  shape.num_moe_layers = options.num_moe_layers;
  shape.num_logical_experts = options.num_logical_experts;
  shape.num_ranks = options.num_ranks;
  shape.num_slots = options.num_slots;
  return shape;
}

}  // namespace

SimOptions SimOptions::draw(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto pick = [&random](std::initializer_list<int> values) {
    return *(values.begin() + static_cast<std::ptrdiff_t>(random() % values.size()));
  };
  SimOptions options;
  options.seed = seed;
  options.num_ranks = pick({1, 2, 2, 3, 3, 8, 16});
  options.num_moe_layers = pick({1, 2, 3, 5});
  options.num_logical_experts = options.num_ranks * pick({1, 2}) + pick({0, 1, 2});
  options.num_slots = options.num_logical_experts + pick({0, 1, 2, 5});
  options.packet_interval = static_cast<std::uint64_t>(pick({1, 1, 2, 3}));
  options.packet_lag = static_cast<std::uint64_t>(pick({1, 2, 3, 5}));
  options.rebalance_interval = static_cast<std::uint64_t>(pick({1, 2, 4, 8}));
  options.max_open_sets = static_cast<std::uint64_t>(pick({3, 10, 100}));
  options.staging_experts = pick({1, 2, 3, 8});
  options.install_mode = pick({0, 1}) == 0 ? InstallMode::kSwap : InstallMode::kCopy;
  options.num_steps =
      static_cast<std::uint64_t>(options.num_ranks >= 8 ? pick({12, 20}) : pick({20, 40}));
  options.copy_failure = pick({0, 0, 5, 20});
  options.planner_failure = pick({0, 0, 5});
  options.planner_differs = pick({0, 0, 5});
  options.early_request = pick({0, 10, 50});
  options.slow_copies = pick({0, 50, 95});
  options.idle = pick({0, 30});
  return options;
}

std::string SimOptions::to_string() const {
  std::ostringstream out;
  out << "seed " << seed << ": ranks " << num_ranks << " layers " << num_moe_layers << " experts "
      << num_logical_experts << " slots " << num_slots << " interval " << packet_interval << " lag "
      << packet_lag << " rebalance " << rebalance_interval << " open sets " << max_open_sets
      << " pool " << staging_experts << " mode "
      << (install_mode == InstallMode::kSwap ? "swap" : "copy") << " faults " << copy_failure << '/'
      << planner_failure << '/' << planner_differs << '/' << early_request << '/' << slow_copies;
  return out.str();
}

struct SimCluster::Rank {
  int id = 0;
  std::unique_ptr<BalancerCore> core;
  std::vector<Weights> memory;  // [layer][local slot]
  std::map<std::uint64_t, ExpertLoad>
      routed;  // window's last step -> tokens of this rank's slots, by expert
  ExpertLoad window;
  std::uint64_t finished = 0;  // steps ended
};

SimCluster::SimCluster(const SimOptions& options)
    : options_(options),
      random_(options.seed * 31 + 5),
      shape_(shape_options(options)),
      network_(options.num_ranks) {
  const Placement initial = Placement::initial(shape_);
  BalancerConfig config;
  config.policy = "static";  // begin_plan() below plans instead
  config.rebalance_interval = options.rebalance_interval;
  config.packet_interval = options.packet_interval;
  config.packet_lag = options.packet_lag;
  config.max_open_sets = options.max_open_sets;
  config.install_mode = options.install_mode;
  config.deadline = std::chrono::milliseconds(
      1);  // Nothing is ever waited for here: a wait is a violation, told at once.
  config.staging_bytes = static_cast<std::size_t>(options.staging_experts) * sizeof(Weights);
  for (int id = 0; id < options.num_ranks; ++id) {
    auto rank = std::make_unique<Rank>();
    rank->id = id;
    rank->window = ExpertLoad(shape_.num_moe_layers(), shape_.num_logical_experts());
    rank->core = std::make_unique<BalancerCore>(shape_, config,
                                                std::make_unique<SimTransport>(network_, id));
    const int slots = shape_.slots_per_rank(id);
    rank->memory.resize(static_cast<std::size_t>(shape_.num_moe_layers() * slots));
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      for (int slot = 0; slot < slots; ++slot) {
        Weights& weights = rank->memory[static_cast<std::size_t>(layer * slots + slot)];
        weights = {layer,
                   initial.layer(layer)[static_cast<std::size_t>(shape_.first_slot(id) + slot)]};
        const WeightPart part{reinterpret_cast<std::byte*>(&weights), sizeof weights};
        rank->core->register_weights(layer, slot, {&part, 1});
      }
    }
    rank->core->serve(initial);
    rank->core->make_worker(
        [this, id](std::uint64_t generation) { return begin_plan(id, generation); });
    ranks_.push_back(std::move(rank));
  }
}

SimCluster::~SimCluster() = default;

void SimCluster::violated(const std::string& what) const {
  throw Violation(what + "  [" + options_.to_string() + "]");
}

std::unique_ptr<PlanJob> SimCluster::begin_plan(int rank, std::uint64_t generation) {
  ServedState base;
  base.placement = ranks_[static_cast<std::size_t>(rank)]->core->placement;
  // The engine thread may be ahead of its worker; the base is what the first rank served when the
  // generation was opened, and the plan's hash (base epochs, sources) shows when another rank's
  // base differs.
  base = base_of_generation_.try_emplace(generation, base).first->second;
  if (chance(options_.planner_failure))
    throw std::runtime_error("simulated planner that does not start");
  std::uint64_t seed = options_.seed * 1000 + generation;
  if (chance(options_.planner_differs)) seed += static_cast<std::uint64_t>(rank) + 1;
  return std::make_unique<SimPlanJob>(random_plan(base, shape_, seed),
                                      1 + static_cast<int>(random_() % 6),
                                      chance(options_.planner_failure));
}

bool SimCluster::can_begin(const Rank& rank) const {
  if (rank.core->in_step || rank.finished >= options_.num_steps) return false;
  rank.core->take_reports();
  const auto due = rank.core->agreement.set_due(rank.finished + 1);
  return !due || rank.core->ready_step >= *due;
}

// A forward is an all-to-all: nobody ends a step that somebody has not begun.
bool SimCluster::can_end(const Rank& rank) const {
  return rank.core->in_step && std::ranges::all_of(ranks_, [&](const auto& peer) {
           return peer->core->step >= rank.core->step;
         });
}

void SimCluster::begin(Rank& rank) {
  const Status status =
      rank.core->begin_step({rank.finished + 1, Phase::kDecode, chance(options_.idle)});
  if (!status.ok()) violated("begin_step failed: " + status.message());
  if (rank.core->stats.waits_for_plans + rank.core->stats.waits_for_copies > 0)
    violated("the engine waited for a plan or a copy");
  for (const BalancerEvent& event : rank.core->events) {
    if (rank.id != 0) continue;
    result_.commits += event.kind == BalancerEventKind::kCommitted ? 1 : 0;
    result_.drops += event.kind == BalancerEventKind::kDropped ? 1 : 0;
    result_.superseded += event.reason == Reason::kSuperseded ? 1 : 0;
    result_.adopted += event.kind == BalancerEventKind::kAdopted ? 1 : 0;
    result_.closed += event.kind == BalancerEventKind::kClosed ? 1 : 0;
  }
  check_forward(rank);
  route_tokens(rank);
}

// Tokens that a step sends to this rank's slots: known from step, layer and slot, so that loads can
// be checked.
void SimCluster::route_tokens(Rank& rank) {
  const int slots = shape_.slots_per_rank(rank.id);
  std::vector<std::uint32_t> counts(static_cast<std::size_t>(slots));
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    for (int slot = 0; slot < slots; ++slot) {
      counts[static_cast<std::size_t>(slot)] = static_cast<std::uint32_t>(random_() % 100);
      const auto expert = rank.core->placement.layer(
          layer)[static_cast<std::size_t>(shape_.first_slot(rank.id) + slot)];
      rank.window.layer(layer)[static_cast<std::size_t>(expert)] +=
          counts[static_cast<std::size_t>(slot)];
    }
    rank.core->record(layer, counts);
  }
}

void SimCluster::end(Rank& rank) {
  check_slots(rank);  // weights never change during a forward
  if (chance(options_.early_request)) rank.core->wants_rebalance = true;
  const Status status = rank.core->end_step();
  if (!status.ok()) violated("end_step failed: " + status.message());
  rank.core->wants_rebalance = false;
  ++rank.finished;
  if (rank.core->agreement.packet_due(rank.finished)) {
    rank.routed[rank.finished] = std::exchange(
        rank.window, ExpertLoad(shape_.num_moe_layers(), shape_.num_logical_experts()));
  }
}

// Invariants 1, 2, 8: all ranks run a step on the same placement and the same agreed state.
void SimCluster::check_forward(const Rank& rank) {
  const auto mine = std::pair(rank.core->placement, rank.core->agreement.digest());
  const auto [first, is_new] = forwards_.try_emplace(rank.core->step, mine);
  if (!is_new && first->second != mine) {
    violated("rank " + std::to_string(rank.id) + " runs step " + std::to_string(rank.core->step) +
             " on another agreed state than its peers");
  }
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    // Invariant 5: every logical expert always has a slot.
    if (!is_valid_layer(rank.core->placement.layer(layer), shape_))
      violated("layer " + std::to_string(layer) + " lost an expert");
    // Invariant 3: routing never names a slot that does not hold the expert.
    for (int expert = 0; expert < shape_.num_logical_experts(); ++expert) {
      const auto row = static_cast<std::size_t>(shape_.num_logical_experts()) * kDispatchEntries;
      const DispatchView view(rank.core->dispatch_tables.data() +
                              static_cast<std::size_t>(layer) * row);
      for (std::uint32_t ticket = 0; ticket < kDispatchEntries; ++ticket) {
        const auto slot = static_cast<std::size_t>(view.slot(expert, ticket));
        if (rank.core->placement.layer(layer)[slot] != expert)
          violated("the dispatch table names a slot of another expert");
      }
    }
  }
  check_slots(rank);
}

void SimCluster::check_slots(const Rank& rank) const {
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    for (int slot = 0; slot < shape_.slots_per_rank(rank.id); ++slot) {
      Weights weights;
      std::memcpy(&weights, rank.core->slot_parts[rank.core->index(layer, slot)][0],
                  sizeof weights);
      const auto expert = rank.core->placement.layer(
          layer)[static_cast<std::size_t>(shape_.first_slot(rank.id) + slot)];
      if (weights.layer != layer || weights.expert != expert) {
        violated("rank " + std::to_string(rank.id) + " layer " + std::to_string(layer) + " slot " +
                 std::to_string(slot) + " holds expert " + std::to_string(weights.expert) +
                 " of layer " + std::to_string(weights.layer) + ", the placement says " +
                 std::to_string(expert));
      }
    }
  }
}

// Invariants 5 and 6: what the worker takes for the loads of a set is what was routed, expert by
// expert.
void SimCluster::run_worker(Rank& rank) {
  Worker& worker = *rank.core->worker;
  const std::uint64_t before = worker.last_observed_step();
  worker.run_once();
  const std::uint64_t step = worker.last_observed_step();
  if (step == before) return;
  ExpertLoad routed(shape_.num_moe_layers(), shape_.num_logical_experts());
  for (const auto& peer : ranks_) {
    const ExpertLoad& part = peer->routed.at(step);
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      for (std::size_t expert = 0; expert < part.layer(layer).size(); ++expert) {
        routed.layer(layer)[expert] += part.layer(layer)[expert];
      }
    }
  }
  if (worker.last_observed() != routed) {
    violated("loads of step " + std::to_string(step) +
             " are attributed to other experts than they were routed to");
  }
}

void SimCluster::schedule_one() {
  // Choices: every rank's engine, every rank's worker, every delivery.
  const auto events = network_.possible();
  const std::size_t choice = random_() % (ranks_.size() * 2 + events.size());
  if (choice < ranks_.size()) {
    Rank& rank = *ranks_[choice];
    if (can_begin(rank)) {
      begin(rank);
    } else if (can_end(rank)) {
      end(rank);
    }
  } else if (choice < ranks_.size() * 2) {
    run_worker(*ranks_[choice - ranks_.size()]);
  } else {
    const auto& event = events[choice - ranks_.size() * 2];
    const bool transfer = event.kind == SimNetwork::Event::Kind::kTransfer;
    if (!transfer || !chance(options_.slow_copies))
      network_.happen(event, transfer && chance(options_.copy_failure));
  }
  ++result_.events;
}

SimResult SimCluster::run() {
  const std::uint64_t limit =
      options_.num_steps * static_cast<std::uint64_t>(options_.num_ranks) * 20'000;
  while (!std::ranges::all_of(
      ranks_, [this](const auto& rank) { return rank->finished == options_.num_steps; })) {
    schedule_one();
    if (result_.events > limit) violated("no progress after " + std::to_string(limit) + " events");
  }
  check_nothing_leaks();
  return result_;
}

void SimCluster::check_nothing_leaks() {
  for (bool busy = true; busy;) {  // until the network is quiet
    busy = false;
    for (const auto& rank : ranks_) busy |= rank->core->worker->run_once();
    for (const auto& event : network_.possible()) {
      network_.happen(event, false);
      busy = true;
    }
  }
  for (const auto& rank : ranks_) {
    const bool migrating = rank->core->agreement.active_plan() != nullptr;
    if (!migrating && rank->core->worker->num_free_buffers() != options_.staging_experts) {
      violated("rank " + std::to_string(rank->id) + " has " +
               std::to_string(rank->core->worker->num_free_buffers()) + " free buffers of " +
               std::to_string(options_.staging_experts) + " with no plan active");
    }
  }
}

}  // namespace swiftbalancer::simulation
