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

void BalancerCore::serve(const Placement& served, std::unique_ptr<Transport> transport) {
  experts_.hold(served);
  const AgreedState begin;
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

Status BalancerCore::reconfigure(std::span<const int> live_ranks,
                                 std::unique_ptr<Transport> transport) {
  const auto change = begin_reconfiguration(live_ranks, std::move(transport));
  try {
    int exchanges = 0;
    auto deadline = Clock::now() + config_.deadline;
    while (!change->advance()) {
      if (std::exchange(exchanges, change->num_exchanges()) != change->num_exchanges())
        deadline = Clock::now() + config_.deadline;
      if (change->is_busy()) continue;
      if (Status waited = change->transport().wait(deadline); !waited.ok()) {
        if (change->advance()) break;
        return waited;
      }
    }
    if (!change->status().ok()) return change->status();
    enter(change->take());
    worker()->launch();
    return {};
  } catch (const Error& error) {
    return {error.code(), error.what()};
  } catch (const std::exception& error) {
    return {ErrorCode::kInternal, std::string("reconfiguration: ") + error.what()};
  }
}

std::unique_ptr<Reconfiguration> BalancerCore::begin_reconfiguration(
    std::span<const int> live_ranks, std::unique_ptr<Transport> transport) {
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
  MemberState state{
      first_shape_, live_.ranks, live_.ranks[static_cast<std::size_t>(live_.rank)], {}, {}};
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
  if (Status status = agreement_->roll_forward(target_epochs, events_); !status.ok()) return status;
  for (const BalancerEvent& event : events_) {
    if (Status status = carry_out(event); !status.ok()) return status;
  }
  worker_side_.carry_out_remaining();
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

void BalancerCore::enter(NextMembership next) {
  const std::string lost = has_served_ ? lost_ranks(next.ranks) : "";
  const bool first = stage_ == Stage::kNotStarted;
  live_ = {std::move(next.shape), std::move(next.ranks), next.transport->rank()};
  begin_ = std::move(next.begin);
  step_ = begin_.step;
  ring_.emplace(PacketLayout(live_.shape), live_.shape.num_ranks(), config_.packet_interval,
                config_.packet_lag);
  counters_.enter(live_.shape);
  experts_.enter(live_.shape, live_.rank, next.served);
  make_agreement();
  mirror_.begin(step_);
  worker_side_.make(live_, begin_, next.served, *ring_, std::move(next.transport),
                    experts_.expert_bytes());
  if (worker_side_.plans(live_)) health_.planner_made_anew();
  if (health_.planner_off_here()) agreement_->planner_off();
  has_served_ = true;
  stage_ = Stage::kBetween;
  if (first) return;
  health_.enter(begin_.membership, step_, lost, live_.ranks.size());
  ++stats_.reconfigurations;
}

void BalancerCore::make_agreement() {
  AgreementConfig agreed;
  agreed.rank = live_.rank;
  agreed.num_ranks = live_.shape.num_ranks();
  agreed.num_moe_layers = live_.shape.num_moe_layers();
  agreed.packet_interval = config_.packet_interval;
  agreed.packet_lag = config_.packet_lag;
  agreed.rebalance_interval = config_.rebalance_interval;
  agreed.max_open_sets = config_.max_open_sets;
  agreed.max_active_sets = config_.max_active_sets;
  agreed.max_installs_per_set = max_installs_per_set();
  agreed.max_units = CommitUnitBuilder::max_units(live_.shape, staging_capacity());
  agreed.leader_plans = config_.control_mode == ControlMode::kLeader;
  agreement_.emplace(agreed, begin_);
  if (asked_mode_) agreement_->ask_mode(*std::exchange(asked_mode_, std::nullopt));
  headers_.assign(live_.ranks.size(), {});
  events_.reserve(Agreement::max_decisions(agreed.max_units));
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
