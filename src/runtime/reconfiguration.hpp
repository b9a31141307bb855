#pragma once
// From one membership to the next (rules 12 to 14): the live ranks exchange what they have reached,
// roll forward, take over the state of the most advanced rank, bring back lost experts, and go on
// only when all have done so. Takes what a rank has reached as a value and gives what it goes on
// with as one; in between it acts on the rank through MembershipHost. Never waits: advance() does
// what can be done now, so that the deterministic simulation can run it event by event. If another
// rank is lost meanwhile, this object is dropped and a new one begins; nothing is lost by that.
// Engine thread, in place of steps.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/transport.hpp>

#include "planner/served_state.hpp"
#include "protocol/agreement.hpp"
#include "runtime/membership_messages.hpp"

namespace swiftbalancer {

/// What a rank brings into a reconfiguration.
struct MemberState {
  ClusterShape first_shape;
  std::vector<int> ranks;  ///< Of the membership that it was in, or would have been.
  int first_rank = 0;      ///< Its number in first_shape.
  Snapshot reached;
  std::vector<std::uint64_t> epochs;  ///< [num_moe_layers]; empty if it has served nothing.
};

/// What all live ranks go on with.
struct NextMembership {
  ClusterShape shape;      ///< Of the live ranks.
  std::vector<int> ranks;  ///< Their numbers in the first shape.
  AgreedState begin;
  ServedState served;
  std::unique_ptr<Transport> transport;
};

/// What a reconfiguration does to the rank that it runs on.
class MembershipHost {
 public:
  virtual ~MembershipHost() = default;
  /// The ranks have agreed on this number; it is taken, whatever becomes of the attempt.
  virtual void take_number(std::uint32_t membership) noexcept = 0;
  /// Rule 13. @param target_epochs [num_moe_layers] the highest of all ranks. @param heard_step the
  /// newest set of this rank's membership that one of them has used.
  virtual Status roll_forward(std::span<const std::uint64_t> target_epochs,
                              std::uint64_t heard_step) = 0;
  /// What is served here, after roll_forward().
  virtual ServedState served() const = 0;
  /// The expert whose bytes lie in a slot, or kEmptySlot.
  virtual std::int32_t content(int moe_layer_id, int local_slot) const = 0;
  /// Brings an expert's bytes into a slot. May take long.
  virtual Status load_expert(int moe_layer_id, int local_slot, std::int32_t logical_id) = 0;
};

/// @param first_rank this one. @param transport joins the live ranks.
/// @throws Error kInvalidArgument: ranks not ascending, out of range, without this rank, or not
/// those of the transport; kUnavailable: too few slots for all experts.
void check_live_ranks(const ClusterShape& first_shape, int first_rank,
                      std::span<const int> live_ranks, const Transport& transport);

class Reconfiguration {
 public:
  /// @param live_ranks numbers of the first shape, ascending; the transport joins exactly them.
  /// @throws Error as check_live_ranks().
  Reconfiguration(MemberState mine, MembershipHost& host, std::span<const int> live_ranks,
                  std::unique_ptr<Transport> transport);
  ~Reconfiguration();

  /// @returns true when it is over; status() then says how.
  bool advance();
  const Status& status() const noexcept { return status_; }
  /// Exchanges that have ended. Each may take as long as a deadline: a rank that loads experts
  /// takes part in one after each of them, so that a slow rank is told from a lost one.
  int num_exchanges() const noexcept { return num_exchanges_; }
  /// What a wait on transport() came to, with the ranks named by their first numbers.
  Status failed_wait(const Status& waited);
  Transport& transport() noexcept { return *transport_; }
  /// After it went well, once.
  NextMembership take();

 private:
  enum class Stage { kSnapshots, kState, kLoading, kOver };
  struct MissingExpert {
    int moe_layer_id;
    int local_slot;
    std::int32_t logical_id;
  };

  void post_snapshot();
  void use_snapshots();
  void exchange_state();
  void use_state(std::span<const std::byte> bytes);
  Status place_experts(const ServedState& state, const ClusterShape& old_shape,
                       std::span<const std::int32_t> old_ranks);
  void find_missing();
  void load_one();
  void go_on_loading();
  void post_verdict();
  void use_verdicts();
  std::uint64_t digest_of_next() const;
  void end(Status status);
  /// @returns whether the operation is done; a failure ends the reconfiguration.
  bool done(TransportHandle& handle, const char* what);
  int rank() const noexcept { return transport_->rank(); }
  std::string name(std::size_t member) const;
  bool is_of_newest(const Snapshot& snapshot) const noexcept {
    return !snapshot.joins && snapshot.membership == newest_membership_;
  }

  const MemberState mine_;
  MembershipHost& host_;
  const std::vector<int> live_ranks_;
  std::unique_ptr<Transport> transport_;
  const ClusterShape shape_;  // of the live ranks
  Stage stage_ = Stage::kSnapshots;
  Status status_;
  int num_exchanges_ = 0;
  std::uint64_t round_ = 0;  // of verdicts; equal on all ranks

  std::vector<std::byte> snapshot_, snapshots_;
  TransportHandle gather_;
  std::uint32_t newest_membership_ = 0;  // that any live rank was in
  AgreedState begin_;                    // of the membership that begins
  int source_ = 0;                       // the rank whose state all take over
  std::vector<std::byte> state_;
  std::vector<std::span<std::byte>> state_target_;
  std::vector<std::span<const std::byte>> state_source_;
  std::vector<TransportHandle> state_handles_;
  ServedState served_;                  // of the membership that begins
  std::vector<MissingExpert> missing_;  // still to be loaded, the next one last
  Status loaded_;
  std::vector<std::byte> verdict_, verdicts_;
};

}  // namespace swiftbalancer
