#pragma once
// Virtual time. Ranks share few cores here, so wall time cannot show what balancing wins: with
// `--device timed` every rank carries a virtual clock, advanced by a hardware profile, that rides
// in dispatch, combine and step headers (a barrier takes the maximum). Numbers are still really
// computed, moved and committed. All of it is integer or fixed-order arithmetic on agreed inputs:
// same seed, same times, to the bit. Engine thread of one rank.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>

#include "runtime/simulated_progress.hpp"

namespace swiftbalancer::engine {

struct HardwareConstant {
  double value = 0.0;
  std::string unit;
  std::string source;
};

/// data/hardware/*.yaml: every constant with unit and source; sizes of a named large model, per
/// rank and MoE layer.
struct HardwareProfile {
  std::string name;
  std::string model;  ///< The large model whose sizes are charged.
  std::map<std::string, HardwareConstant> constants;
  double value(const std::string& constant)
      const;  ///< @throws Error kInvalidArgument naming profile and constant.
};

/// @throws Error kIo: cannot be read. kInvalidArgument, with file and line: a key unknown, missing
/// or given twice, a unit
///         other than expected, a value that is not a finite number above 0.
HardwareProfile load_hardware_profile(const std::string& path);

struct TimedDeviceOptions {
  int token_scale = 1;  ///< Each real token stands for this many tokens of the named model.
  InstallMode install_mode = InstallMode::kSwap;
  std::string policy;  ///< Planning is charged per policy: the profile's constant plan_<policy>.
  std::uint64_t packet_interval = 1;
  std::uint64_t packet_lag = 2;
  std::vector<int> staging_capacity_per_rank;  ///< Buffers; agreed by all ranks at start.
  std::size_t packet_bytes = 0;                ///< One rank's packet.
};

/// Every duration is worked out in double in a fixed order from the profile and agreed inputs, and
/// rounded once. Calls out of order, lists of a wrong length and clocks that go back throw Error
/// kInvalidArgument.
class TimedDevice {
 public:
  /// @param shape outlives the device. @throws Error kInvalidArgument: an option out of range, no
  /// plan_<policy> in the profile.
  TimedDevice(const HardwareProfile& profile, const ClusterShape& shape, int rank,
              const TimedDeviceOptions& options);
  ~TimedDevice();

  /// This rank's virtual clock.
  std::int64_t now_ns() const noexcept;

  /// Step boundary: engines with data-parallel attention agree on every step; all ranks go on at
  /// the latest clock, plus the cost of that agreement (none with one rank). Then waits (virtually)
  /// for the packet set used by this step: the packets of step s leave when the last rank has ended
  /// s and are everywhere one all-gather later. All ranks leave this call at the same clock. @param
  /// clocks [num_ranks] at the end of the previous step, as exchanged, this rank's own included.
  /// @returns the stall for packets.
  std::int64_t begin_step(std::uint64_t step, std::span<const std::int64_t> clocks);
  /// After Balancer::begin_step, every step: charges the call and this rank's installs, and keeps
  /// the timetable of copies and plans. The events and the start clock are the same on all ranks,
  /// and so is the timetable.
  void on_events(std::uint64_t step, std::span<const BalancerEvent> events);

  /// Attention, router and everything else that a rank does for its own tokens in one layer: the
  /// larger of arithmetic and memory traffic. Nothing without tokens. @param context sum over these
  /// tokens of cached positions.
  void attention(int num_tokens, std::int64_t context);
  /// Rows for and from other ranks; the busier direction of the slower link counts. Copies under
  /// way at this clock leave dispatch 1 - copy_link_share of the link and direction they use: the
  /// difference is charged to copy_slowdown.
  /// @param rows_to [num_ranks] rows sent (own rank included, not charged). @param rows_from
  /// likewise. @returns own clock.
  std::int64_t dispatch(std::span<const int> rows_to, std::span<const int> rows_from);
  /// A barrier: the clock becomes the maximum. @param clocks [num_ranks] from the headers, this
  /// rank's own included.
  void arrive(std::span<const std::int64_t> clocks);
  /// Experts of one layer: the larger of the tokens' arithmetic (term expert_tokens) and reading
  /// the weights of the slots that have tokens (term expert_weights). @param tokens_per_slot [slots
  /// of this rank].
  void experts(std::span<const std::uint32_t> tokens_per_slot);
  /// Like dispatch, for the way back.
  std::int64_t combine(std::span<const int> rows_to, std::span<const int> rows_from);
  /// Final norm, head and sampling for the sequences that yield a token.
  void head(int num_tokens);
  /// Balancer::record of all layers and end_step.
  void balancer_calls(int num_layers);

  /// What the worker counts as having finished now: give it to SimulatedProgress::hold_at() before
  /// end_step(). Loads count as judged in the step that uses their set; the worker's time for that
  /// delays the plan, not the engine.
  WorkerProgress visible() const;

  /// Virtual nanoseconds charged on this rank so far by term (attention, dispatch, expert_tokens,
  /// expert_weights, combine, head, step_barrier, balancer_calls, install, packet_stall,
  /// copy_slowdown, barrier_wait). Their sum is now_ns().
  const std::map<std::string, std::int64_t>& terms() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftbalancer::engine
