#pragma once
// From one membership to the next (rules 12 to 14): the live ranks exchange what they have reached,
// roll forward, take over the state of the most advanced rank, bring back lost experts, and go on
// only when all have done so. Never waits: advance() does what can be done now, so that the
// deterministic simulation can run it event by event. If another rank is lost meanwhile, this
// object is dropped and a new one begins; nothing is lost by that. Engine thread, in place of
// steps.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/transport.hpp>

#include "runtime/balancer_core.hpp"

namespace swiftbalancer {

class Reconfiguration {
 public:
  /// @param live_ranks numbers of the first shape, ascending; the transport joins exactly them.
  /// @param joins this rank has served nothing yet. @throws Error kInvalidArgument: ranks not
  /// ascending, out of range, without this rank, or not those of the transport; kUnavailable: too
  /// few slots for all experts.
  Reconfiguration(BalancerCore& core, std::span<const int> live_ranks,
                  std::unique_ptr<Transport> transport, bool joins);
  ~Reconfiguration();

  /// @returns true when it is over; status() then says how.
  bool advance();
  const Status& status() const noexcept { return status_; }
  Transport& transport() noexcept { return *transport_; }

 private:
  enum class Stage { kSnapshots, kState, kVerdict, kOver };

  void post_snapshot();
  void use_snapshots();
  void exchange_state();
  void use_state(std::span<const std::byte> bytes);
  Status place_experts(const ServedState& state, const ClusterShape& old_shape,
                       std::span<const std::int32_t> old_ranks);
  Status load_experts();
  Status load_expert(int layer, int local_slot, std::int32_t expert);
  void post_verdict(const Status& loaded);
  void use_verdicts();
  void enter();
  void end(Status status);
  /// @returns whether the operation is done; a failure ends the reconfiguration.
  bool done(TransportHandle& handle, const char* what);
  int rank() const noexcept { return transport_->rank(); }

  BalancerCore& core_;
  const std::vector<int> live_ranks_;
  std::unique_ptr<Transport> transport_;
  const bool joins_;
  const ClusterShape shape_;  // of the live ranks
  Stage stage_ = Stage::kSnapshots;
  Status status_;

  std::vector<std::byte> snapshot_, snapshots_;
  TransportHandle gather_;
  AgreedState begin_;  // of the membership that begins
  int source_ = 0;     // the rank whose state all take over
  std::vector<std::byte> state_;
  std::vector<std::span<std::byte>> state_target_;
  std::vector<std::span<const std::byte>> state_source_;
  std::vector<TransportHandle> state_handles_;
  ServedState served_;  // of the membership that begins
  std::vector<std::byte> verdict_, verdicts_;
};

}  // namespace swiftbalancer
