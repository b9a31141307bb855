#include "runtime/reconfiguration.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "core/test_fault.hpp"
#include "migration/rehome.hpp"
#include "protocol/packet.hpp"
#include "runtime/config.hpp"
#include "runtime/membership_messages.hpp"
#include "runtime/plan_message.hpp"

namespace swiftbalancer {
namespace {

// Each attempt has a transport of its own, so that tags need no membership.
enum Tag : std::uint64_t { kSnapshotTag = 1, kStateTag, kVerdictTag };

std::string name(int first_rank) { return "rank " + std::to_string(first_rank); }

}  // namespace

Reconfiguration::Reconfiguration(BalancerCore& core, std::span<const int> live_ranks,
                                 std::unique_ptr<Transport> transport, bool joins)
    : core_(core),
      live_ranks_(live_ranks.begin(), live_ranks.end()),
      transport_(std::move(transport)),
      joins_(joins),
      shape_(shape_of_ranks(core.first_shape, live_ranks_)) {
  if (transport_->num_ranks() != shape_.num_ranks() ||
      live_ranks_[static_cast<std::size_t>(rank())] !=
          core.ranks[static_cast<std::size_t>(core.rank)]) {
    throw Error(ErrorCode::kInvalidArgument,
                "the new transport joins " + std::to_string(transport_->num_ranks()) +
                    " ranks and makes this one number " + std::to_string(rank()) +
                    "; live_ranks has " + std::to_string(live_ranks_.size()) + ", and this is " +
                    name(core.ranks[static_cast<std::size_t>(core.rank)]));
  }
  core_.freeze();
  post_snapshot();
}

Reconfiguration::~Reconfiguration() = default;

bool Reconfiguration::advance() {
  if (stage_ == Stage::kSnapshots && done(gather_, "snapshots")) use_snapshots();
  if (stage_ == Stage::kState) exchange_state();
  if (stage_ == Stage::kVerdict && done(gather_, "verdicts")) use_verdicts();
  return stage_ == Stage::kOver;
}

void Reconfiguration::end(Status status) {
  status_ = std::move(status);
  stage_ = Stage::kOver;
}

bool Reconfiguration::done(TransportHandle& handle, const char* what) {
  if (!handle) return true;
  const TransferStatus status = transport_->poll(handle);
  if (status.state == TransferState::kPending) return false;
  handle = {};
  if (status.state == TransferState::kDone) return true;
  end({ErrorCode::kTransport, std::string("reconfiguration: exchanging ") + what + " failed"});
  return false;
}

// ---- What every rank has reached ----

void Reconfiguration::post_snapshot() {
  Snapshot mine;
  mine.joins = joins_;
  mine.membership = core_.begin.membership;
  mine.newest_agreed = core_.newest_agreed;
  mine.begun_step = core_.step;
  mine.last_open_step =
      core_.worker != nullptr ? core_.agreement->last_open_step() : core_.begin.last_open_step;
  mine.mode = core_.worker != nullptr ? core_.agreement->mode() : core_.begin.mode;
  mine.config = config_text(core_.config, core_.first_shape, nullptr, core_.part_bytes);
  const auto epochs = core_.worker != nullptr ? core_.agreement->epochs()
                                              : std::span<const std::uint64_t>(core_.begin.epochs);
  snapshot_ = encode_snapshot(mine, epochs, shape_.num_moe_layers());
  snapshots_.resize(snapshot_.size() * live_ranks_.size());
  gather_ = transport_->post_all_gather(kSnapshotTag, snapshot_, snapshots_);
}

// Rule 14: step = the highest begun; private counters are made equal.
void Reconfiguration::use_snapshots() {
  const std::size_t each = snapshot_.size();
  const ConfigText mine = config_text(core_.config, core_.first_shape, nullptr, core_.part_bytes);
  std::vector<std::uint64_t> epochs;
  source_ = -1;
  std::uint32_t newest = 0, newest_agreed = 0;
  std::uint64_t furthest = 0;
  begin_.epochs.assign(static_cast<std::size_t>(shape_.num_moe_layers()), 0);
  for (std::size_t i = 0; i < live_ranks_.size(); ++i) {
    Snapshot snapshot;
    Status status = decode_snapshot(std::span(snapshots_).subspan(i * each, each),
                                    shape_.num_moe_layers(), snapshot, epochs);
    if (!status.ok()) return end({status.code(), name(live_ranks_[i]) + ": " + status.message()});
    const std::string difference = first_difference(mine, snapshot.config);
    if (!difference.empty()) {
      return end({ErrorCode::kInvalidArgument, name(live_ranks_[static_cast<std::size_t>(rank())]) +
                                                   " and " + name(live_ranks_[i]) +
                                                   " were started differently: " + difference});
    }
    newest_agreed = std::max(newest_agreed, snapshot.newest_agreed);
    if (snapshot.joins) continue;
    begin_.step = std::max(begin_.step, snapshot.begun_step);
    begin_.last_open_step = std::max(begin_.last_open_step, snapshot.last_open_step);
    for (std::size_t layer = 0; layer < epochs.size(); ++layer)
      begin_.epochs[layer] = std::max(begin_.epochs[layer], epochs[layer]);
    const bool newer = source_ < 0 || snapshot.membership > newest;
    // Whoever has gone further has heard every request for a mode that the others have.
    if (newer || (snapshot.membership == newest && snapshot.begun_step > furthest)) {
      begin_.mode = snapshot.mode;
      furthest = snapshot.begun_step;
    }
    if (!newer) continue;
    source_ = static_cast<int>(i);
    newest = snapshot.membership;
  }
  if (source_ < 0) return end({ErrorCode::kUnavailable, "all live ranks join: nobody serves"});
  // A rank that entered the attempt before may be lost since: its membership's number is taken, and
  // all who agreed to it know so.
  begin_.membership = core_.newest_agreed = newest_agreed + 1;
  if (faulty(Fault::kNoStepSync)) begin_.step = core_.step;
  if (faulty(Fault::kCountersKept) && core_.worker != nullptr)
    begin_.last_open_step = core_.agreement->last_open_step();
  if (!joins_) {
    if (Status status = core_.roll_forward(begin_.epochs); !status.ok()) return end(status);
  }
  stage_ = Stage::kState;
}

// ---- The state that all go on from ----

void Reconfiguration::exchange_state() {
  if (state_.empty()) {
    if (rank() == source_) {
      state_ = encode_membership_state(core_.ranks, core_.first_shape,
                                       ServedState::even(core_.placement, core_.shape));
      state_source_ = {state_};
      for (int peer = 0; peer < transport_->num_ranks(); ++peer) {
        if (peer == rank()) continue;
        state_handles_.push_back(
            transport_->post_send(peer, kStateTag, state_source_, Delivery::kEager));
      }
    } else {
      state_.resize(membership_state_capacity(core_.first_shape));
      state_target_ = {state_};
      state_handles_.push_back(
          transport_->post_recv(source_, kStateTag, state_target_, Delivery::kEager));
    }
  }
  bool all_done = true;
  for (TransportHandle& handle : state_handles_) {
    all_done &= done(handle, "the served state");
    if (stage_ == Stage::kOver) return;
  }
  if (all_done) use_state(state_);
}

void Reconfiguration::use_state(std::span<const std::byte> bytes) {
  std::vector<int> old_ranks;
  ServedState state;
  Status status = decode_membership_state(bytes, core_.first_shape, old_ranks, state);
  if (!status.ok()) return end(status);
  const ClusterShape old_shape = shape_of_ranks(core_.first_shape, old_ranks);
  status = place_experts(state, old_shape, old_ranks);
  if (!status.ok()) return end(status);
  post_verdict(load_experts());
  stage_ = Stage::kVerdict;
}

// Ranks that stay bring their slots along; a new rank's are empty; lost experts get a slot.
Status Reconfiguration::place_experts(const ServedState& state, const ClusterShape& old_shape,
                                      std::span<const std::int32_t> old_ranks) {
  served_.placement = Placement(shape_.num_moe_layers(), shape_.num_slots());
  served_.shares.clear();
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    const auto old_row = state.placement.layer(layer);
    const auto row = served_.placement.layer(layer);
    std::ranges::fill(row, kEmptySlot);
    for (int member = 0; member < shape_.num_ranks(); ++member) {
      const auto found =
          std::ranges::find(old_ranks, live_ranks_[static_cast<std::size_t>(member)]);
      if (found == old_ranks.end()) continue;
      const int old_member = static_cast<int>(found - old_ranks.begin());
      std::ranges::copy_n(old_row.begin() + old_shape.first_slot(old_member),
                          shape_.slots_per_rank(member), row.begin() + shape_.first_slot(member));
    }
    const bool otherwise = faulty(Fault::kRehomeByRank) && rank() % 2 == 1;
    if (otherwise) std::ranges::reverse(row);
    const bool placed = rehome_lost_experts(row, shape_);
    if (otherwise) std::ranges::reverse(row);
    if (!placed) {
      return {ErrorCode::kUnavailable, std::to_string(shape_.num_slots()) + " slots cannot hold " +
                                           std::to_string(shape_.num_logical_experts()) +
                                           " experts"};
    }
    served_.shares.push_back(even_shares(row, shape_.num_logical_experts()));
  }
  return {};
}

// Compares with what the slots really hold, not with what was placed before: an earlier attempt may
// have come this far already.
Status Reconfiguration::load_experts() {
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    for (int local = 0; local < core_.num_local_slots; ++local) {
      const auto slot = static_cast<std::size_t>(shape_.first_slot(rank()) + local);
      const std::int32_t expert = served_.placement.layer(layer)[slot];
      if (expert == kEmptySlot || expert == core_.content(layer, local)) continue;
      if (Status status = load_expert(layer, local, expert); !status.ok()) return status;
    }
  }
  return {};
}

Status Reconfiguration::load_expert(int layer, int local_slot, std::int32_t expert) {
  const std::string which =
      "expert " + std::to_string(expert) + " of MoE layer " + std::to_string(layer);
  if (!core_.config.load_expert) {
    return {ErrorCode::kUnavailable, which + " has no live slot any more, and there is no " +
                                         "load_expert callback to bring it back"};
  }
  core_.content(layer, local_slot) = kEmptySlot;
  try {
    if (!faulty(Fault::kReloadSkipped))
      core_.config.load_expert(layer, expert, core_.slot_parts[core_.index(layer, local_slot)]);
  } catch (const std::exception& error) {
    return {ErrorCode::kUnavailable, which + " cannot be loaded: " + error.what()};
  }
  core_.content(layer, local_slot) = expert;
  ++core_.stats.experts_loaded;
  return {};
}

// ---- All or none ----

void Reconfiguration::post_verdict(const Status& loaded) {
  if (!loaded.ok() && core_.config.log) core_.config.log(loaded.message());
  std::uint64_t digest = mix(begin_.membership, begin_.step);
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    digest = mix(digest, begin_.epochs[static_cast<std::size_t>(layer)]);
    for (std::int32_t expert : served_.placement.layer(layer))
      digest = mix(digest, static_cast<std::uint64_t>(expert));
  }
  verdict_ = encode_verdict({loaded.ok(), digest, loaded.message()});
  verdicts_.resize(verdict_.size() * live_ranks_.size());
  gather_ = transport_->post_all_gather(kVerdictTag, verdict_, verdicts_);
}

void Reconfiguration::use_verdicts() {
  const std::size_t each = verdict_.size();
  Verdict mine;
  static_cast<void>(decode_verdict(verdict_, mine));
  for (std::size_t i = 0; i < live_ranks_.size(); ++i) {
    Verdict verdict;
    Status status = decode_verdict(std::span(verdicts_).subspan(i * each, each), verdict);
    if (!status.ok()) return end({status.code(), name(live_ranks_[i]) + ": " + status.message()});
    if (!verdict.ok)
      return end({ErrorCode::kUnavailable, name(live_ranks_[i]) + ": " + verdict.why});
    if (verdict.digest != mine.digest) {
      return end({ErrorCode::kInternal, name(live_ranks_[i]) + " goes on from another state than " +
                                            name(live_ranks_[static_cast<std::size_t>(rank())])});
    }
  }
  enter();
}

void Reconfiguration::enter() {
  core_.enter(shape_, live_ranks_, begin_, served_, std::move(transport_));
  core_.health.membership = begin_.membership;
  ++core_.stats.reconfigurations;
  end({});
}

}  // namespace swiftbalancer
