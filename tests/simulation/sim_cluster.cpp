#include "simulation/sim_cluster.hpp"

#include <algorithm>
#include <numeric>

#include "simulation/sim_rank.hpp"

namespace swiftbalancer::simulation {
namespace {

ShapeOptions shape_options(const SimOptions& options) {
  ShapeOptions shape;
  shape.num_moe_layers = options.num_moe_layers;
  shape.num_logical_experts = options.num_logical_experts;
  shape.num_ranks = options.num_ranks;
  shape.num_slots = options.num_slots;
  return shape;
}

}  // namespace

SimResult& SimResult::operator+=(const SimResult& other) {
  for (auto field :
       {&SimResult::commits, &SimResult::drops, &SimResult::adopted, &SimResult::closed,
        &SimResult::superseded, &SimResult::events, &SimResult::reconfigurations,
        &SimResult::rolled_forward, &SimResult::loaded, &SimResult::resets, &SimResult::joined})
    this->*field += other.*field;
  return *this;
}

SimCluster::SimCluster(const SimOptions& options)
    : options_(options),
      random_(options.seed * 31 + 5),
      shape_(shape_options(options)),
      deaths_left_(options.deaths),
      joins_left_(options.joins),
      gather_failures_left_(options.gather_failures) {
  config_.policy = "static";  // SimPlanning plans instead
  config_.rebalance_interval = options.rebalance_interval;
  config_.packet_interval = options.packet_interval;
  config_.packet_lag = options.packet_lag;
  config_.max_open_sets = options.max_open_sets;
  config_.install_mode = options.install_mode;
  config_.control_mode = options.control_mode;
  // Nothing is ever waited for here: a wait is a violation, told at once.
  config_.deadline = std::chrono::milliseconds(1);
  config_.staging_bytes = static_cast<std::size_t>(options.staging_experts) * sizeof(Weights);
  config_.load_expert = [this](int layer, int expert, std::span<std::byte* const> parts) {
    const Weights weights = Weights::of(layer, expert);
    std::memcpy(parts[0], &weights, sizeof weights);
    ++result_.loaded;
    if (deaths_left_ == options_.deaths) violated("an expert is loaded though no rank was lost");
  };
  std::vector<int> all(static_cast<std::size_t>(options.num_ranks));
  std::iota(all.begin(), all.end(), 0);
  new_attempt(all);
  const Placement initial = Placement::initial(shape_);
  for (int id : all) {
    ranks_.push_back(std::make_unique<Rank>());
    Rank& made = *ranks_.back();
    made.id = id;
    make_core(made, std::make_unique<SimTransport>(*networks_[0], id));
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      for (int slot = 0; slot < shape_.slots_per_rank(id); ++slot) {
        made.memory[static_cast<std::size_t>(layer * shape_.slots_per_rank(id) + slot)] =
            Weights::of(layer, initial.layer(
                                   layer)[static_cast<std::size_t>(shape_.first_slot(id) + slot)]);
      }
    }
    start(*made.core, initial);
  }
}

SimCluster::~SimCluster() {
  for (const auto& each : ranks_) each->change.reset();
}

void SimCluster::make_core(Rank& made, std::unique_ptr<Transport> transport) {
  made.change.reset();
  made.core = simulation::make_core(shape_, config_, made.id, std::move(transport),
                                    [this] { return make_planning(); });
  made.window = ExpertLoad(shape_.num_moe_layers(), shape_.num_logical_experts());
  const int slots = shape_.slots_per_rank(made.id);
  made.memory.assign(static_cast<std::size_t>(shape_.num_moe_layers() * slots), Weights{});
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    for (int slot = 0; slot < slots; ++slot) {
      Weights& weights = made.memory[static_cast<std::size_t>(layer * slots + slot)];
      const WeightPart part{reinterpret_cast<std::byte*>(&weights), sizeof weights};
      register_weights(*made.core, layer, slot, {&part, 1});
    }
  }
}

std::unique_ptr<SimPlanning> SimCluster::make_planning() {
  return std::make_unique<SimPlanning>(
      SimPlanning::Faults{[this] { return chance(options_.planner_failure); },
                          [this] { return chance(options_.planner_differs); },
                          [this] { return chance(options_.planner_loss); },
                          [this] { return 1 + static_cast<int>(random_() % 6); }});
}

// ---- Steps ----

bool SimCluster::can_begin(const Rank& mine) const {
  Core& core = *mine.core;
  if (in_step(core) || (!settling_ && step_of(core) >= options_.num_steps)) return false;
  take_reports(core);
  const auto due = agreement(core).set_due(step_of(core) + 1);
  return !due || ready_step(core) >= *due || faulty(Fault::kGoOnAlone);
}

// A forward is an all-to-all: nobody ends a step that somebody has not begun.
bool SimCluster::can_end(const Rank& mine) const {
  const Core& core = *mine.core;
  return in_step(core) && std::ranges::all_of(ranks_of(core), [&](int id) {
           const Rank& peer = rank(id);
           return peer.serves() && membership_of(*peer.core) == membership_of(core) &&
                  step_of(*peer.core) >= step_of(core);
         });
}

void SimCluster::begin(Rank& mine) {
  const Status status = simulation::begin(
      *mine.core, {step_of(*mine.core) + 1, Phase::kDecode, chance(options_.idle)});
  if (!status.ok()) violated("begin_step failed: " + status.message());
  if (stats(*mine.core).waits_for_plans + stats(*mine.core).waits_for_copies > 0)
    violated("the engine waited for a plan or a copy");
  if (rank_of(*mine.core) == 0) count(mine);
  check_forward(mine);
  route_tokens(mine);
}

void SimCluster::count(const Rank& mine) {
  for (const BalancerEvent& event : events(*mine.core)) {
    result_.commits += event.kind == BalancerEventKind::kCommitted ? 1 : 0;
    result_.drops += event.kind == BalancerEventKind::kDropped ? 1 : 0;
    result_.superseded += event.reason == Reason::kSuperseded ? 1 : 0;
    result_.adopted += event.kind == BalancerEventKind::kAdopted ? 1 : 0;
    result_.closed += event.kind == BalancerEventKind::kClosed ? 1 : 0;
  }
}

// Tokens that a step sends to this rank's slots: known from step, layer and slot, so that loads can
// be checked. An empty slot gets none.
void SimCluster::route_tokens(Rank& mine) {
  Core& core = *mine.core;
  std::vector<std::uint32_t> counts(static_cast<std::size_t>(num_local_slots(core)));
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    for (int slot = 0; slot < num_local_slots(core); ++slot) {
      const auto at = static_cast<std::size_t>(slot);
      const auto expert = placement(core).layer(
          layer)[at + static_cast<std::size_t>(shape_of(core).first_slot(rank_of(core)))];
      counts[at] = expert == kEmptySlot ? 0 : static_cast<std::uint32_t>(random_() % 100);
      if (expert != kEmptySlot)
        mine.window.layer(layer)[static_cast<std::size_t>(expert)] += counts[at];
    }
    record(core, layer, counts);
  }
}

void SimCluster::end(Rank& mine) {
  check_slots(mine);  // weights never change during a forward
  if (chance(options_.early_request)) request_rebalance(*mine.core, true);
  if (chance(options_.mode_change)) set_mode(*mine.core, static_cast<BalancingMode>(random_() % 3));
  const Status status = simulation::end(*mine.core);
  if (!status.ok()) violated("end_step failed: " + status.message());
  request_rebalance(*mine.core, false);
  if (agreement(*mine.core).packet_due(step_of(*mine.core))) {
    mine.routed[{membership_of(*mine.core), step_of(*mine.core)}] = std::exchange(
        mine.window, ExpertLoad(shape_.num_moe_layers(), shape_.num_logical_experts()));
  }
}

void SimCluster::run_engine(Rank& mine) {
  const bool behind = mine.attempt + 1 < attempts_.size();
  if (behind && std::ranges::find(attempts_.back().live, mine.id) != attempts_.back().live.end()) {
    // The notice comes at some time; until then the rank goes on as far as it can.
    if (mine.joins || chance(30)) return notice(mine);
  }
  if (mine.change != nullptr) return reconfigure(mine);
  if (!mine.serves() || mine.worker_stopped) return;
  if (can_begin(mine)) {
    begin(mine);
  } else if (can_end(mine)) {
    end(mine);
  }
}

void SimCluster::run_worker(Rank& mine) {
  if (!mine.alive || mine.worker_stopped || worker(*mine.core) == nullptr) return;
  Worker& running = *worker(*mine.core);
  const std::uint64_t before = running.last_observed_step();
  try {
    running.run_once();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kTransport) violated(std::string("worker: ") + error.what());
    // A failed gather: the engine would hear of it in begin_step, and asks for the same ranks
    // again.
    mine.worker_stopped = true;
    if (mine.attempt + 1 == attempts_.size()) new_attempt(attempts_.back().live);
    return;
  }
  if (running.last_observed_step() != before) check_loads(mine, running.last_observed_step());
}

// ---- Membership ----

void SimCluster::new_attempt(std::vector<int> live) {
  networks_.push_back(std::make_unique<SimNetwork>(static_cast<int>(live.size()),
                                                   options_.can_cancel, options_.slow_senders));
  attempts_.push_back({std::move(live)});
}

bool SimCluster::can_hold(const std::vector<int>& live) const {
  int slots = 0;
  for (int id : live) slots += shape_.slots_per_rank(id);
  return slots >= shape_.num_logical_experts();
}

void SimCluster::maybe_change_membership() {
  if (random_() % 400 != 0) return;
  const auto kind = random_() % 3;
  if (kind == 0 && deaths_left_ > 0) kill_one();
  if (kind == 1 && joins_left_ > 0) join_one();
  if (kind == 2 && gather_failures_left_ > 0) {
    --gather_failures_left_;
    const auto& live = attempts_.back().live;
    networks_.back()->fail_gather(static_cast<int>(random_() % live.size()));
  }
}

void SimCluster::kill_one() {
  std::vector<int> live = attempts_.back().live;
  const auto victim = live.begin() + static_cast<std::ptrdiff_t>(random_() % live.size());
  Rank& dead = rank(*victim);
  live.erase(victim);
  // Somebody must be left who serves, and all experts must find room.
  const bool serving = std::ranges::any_of(live, [&](int id) { return !rank(id).joins; });
  if (live.empty() || !serving || !can_hold(live)) return;
  --deaths_left_;
  dead.alive = false;
  for (std::size_t i = 0; i < networks_.size(); ++i) {
    const auto& members = attempts_[i].live;
    const auto place = std::ranges::find(members, dead.id);
    if (place != members.end())
      networks_[i]->die(static_cast<int>(place - members.begin()), random_);
  }
  dead.change.reset();
  dead.core.reset();
  new_attempt(std::move(live));
}

// A rank that died earlier comes back as a new process, with nothing.
void SimCluster::join_one() {
  const auto dead = std::ranges::find_if(ranks_, [](const auto& each) { return !each->alive; });
  if (dead == ranks_.end()) return;
  --joins_left_;
  Rank& joins = **dead;
  std::vector<int> live = attempts_.back().live;
  live.insert(std::ranges::lower_bound(live, joins.id), joins.id);
  new_attempt(std::move(live));
  joins.alive = joins.joins = true;
  joins.worker_stopped = false;
  joins.attempt = 0;
  make_core(joins, nullptr);
  start_empty(*joins.core);
  ++result_.joined;
}

void SimCluster::notice(Rank& mine) {
  mine.attempt = attempts_.size() - 1;
  const auto& live = attempts_.back().live;
  const auto index = static_cast<int>(std::ranges::find(live, mine.id) - live.begin());
  mine.change.reset();
  mine.change = make_reconfiguration(
      *mine.core, live, std::make_unique<SimTransport>(*networks_.back(), index), mine.joins);
}

void SimCluster::reconfigure(Rank& mine) {
  const auto commits = stats(*mine.core).units_committed;
  Status status;
  const bool over = advance(*mine.core, *mine.change, status);
  result_.rolled_forward += stats(*mine.core).units_committed - commits;
  if (!over) return;
  mine.change.reset();
  if (status.code() == ErrorCode::kTransport) {  // a gather failed: once more
    if (mine.attempt + 1 == attempts_.size()) new_attempt(attempts_.back().live);
    return;
  }
  if (!status.ok()) violated("reconfiguration failed: " + status.message());
  mine.joins = mine.worker_stopped = false;
  mine.window = ExpertLoad(shape_.num_moe_layers(), shape_.num_logical_experts());
  ++result_.reconfigurations;
  check_forward(mine);
}

// ---- Scheduling ----

void SimCluster::deliver() {
  // The newest networks carry what matters; the others are tried now and then.
  SimNetwork& network =
      random_() % 8 == 0 ? *networks_[random_() % networks_.size()] : *networks_.back();
  const auto events = network.possible();
  if (events.empty()) return;
  const auto& event = events[random_() % events.size()];
  auto fate = SimNetwork::Fate::kGood;
  if (event.kind == SimNetwork::Event::Kind::kPiece) {
    if (chance(options_.slow_copies)) return;
    if (chance(options_.copy_failure)) fate = SimNetwork::Fate::kReceiveFails;
    if (chance(options_.send_failure)) fate = SimNetwork::Fate::kSendFails;
  }
  network.happen(event, fate);
}

void SimCluster::schedule_one() {
  // Choices: every rank's engine, every rank's worker, and as many deliveries.
  const std::size_t choice = random_() % (ranks_.size() * 4);
  Rank& mine = *ranks_[choice % ranks_.size()];
  if (choice < ranks_.size()) {
    if (mine.alive) run_engine(mine);
  } else if (choice < ranks_.size() * 2) {
    run_worker(mine);
  } else {
    deliver();
  }
  maybe_change_membership();
  for (const auto& network : networks_)
    if (!network->broken().empty()) violated(network->broken());
  ++result_.events;
}

bool SimCluster::finished() const {
  return std::ranges::all_of(ranks_, [this](const auto& each) {
    if (!each->alive) return true;
    if (!each->serves() || each->attempt + 1 != attempts_.size()) return false;
    const Core& core = *each->core;
    const bool quiet = agreement(core).active_plan() == nullptr &&
                       !agreement(core).open_generation() && !planner_lost(core);
    return settling_ ? quiet : step_of(core) >= options_.num_steps && !in_step(core);
  });
}

void SimCluster::settle() {
  settling_ = true;
  options_.deaths -= deaths_left_;
  deaths_left_ = joins_left_ = gather_failures_left_ = 0;
  for (auto fault :
       {&SimOptions::copy_failure, &SimOptions::send_failure, &SimOptions::planner_failure,
        &SimOptions::planner_loss, &SimOptions::slow_copies, &SimOptions::mode_change,
        &SimOptions::early_request})
    options_.*fault = 0;
  for (const auto& each : ranks_) {
    if (each->alive) set_mode(*each->core, BalancingMode::kPaused);
  }
}

SimResult SimCluster::run() {
  const SimOptions as_drawn = options_;
  const std::uint64_t limit =
      options_.num_steps * static_cast<std::uint64_t>(options_.num_ranks) * 20'000;
  try {
    while (!finished()) {
      schedule_one();
      if (result_.events > limit)
        violated("no progress after " + std::to_string(limit) + " events");
    }
    settle();
    const std::uint64_t settled_by =
        result_.events + static_cast<std::uint64_t>(options_.num_ranks) * 60'000;
    while (!finished()) {
      schedule_one();
      if (result_.events > settled_by) {
        options_ = as_drawn;
        violated("what was under way did not come to its end");
      }
    }
    check_nothing_leaks();
  } catch (const Error& error) {
    violated(std::string("an error where none may be: ") + error.what());
  }
  for (const auto& each : ranks_)
    if (each->alive) result_.resets += stats(*each->core).planner_resets;
  return result_;
}

}  // namespace swiftbalancer::simulation
