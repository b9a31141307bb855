#include "simulation/sim_cluster.hpp"

#include <algorithm>
#include <numeric>
#include <sstream>

#include "simulation/sim_rank.hpp"

namespace swiftbalancer::simulation {
namespace {

struct Counter {
  const char* name;
  std::uint64_t SimResult::* value;
};
constexpr Counter kCounters[] = {
    {"events", &SimResult::events},
    {"plans adopted", &SimResult::adopted},
    {"generations closed", &SimResult::closed},
    {"units committed", &SimResult::commits},
    {"units dropped", &SimResult::drops},
    {"plans superseded", &SimResult::superseded},
    {"reconfigurations", &SimResult::reconfigurations},
    {"units rolled forward", &SimResult::rolled_forward},
    {"experts loaded", &SimResult::loaded},
    {"ranks joined", &SimResult::joined},
    {"ranks refused", &SimResult::refused},
    {"planner resets", &SimResult::resets},
    {"planners off", &SimResult::planners_off},
    {"time-outs", &SimResult::timeouts},
    {"steps repeated", &SimResult::repeated},
    {"lost peers noticed", &SimResult::peers_lost},
    {"messages damaged", &SimResult::damaged},
    {"plan messages lost", &SimResult::plans_lost},
    {"calls of reconfigure", &SimResult::calls},
    {"units given up", &SimResult::given_up},
    {"copies stuck", &SimResult::stuck},
    {"bounded sets", &SimResult::bounded},
    {"slow loads", &SimResult::slow_loads},
    {"steps begun apart", &SimResult::apart},
};

}  // namespace

SimResult& SimResult::operator+=(const SimResult& other) {
  for (const Counter& counter : kCounters) this->*counter.value += other.*counter.value;
  return *this;
}

std::string SimResult::to_string() const {
  std::ostringstream out;
  for (const Counter& counter : kCounters)
    out << (&counter == kCounters ? "" : ", ") << this->*counter.value << ' ' << counter.name;
  return out.str();
}

SimCluster::SimCluster(const SimOptions& options)
    : options_(options),
      drawn_(options),
      random_(options.seed * 31 + 5),
      shape_(options.shape()),
      weights_(options) {
  std::vector<int> all(static_cast<std::size_t>(options.num_ranks));
  std::iota(all.begin(), all.end(), 0);
  begin_attempt(all);
  const Placement initial = Placement::initial(shape_);
  for (int id : all) {
    ranks_.push_back(std::make_unique<Rank>());
    Rank& made = *ranks_.back();
    made.id = id;
    make_core(made);
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      for (int slot = 0; slot < shape_.slots_per_rank(id); ++slot) {
        const auto at = static_cast<std::size_t>(shape_.first_slot(id) + slot);
        weights_.fill(layer, initial.layer(layer)[at], slot_parts(*made.core, layer, slot));
      }
    }
    start(*made.core, initial, std::make_unique<SimTransport>(*networks_[0], id));
    enter(made);
  }
}

SimCluster::~SimCluster() {
  for (const auto& each : ranks_) {
    each->call.reset();
    each->change.reset();
  }
}

BalancerConfig SimCluster::config_of(const Rank& rank) {
  BalancerConfig config;
  config.policy = "static";  // SimPlanMaker plans instead
  config.rebalance_interval = options_.rebalance_interval;
  config.packet_interval = options_.packet_interval;
  config.packet_lag = options_.packet_lag + (rank.is_misfit ? 1 : 0);
  config.max_open_sets = options_.max_open_sets;
  config.max_active_sets = options_.max_active_sets;
  if (options_.copies_per_step > 0) {
    config.copy_bytes_per_step =
        static_cast<std::size_t>(options_.copies_per_step) * weights_.largest_expert_bytes();
  }
  config.install_mode = options_.install_mode;
  config.control_mode = options_.control_mode;
  if (options_.decode_tables) config.decode_dispatch = DispatchObjective::kActivatedExperts;
  if (options_.draw_tables) config.table_kind = TableKind::kDraw;
  // Waited for only where the schedule wants a time-out.
  config.deadline = std::chrono::milliseconds(1);
  config.staging_bytes =
      static_cast<std::size_t>(options_.staging_experts) * weights_.largest_expert_bytes();
  config.load_expert = [this, &rank](int layer, int expert, std::span<std::byte* const> parts) {
    load_expert(rank, layer, expert, parts);
  };
  return config;
}

void SimCluster::load_expert(const Rank& loading, int layer, int expert,
                             std::span<std::byte* const> parts) {
  while (loading.call != nullptr && chance(options_.slow_loads)) {
    ++result_.slow_loads;
    loading.call->pause();
  }
  if (deaths_ == 0) violated("an expert is loaded though no rank was lost");
  if (options_.load_failures > 0 && chance(50)) {
    --options_.load_failures;
    loads_fail_ = true;
    throw std::runtime_error("its file cannot be read");
  }
  weights_.fill(layer, expert, parts);
  ++result_.loaded;
}

void SimCluster::make_core(Rank& made) {
  made.core = simulation::make_core(shape_, config_of(made), made.id,
                                    [this, &made] { return make_planning(made); });
  const int slots = shape_.slots_per_rank(made.id);
  std::size_t bytes = 0;
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer)
    bytes += static_cast<std::size_t>(slots) * weights_.expert_bytes(layer);
  made.memory.assign(bytes, std::byte{0});
  std::byte* next = made.memory.data();
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    for (int slot = 0; slot < slots; ++slot) {
      std::vector<WeightPart> parts;
      for (const std::size_t size : weights_.part_bytes(layer)) {
        parts.push_back({next, size});
        next += size;
      }
      register_weights(*made.core, layer, slot, parts);
    }
  }
}

std::unique_ptr<Planning> SimCluster::make_planning(const Rank& rank) {
  SimPlanMaker::Behaviour behaviour;
  behaviour.fails = [this] { return chance(options_.planner_failure); };
  behaviour.differs = [this] { return chance(options_.planner_differs); };
  behaviour.wants_rebalance = [this] { return chance(options_.early_request); };
  behaviour.throws = [this] { return chance(options_.planner_throws); };
  behaviour.is_lost = [this] { return chance(options_.planner_loss); };
  behaviour.rounds = [this] { return 1 + static_cast<int>(random_() % (chance(3) ? 300 : 6)); };
  behaviour.interval = options_.packet_interval;
  behaviour.uneven_shares = options_.uneven_shares;
  GuardOptions guard;
  guard.name = "planner";
  guard.max_restarts = options_.planner_restarts >= 0 ? options_.planner_restarts : 1 << 20;
  return make_guarded_planning(std::make_unique<SimPlanMaker>(std::move(behaviour), rank.planner),
                               guard);
}

// ---- The end ----

bool SimCluster::finished() const {
  return std::ranges::all_of(ranks_, [this](const auto& each) {
    if (!each->alive) return true;
    if (!each->serves() || each->attempt + 1 != attempts_.size() || each->late ||
        each->worker_stopped)
      return false;
    const Core& core = *each->core;
    const bool quiet = agreement(core).active_plan() == nullptr &&
                       !agreement(core).open_generation() && !planner_lost(core) &&
                       agreement(core).mode() == BalancingMode::kPaused;
    return settling_ ? quiet : step_of(core) >= options_.num_steps && !in_step(core);
  });
}

void SimCluster::settle() {
  settling_ = true;
  options_.clear_faults();
  for (const auto& network : networks_) network->free_stuck_copies();
  // Any rank may ask for a pause; the others go by it.
  const std::vector<int> live = living();
  pauses_ = live[random_() % live.size()];
}

void SimCluster::run_until_finished(std::uint64_t most_events, const char* otherwise) {
  for (const std::uint64_t begun_at = result_.events; !finished();) {
    schedule_one();
    if (result_.events - begun_at > most_events) violated(otherwise + (": " + standing()));
  }
}

// Where every rank stands, for a run that does not get on.
std::string SimCluster::standing() const {
  std::ostringstream out;
  out << attempts_.size() << " attempts";
  for (const auto& each : ranks_) {
    out << ", rank " << each->id << (each->alive ? " in " : " dead in ") << each->attempt;
    const std::pair<bool, const char*> states[] = {{each->joins, " joins"},
                                                   {each->is_misfit, " misfit"},
                                                   {each->reconfigures(), " changes"},
                                                   {each->late, " late"},
                                                   {each->worker_stopped, " stopped"},
                                                   {each->alive && each->serves(), " serves"}};
    for (const auto& [holds, name] : states) out << (holds ? name : "");
    if (each->alive) out << " step " << step_of(*each->core);
  }
  return out.str();
}

SimResult SimCluster::run() {
  const auto ranks = static_cast<std::uint64_t>(options_.num_ranks);
  try {
    run_until_finished(options_.num_steps * ranks * 20'000, "no progress");
    settle();
    run_until_finished(ranks * 60'000, "what was under way did not come to its end");
    check_nothing_leaks();
  } catch (const Violation&) {
    throw;
  } catch (const std::exception& error) {
    violated(std::string("an exception where none may be: ") + error.what());
  } catch (const std::uint64_t&) {
    violated("an exception of a planner where none may be");
  }
  for (const auto& each : ranks_) {
    if (each->alive) result_.resets += stats(*each->core).planner_resets;
    result_.planners_off += each->planner->off ? 1 : 0;
  }
  return result_;
}

void SimCluster::violated(const std::string& what) const {
  throw Violation(what + "  [" + drawn_.to_string() + "]");
}

void SimCluster::violated(const Rank& rank, const std::string& what) const {
  violated("rank " + std::to_string(rank.id) + " at step " + std::to_string(step_of(*rank.core)) +
           ": " + what);
}

}  // namespace swiftbalancer::simulation
