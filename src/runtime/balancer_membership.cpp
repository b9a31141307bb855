// BalancerCore's memberships: the first one, and from one to the next (rules 12 to 14).

#include <algorithm>
#include <numeric>
#include <string>

#include "migration/commit_units.hpp"
#include "runtime/balancer_core.hpp"
#include "runtime/config.hpp"
#include "runtime/runtime_rules.hpp"

namespace swiftbalancer {
namespace {

LiveRanks all_ranks(const ClusterShape& shape, int rank) {
  if (rank < 0 || rank >= shape.num_ranks()) {
    throw Error(ErrorCode::kInvalidArgument, "rank " + std::to_string(rank) +
                                                 " does not exist; the shape has ranks 0 to " +
                                                 std::to_string(shape.num_ranks() - 1));
  }
  LiveRanks live{shape, std::vector<int>(static_cast<std::size_t>(shape.num_ranks())), rank};
  std::iota(live.ranks.begin(), live.ranks.end(), 0);
  return live;
}

}  // namespace

BalancerCore::BalancerCore(const ClusterShape& shape, const BalancerConfig& config, int rank,
                           WorkerSide::MakePlanning make_planning)
    : first_shape_(shape),
      config_((validate(config, shape), with_safe_log(config))),
      live_(all_ranks(shape, rank)),
      counters_(shape, shape.slots_per_rank(rank)),
      experts_(shape, config, rank),
      health_(rank, config_.log),
      worker_side_(first_shape_, config_, std::move(make_planning)) {}

BalancerCore::~BalancerCore() = default;

// ---- The first membership ----

void BalancerCore::register_weights(int layer, int local_slot, std::span<const WeightPart> parts) {
  if (stage_ != Stage::kNotStarted)
    throw Error(ErrorCode::kInvalidState, "register_weights after start(); register before");
  experts_.register_weights(layer, local_slot, parts);
}

void BalancerCore::start(const Placement& served, std::unique_ptr<Transport> transport) {
  start_empty();
  validate(served, live_.shape);
  agree_on_configuration(served, *transport);
  serve(served, std::move(transport));
}

void BalancerCore::serve(const Placement& served, std::unique_ptr<Transport> transport,
                         const AgreedState& begin) {
  experts_.hold(served);
  enter({live_.shape, live_.ranks, begin, ServedState::even(served, live_.shape),
         std::move(transport)});
}

void BalancerCore::start_empty() {
  if (stage_ != Stage::kNotStarted) throw Error(ErrorCode::kInvalidState, "start() called twice");
  experts_.check_all_registered();
  worker_side_.take_memory(experts_.largest_parts(), experts_.local_slots());
}

// A rank that was configured otherwise would agree on nothing; find out before the first step, with
// both values.
void BalancerCore::agree_on_configuration(const Placement& served, Transport& transport) const {
  if (transport.num_ranks() != live_.shape.num_ranks()) {
    throw Error(ErrorCode::kInvalidArgument,
                "the transport joins " + std::to_string(transport.num_ranks()) +
                    " ranks, the shape has " + std::to_string(live_.shape.num_ranks()));
  }
  const ConfigText mine = config_text(config_, live_.shape, &served, experts_.part_bytes());
  std::vector<ConfigText> all(live_.ranks.size());
  const auto handle = transport.post_all_gather(0, std::as_bytes(std::span(&mine, 1)),
                                                std::as_writable_bytes(std::span(all)));
  wait_done(transport, handle, Clock::now() + config_.deadline).throw_if_failed();
  for (std::size_t peer = 0; peer < all.size(); ++peer) {
    const std::string difference = first_difference(all[0], all[peer]);
    if (difference.empty()) continue;
    throw Error(ErrorCode::kInvalidArgument, "rank 0 and rank " + std::to_string(peer) +
                                                 " were started differently: " + difference +
                                                 "; start all ranks alike");
  }
}

// ---- From one to the next ----

Status BalancerCore::launch() {
  try {
    worker()->launch();
    return {};
  } catch (const std::exception& error) {
    stage_ = Stage::kBroken;
    return {ErrorCode::kInternal,
            std::string("the balancer worker cannot be started: ") + error.what()};
  }
}

Status BalancerCore::reconfigure(std::span<const int> live_ranks,
                                 std::unique_ptr<Transport> transport) {
  try {
    const auto change = begin_reconfiguration(live_ranks, std::move(transport));
    int exchanges = 0;
    auto deadline = Clock::now() + config_.deadline;
    while (!change->advance()) {
      const bool exchanged =
          std::exchange(exchanges, change->num_exchanges()) != change->num_exchanges();
      if (exchanged && rules::deadline_per_exchange()) deadline = Clock::now() + config_.deadline;
      if (Status waited = change->transport().wait(deadline); !waited.ok()) {
        if (change->advance()) break;
        return change->failed_wait(waited);
      }
    }
    if (!change->status().ok()) return change->status();
    enter(change->take());
    return {};
  } catch (const Error& error) {
    return {error.code(), error.what()};
  } catch (const std::exception& error) {
    return {ErrorCode::kInternal, std::string("reconfiguration: ") + error.what()};
  }
}

std::unique_ptr<Reconfiguration> BalancerCore::begin_reconfiguration(
    std::span<const int> live_ranks, std::unique_ptr<Transport> transport) {
  check_live_ranks(first_shape_, first_number(), live_ranks, *transport);
  freeze();
  MembershipHost& host = *this;
  return std::make_unique<Reconfiguration>(member_state(), host, live_ranks, std::move(transport));
}

// Rule 12: nothing is discarded; what the worker has reported so far counts.
void BalancerCore::freeze() {
  stage_ = Stage::kFrozen;
  if (worker() == nullptr) return;
  worker()->stop();
  take_reports();
}

MemberState BalancerCore::member_state() const {
  MemberState state{first_shape_, live_.ranks, first_number(), {}, {}};
  Snapshot& reached = state.reached;
  reached.joins = !has_served_;
  reached.membership = begin_.membership;
  reached.newest_agreed = newest_agreed_;
  reached.begun_step = step_;
  reached.used_step = used_step();
  reached.last_open_step = agreement_ ? agreement_->last_open_step() : begin_.last_open_step;
  reached.mode = agreement_ ? agreement_->mode() : begin_.mode;
  reached.config = config_text(config_, first_shape_, nullptr, experts_.part_bytes());
  state.epochs.assign(epochs().begin(), epochs().end());
  return state;
}

// Rule 13. With the agreement this membership ends here: an attempt that follows finds what was
// reached in begin_.
Status BalancerCore::roll_forward(std::span<const std::uint64_t> target_epochs,
                                  std::uint64_t heard_step) {
  if (!agreement_) return {};
  events_.clear();
  if (!rules::keep_until_end()) {
    static_cast<void>(agreement_->roll_forward(agreement_->epochs(), events_));
    for (const BalancerEvent& event : events_) static_cast<void>(carry_out(event));
  }
  worker_side_.carry_out_remaining();
  // Whatever was decided is carried out, even if not all could be.
  const Status rolled = agreement_->roll_forward(target_epochs, events_);
  for (const BalancerEvent& event : events_) {
    if (Status status = carry_out(event); !status.ok()) return status;
  }
  worker_side_.carry_out_remaining();
  if (!rolled.ok()) return rolled;
  stats_.dropped_samples +=
      (step_ - std::min(step_, mirror_.ready_step())) / config_.packet_interval;
  begin_.step = agreement_->used_step();
  begin_.epochs.assign(agreement_->epochs().begin(), agreement_->epochs().end());
  begin_.last_open_step = agreement_->last_open_step();
  begin_.mode = agreement_->mode();
  if (!asked_mode_) asked_mode_ = agreement_->unheard_mode(heard_step);
  worker_side_.end();
  agreement_.reset();
  return {};
}

ServedState BalancerCore::served() const {
  return ServedState::even(experts_.placement(), live_.shape);
}

Status BalancerCore::load_expert(int layer, int local_slot, std::int32_t expert) {
  const std::string which =
      "expert " + std::to_string(expert) + " of MoE layer " + std::to_string(layer);
  if (!config_.load_expert) {
    return {ErrorCode::kUnavailable, which + " has no live slot any more, and there is no " +
                                         "load_expert callback to bring it back"};
  }
  experts_.set_content(layer, local_slot, kEmptySlot);
  std::string why;
  try {
    if (rules::load_lost_experts())
      config_.load_expert(layer, expert, experts_.parts(layer, local_slot));
    experts_.set_content(layer, local_slot, expert);
    ++stats_.experts_loaded;
    return {};
  } catch (const std::exception& error) {
    why = error.what();
  } catch (...) {
    why = "load_expert threw what is no std::exception";
  }
  health_.say("rank " + std::to_string(live_.rank) + ": " + which + " cannot be loaded: " + why);
  return {ErrorCode::kUnavailable, which + " cannot be loaded: " + why};
}

// All that may fail comes first, and leaves this rank between memberships, as it was.
void BalancerCore::enter(NextMembership next) {
  const std::string lost = has_served_ ? lost_ranks(next.ranks) : "";
  const LiveRanks live{next.shape, next.ranks, next.transport->rank()};
  auto ring = std::make_unique<PacketRing>(PacketLayout(live.shape), live.shape.num_ranks(),
                                           config_.packet_interval, config_.packet_lag);
  auto experts = experts_.prepare(live.shape, live.rank, next.served);
  auto agreement = make_agreement(live, next.begin);
  headers_.assign(live.ranks.size(), {});
  events_.reserve(
      Agreement::max_decisions(CommitUnitBuilder::max_units(live.shape, staging_capacity())));
  counters_.enter(live.shape);
  const bool planner_off = health_.planner_off_here();
  worker_side_.make(live, next.begin, next.served, *ring, std::move(next.transport),
                    experts_.expert_bytes(), plans(live) && !planner_off);

  const bool first = stage_ == Stage::kNotStarted;
  live_ = {std::move(next.shape), std::move(next.ranks), live.rank};
  begin_ = std::move(next.begin);
  step_ = begin_.step;
  ring_ = std::move(ring);
  agreement_ = std::move(agreement);
  experts_.enter(std::move(experts));
  mirror_.begin(step_);
  if (asked_mode_) agreement_->ask_mode(*std::exchange(asked_mode_, std::nullopt));
  if (planner_off) agreement_->planner_off();
  if (plans(live_)) health_.planner_made_anew();
  has_served_ = true;
  stage_ = Stage::kBetween;
  if (first) return;
  health_.enter(begin_.membership, step_, lost, live_.ranks.size());
  ++stats_.reconfigurations;
}

bool BalancerCore::plans(const LiveRanks& live) const noexcept {
  return config_.control_mode == ControlMode::kReplicated || live.rank == 0;
}

std::unique_ptr<Agreement> BalancerCore::make_agreement(const LiveRanks& live,
                                                        const AgreedState& begin) const {
  AgreementConfig agreed;
  agreed.rank = live.rank;
  agreed.num_ranks = live.shape.num_ranks();
  agreed.num_moe_layers = live.shape.num_moe_layers();
  agreed.packet_interval = config_.packet_interval;
  agreed.packet_lag = config_.packet_lag;
  agreed.rebalance_interval = config_.rebalance_interval;
  agreed.max_open_sets = config_.max_open_sets;
  agreed.max_active_sets = config_.max_active_sets;
  agreed.max_installs_per_set = max_installs_per_set();
  agreed.max_units = CommitUnitBuilder::max_units(live.shape, staging_capacity());
  agreed.leader_plans = config_.control_mode == ControlMode::kLeader;
  return std::make_unique<Agreement>(agreed, begin);
}

// A swap is a few pointers; a copy takes as long as its bytes.
std::uint32_t BalancerCore::max_installs_per_set() const noexcept {
  if (config_.install_mode == InstallMode::kSwap) return 0;
  const std::size_t largest = std::ranges::max(experts_.expert_bytes());
  return static_cast<std::uint32_t>(
      std::clamp<std::size_t>(config_.copy_bytes_per_step / largest, 1, 1U << 30));
}

// "1, 3": members until now that are not among the live ranks.
std::string BalancerCore::lost_ranks(std::span<const int> live_ranks) const {
  std::string lost;
  for (const int each : live_.ranks) {
    if (std::ranges::find(live_ranks, each) == live_ranks.end())
      lost += (lost.empty() ? "" : ", ") + std::to_string(each);
  }
  return lost;
}

}  // namespace swiftbalancer
