#pragma once
// Start here. A Balancer is one rank's part of live expert balancing. The engine creates it,
// registers its expert weights, starts it, and then makes four calls per step, all on the engine's
// thread, all bounded:
//
// clang-format off
//   balancer.begin_step({step, phase, idle});    // installs what was agreed for this step, enqueues due work
//   for every MoE layer:
//     route with balancer.dispatch_table(layer), run the experts from balancer.slot_parts(layer, slot);
//     balancer.record(layer, expert_token_counts);
//   balancer.end_step();                         // hands the counts over when a packet is due
// clang-format on
//
// All ranks make the same steps. Everything else (packets, planning, copies) happens on the
// balancer worker, a thread of this object. If balancing fails, serving goes on with the last
// committed placement.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include <swiftbalancer/balancer_config.hpp>
#include <swiftbalancer/balancer_events.hpp>
#include <swiftbalancer/balancer_stats.hpp>
#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/shape.hpp>
#include <swiftbalancer/transport.hpp>

namespace swiftbalancer {

struct StepInfo {
  std::uint64_t step = 0;  ///< 1, 2, 3, ...: the same on every rank.
  /// Of all ranks' tokens together: decode_dispatch goes by it, and loads of phases are kept apart.
  Phase phase = Phase::kMixed;
  bool idle = false;  ///< This rank has no tokens of its own in this step.
};

/// One part of an expert's weights (a projection, its scales, ...): opaque bytes owned by the
/// engine.
struct WeightPart {
  std::byte* data = nullptr;
  std::size_t bytes = 0;
};

class Balancer {
 public:
  /// @param transport used by the worker alone; its ranks are those of the shape. @throws Error
  /// kInvalidArgument: a value out of range, unknown policy.
  Balancer(const ClusterShape& shape, const BalancerConfig& config,
           std::unique_ptr<Transport> transport);
  /// Stops the worker. No call may be under way, and all ranks have ended their last step: to a
  /// slower one this rank is lost.
  ~Balancer();
  Balancer(const Balancer&) = delete;
  Balancer& operator=(const Balancer&) = delete;

  /// Registers the weights of a local slot; before start(), every layer and slot once, with the
  /// same parts within a layer (kSwap: within the model). The memory is borrowed and outlives the
  /// balancer; with kSwap it serves as staging too, so only slot_parts() tells where an expert
  /// lies.
  /// @throws Error kInvalidArgument, kInvalidState after start().
  void register_weights(int moe_layer_id, int local_slot, std::span<const WeightPart> parts);
  /// Starts the worker with the placement that the registered slots hold now. Collective: returns
  /// when all ranks have called it and are configured alike.
  /// @throws Error kInvalidArgument: invalid placement, staging_bytes below one expert, ranks
  /// configured differently; kInvalidState: slots missing, called twice; kTimeout, kPeerLost,
  /// kTransport: other ranks did not come.
  void start(const Placement& served);

  /// In place of constructor and start(), for a rank that joins a cluster at work: its slots start
  /// empty, and a plan fills them. Collective with the others' reconfigure(). If it fails, call it
  /// again with another transport.
  /// @param transport joins the live ranks. @param live_ranks as for reconfigure().
  /// @param register_weights called once, to register all slots.
  /// @param status as of reconfigure(). @returns null unless it is ok. @throws Error as start().
  static std::unique_ptr<Balancer> join(const ClusterShape& shape, const BalancerConfig& config,
                                        std::unique_ptr<Transport> transport,
                                        std::span<const int> live_ranks,
                                        const std::function<void(Balancer&)>& register_weights,
                                        Status& status);

  // --- Membership. Engine thread, between steps or in place of the rest of a forward. ---

  /// Goes on with other ranks, or with the same after a failed gather. Collective among
  /// `live_ranks` over `transport`, a new one that joins exactly them, in this order; the old
  /// transport is closed. What some rank has committed is committed by all (roll forward), the plan
  /// under way is dropped, experts without a live slot are brought back by load_expert. Afterwards
  /// ranks and slots are numbered over the live ranks (shape(), rank()), and the next step is
  /// steps_begun() + 1: the highest that any rank has begun, plus one.
  /// Messages name ranks by their numbers in the first shape, as live_ranks does.
  /// @param live_ranks numbers of the first shape, ascending; own rank among them.
  /// @returns kInvalidState (before start()) or kInvalidArgument (live_ranks or transport do not
  /// fit, or ranks were started differently); kUnavailable: the live ranks have too few slots, or
  /// experts cannot be brought back; kTimeout (names the ranks that took no part in an exchange
  /// until the deadline; one that loads experts takes part after each), kPeerLost or kTransport:
  /// another rank was lost meanwhile, call it again with those left; kInternal: ranks disagree, or
  /// something is lacking here. Once ranks and transport fit, no step can be made until it has
  /// succeeded.
  Status reconfigure(std::span<const int> live_ranks, std::unique_ptr<Transport> transport);
  /// The shape as of the last reconfiguration. Address fixed.
  const ClusterShape& shape() const noexcept;
  /// This rank's number in shape().
  int rank() const noexcept;
  /// Numbers that the ranks of shape() had in the first shape.
  std::span<const int> live_ranks() const noexcept;
  /// The last step begun; after a reconfiguration the highest that any rank has begun.
  std::uint64_t steps_begun() const noexcept;

  /// Asks for a mode, on any rank; agreed by the next packet, and kept by all until one asks for
  /// another. Asked on several ranks at once, paused goes before plan-only before on.
  void set_mode(BalancingMode mode) noexcept;

  // --- The four calls. Engine thread. No allocation; no system call when nothing is due. ---

  /// Installs what was agreed for this step. May wait for the packet set of its step, for nothing
  /// else.
  /// @returns a failure when the step must not be run: kTimeout (names the ranks whose packets are
  /// missing; call it again for the same step, or reconfigure), kPeerLost (likewise), kTransport (a
  /// packet that is not what it should be), kInternal (the ranks have diverged): reconfigure;
  /// kInvalidArgument (step out of order); kInvalidState (another step than the one that failed, or
  /// no reconfiguration yet).
  Status begin_step(const StepInfo& info) noexcept;
  /// The choices of one layer for this source rank and the phase of the step; valid until the next
  /// begin_step. The layer must exist.
  DispatchView dispatch_table(int moe_layer_id) const noexcept;
  /// Likewise with TableKind::kDraw, refreshed in place by begin_step; else nullptr.
  const DrawTable* draw_table(int moe_layer_id) const noexcept;
  /// Adds one layer's tokens received per local slot after dispatch, [slots of this rank]. Layers
  /// and slots that do not exist are ignored.
  void record(int moe_layer_id, std::span<const std::uint32_t> expert_token_counts) noexcept;
  /// Ends the step; posts this rank's packet when one is due.
  /// @returns kInvalidArgument or kInvalidState: no step has begun; kInternal: the packet cannot be
  /// posted, reconfigure.
  Status end_step() noexcept;

  // --- Reading. Engine thread, between begin_step and the next. Layers and slots must exist. ---

  /// What is served now. Changes inside begin_step and reconfigure() only, which may change its
  /// size too; the address of the object stays.
  const Placement& placement() const noexcept;
  /// Epoch of each layer [num_moe_layers]: committed changes.
  std::span<const std::uint64_t> epochs() const noexcept;
  /// Current memory of a local slot's parts (kSwap: changes inside begin_step and reconfigure();
  /// kCopy: as registered).
  std::span<std::byte* const> slot_parts(int moe_layer_id, int local_slot) const noexcept;
  /// Tokens that each local slot of a layer has received, whatever experts it held in the meantime:
  /// a count that never falls, of which differences are used. Kept from the first call on, at the
  /// cost of one pass over all slots a packet; nobody who does not call pays for it.
  /// @param out [slots of this rank]
  void received_tokens(int moe_layer_id, std::span<std::int64_t> out) const;
  /// Events of the last begin_step, in order; after reconfigure() those by which it ended what was
  /// under way, with slots numbered as before.
  std::span<const BalancerEvent> events() const noexcept;
  const BalancerStats& stats() const noexcept;
  Health health() const;
  std::size_t expert_bytes(int moe_layer_id) const noexcept;
  /// Staging buffers of this rank's pool (each holds one expert).
  int staging_capacity() const noexcept;
  /// Size of one rank's packet.
  std::size_t packet_bytes() const noexcept;

 private:
  struct Impl;
  friend class SimulatedProgress;  // of harnesses: src/runtime/simulated_progress.hpp
  explicit Balancer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftbalancer
