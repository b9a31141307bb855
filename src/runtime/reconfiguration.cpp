#include "runtime/reconfiguration.hpp"

#include <algorithm>
#include <utility>

#include "migration/rehome.hpp"
#include "protocol/packet.hpp"
#include "runtime/config.hpp"
#include "runtime/runtime_rules.hpp"

namespace swiftbalancer {
namespace {

// Each attempt has a transport of its own, so that tags need no membership.
enum Tag : std::uint64_t { kSnapshotTag = 1, kStateTag, kVerdictTag };  // the last: and upwards

}  // namespace

void check_live_ranks(const ClusterShape& first_shape, int first_rank,
                      std::span<const int> live_ranks, const Transport& transport) {
  shape_of_ranks(first_shape, live_ranks);
  const auto number = static_cast<std::size_t>(transport.rank());
  if (transport.num_ranks() == static_cast<int>(live_ranks.size()) &&
      live_ranks[number] == first_rank)
    return;
  throw Error(ErrorCode::kInvalidArgument,
              "the new transport joins " + std::to_string(transport.num_ranks()) +
                  " ranks and makes this one number " + std::to_string(number) +
                  "; live_ranks has " + std::to_string(live_ranks.size()) + ", and this is rank " +
                  std::to_string(first_rank));
}

Reconfiguration::Reconfiguration(MemberState mine, MembershipHost& host,
                                 std::span<const int> live_ranks,
                                 std::unique_ptr<Transport> transport)
    : mine_(std::move(mine)),
      host_(host),
      live_ranks_(live_ranks.begin(), live_ranks.end()),
      transport_(std::move(transport)),
      shape_(shape_of_ranks(mine_.first_shape, live_ranks_)) {
  check_live_ranks(mine_.first_shape, mine_.first_rank, live_ranks_, *transport_);
  post_snapshot();
}

Reconfiguration::~Reconfiguration() = default;

bool Reconfiguration::advance() {
  if (stage_ == Stage::kSnapshots && done(gather_, "snapshots")) use_snapshots();
  if (stage_ == Stage::kState) exchange_state();
  if (stage_ == Stage::kLoading && done(gather_, "verdicts")) use_verdicts();
  return stage_ == Stage::kOver;
}

NextMembership Reconfiguration::take() {
  return {shape_, live_ranks_, std::move(begin_), std::move(served_), std::move(transport_)};
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
  if (status.state == TransferState::kDone) {
    ++num_exchanges_;
    return true;
  }
  end({ErrorCode::kTransport, std::string("reconfiguration: exchanging ") + what + " failed"});
  return false;
}

Status Reconfiguration::failed_wait(const Status& waited) {
  const bool lost = waited.code() == ErrorCode::kPeerLost;
  if (!lost && waited.code() != ErrorCode::kTimeout) return waited;
  std::string names;
  for (const int member : lost ? transport_->lost_peers() : transport_->awaited_peers())
    names += (names.empty() ? "" : ", ") + name(static_cast<std::size_t>(member));
  return {waited.code(), "reconfiguration of rank " + std::to_string(mine_.first_rank) +
                             (lost ? ": lost " : ": until the deadline nothing came from ") +
                             names};
}

std::string Reconfiguration::name(std::size_t member) const {
  return "rank " + std::to_string(live_ranks_[member]);
}

// ---- What every rank has reached ----

void Reconfiguration::post_snapshot() {
  snapshot_ = encode_snapshot(mine_.reached, mine_.epochs, shape_.num_moe_layers());
  snapshots_.resize(snapshot_.size() * live_ranks_.size());
  gather_ = transport_->post_all_gather(kSnapshotTag, snapshot_, snapshots_);
}

// Rule 14: step = the highest begun; private counters are made equal. Epochs are those of the
// newest membership, whose most advanced rank tells what else was agreed. A rank that missed it has
// nothing to say, and goes on as one that joins.
void Reconfiguration::use_snapshots() {
  const std::size_t each = snapshot_.size();
  std::vector<Snapshot> snapshots(live_ranks_.size());
  std::vector<std::vector<std::uint64_t>> epochs(live_ranks_.size());
  std::uint32_t newest_agreed = 0;
  for (std::size_t i = 0; i < live_ranks_.size(); ++i) {
    Snapshot& snapshot = snapshots[i];
    Status status = decode_snapshot(std::span(snapshots_).subspan(i * each, each),
                                    shape_.num_moe_layers(), snapshot, epochs[i]);
    if (!status.ok()) return end({status.code(), name(i) + ": " + status.message()});
    const std::string difference = first_difference(mine_.reached.config, snapshot.config);
    if (!difference.empty()) {
      return end({ErrorCode::kInvalidArgument, name(static_cast<std::size_t>(rank())) + " and " +
                                                   name(i) +
                                                   " were started differently: " + difference});
    }
    newest_agreed = std::max(newest_agreed, snapshot.newest_agreed);
    if (!snapshot.joins) newest_membership_ = std::max(newest_membership_, snapshot.membership);
  }
  source_ = -1;
  Snapshot newest;
  begin_.epochs.assign(static_cast<std::size_t>(shape_.num_moe_layers()), 0);
  for (std::size_t i = 0; i < live_ranks_.size(); ++i) {
    const Snapshot& snapshot = snapshots[i];
    if (!is_of_newest(snapshot)) continue;
    begin_.step = std::max(begin_.step, snapshot.begun_step);
    begin_.last_open_step = std::max(begin_.last_open_step, snapshot.last_open_step);
    for (std::size_t layer = 0; layer < begin_.epochs.size(); ++layer)
      begin_.epochs[layer] = std::max(begin_.epochs[layer], epochs[i][layer]);
    if (source_ >= 0 && snapshot.used_step <= newest.used_step) continue;
    source_ = static_cast<int>(i);
    newest = snapshot;
  }
  if (source_ < 0) return end({ErrorCode::kUnavailable, "all live ranks join: nobody serves"});
  if (rules::mode_goes_on()) begin_.mode = newest.mode;
  // A rank that entered the attempt before may be lost since: its membership's number is taken, and
  // all who agreed to it know so.
  begin_.membership = newest_agreed + 1;
  host_.take_number(begin_.membership);
  if (!rules::steps_made_equal()) begin_.step = mine_.reached.begun_step;
  if (!rules::counters_made_equal()) begin_.last_open_step = mine_.reached.last_open_step;
  if (!mine_.reached.joins) {
    const bool same = is_of_newest(mine_.reached);
    Status status =
        host_.roll_forward(same ? begin_.epochs : mine_.epochs, same ? newest.used_step : 0);
    if (!status.ok()) return end(status);
  }
  stage_ = Stage::kState;
}

// ---- The state that all go on from ----

void Reconfiguration::exchange_state() {
  if (state_.empty()) {
    if (rank() == source_) {
      state_ = encode_membership_state(mine_.ranks, mine_.first_shape, host_.served());
      state_source_ = {state_};
      for (int peer = 0; peer < transport_->num_ranks(); ++peer) {
        if (peer == rank()) continue;
        state_handles_.push_back(
            transport_->post_send(peer, kStateTag, state_source_, Delivery::kEager));
      }
    } else {
      state_.resize(membership_state_capacity(mine_.first_shape));
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
  Status status = decode_membership_state(bytes, mine_.first_shape, old_ranks, state);
  if (!status.ok()) return end(status);
  const ClusterShape old_shape = shape_of_ranks(mine_.first_shape, old_ranks);
  status = place_experts(state, old_shape, old_ranks);
  if (!status.ok()) return end(status);
  find_missing();
  stage_ = Stage::kLoading;
  go_on_loading();
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
    const bool otherwise = !rules::rehome_alike() && rank() % 2 == 1;
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

// ---- All or none ----

// Compares with what the slots really hold, not with what was placed before: an earlier attempt may
// have come this far already.
void Reconfiguration::find_missing() {
  for (int layer = shape_.num_moe_layers(); layer-- > 0;) {
    for (int local = shape_.slots_per_rank(rank()); local-- > 0;) {
      const auto slot = static_cast<std::size_t>(shape_.first_slot(rank()) + local);
      const std::int32_t expert = served_.placement.layer(layer)[slot];
      if (expert != kEmptySlot && expert != host_.content(layer, local))
        missing_.push_back({layer, local, expert});
    }
  }
}

void Reconfiguration::load_one() {
  if (missing_.empty()) return;
  const MissingExpert next = missing_.back();
  missing_.pop_back();
  loaded_ = host_.load_expert(next.moe_layer_id, next.local_slot, next.logical_id);
  if (!loaded_.ok()) missing_.clear();
}

std::uint64_t Reconfiguration::digest_of_next() const {
  std::uint64_t digest = mix(mix(begin_.membership, begin_.step), begin_.last_open_step);
  digest = mix(digest, static_cast<std::uint64_t>(begin_.mode));
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    digest = mix(digest, begin_.epochs[static_cast<std::size_t>(layer)]);
    for (std::int32_t expert : served_.placement.layer(layer))
      digest = mix(digest, static_cast<std::uint64_t>(expert));
  }
  return digest;
}

// In rounds, with one expert a round: so the others hear of each one, and this rank of them. As
// long as one rank loads, there is another round.
void Reconfiguration::go_on_loading() {
  load_one();
  post_verdict();
}

void Reconfiguration::post_verdict() {
  Verdict mine;
  mine.ready = missing_.empty();
  mine.ok = loaded_.ok();
  mine.digest = digest_of_next();
  mine.why = loaded_.message();
  verdict_ = encode_verdict(mine);
  verdicts_.resize(verdict_.size() * live_ranks_.size());
  gather_ = transport_->post_all_gather(kVerdictTag + round_++, verdict_, verdicts_);
}

void Reconfiguration::use_verdicts() {
  const std::size_t each = verdict_.size();
  Verdict mine;
  static_cast<void>(decode_verdict(verdict_, mine));
  bool all_ready = true;
  for (std::size_t i = 0; i < live_ranks_.size(); ++i) {
    Verdict verdict;
    Status status = decode_verdict(std::span(verdicts_).subspan(i * each, each), verdict);
    if (!status.ok()) return end({status.code(), name(i) + ": " + status.message()});
    if (!verdict.ok) return end({ErrorCode::kUnavailable, name(i) + ": " + verdict.why});
    if (verdict.digest != mine.digest) {
      return end({ErrorCode::kInternal, name(i) + " goes on from another state than " +
                                            name(static_cast<std::size_t>(rank()))});
    }
    all_ready &= verdict.ready;
  }
  if (!all_ready) return go_on_loading();
  end({});
}

}  // namespace swiftbalancer
