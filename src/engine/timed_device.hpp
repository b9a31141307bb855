#pragma once
// Virtual time. Ranks share few cores here, so wall time cannot show what balancing wins: with `--device timed` every rank
// carries a virtual clock, advanced by a hardware profile, that rides in dispatch, combine and step headers (a barrier takes
// the maximum). Numbers are still really computed, moved and committed. All of it is integer or fixed-order arithmetic on
// agreed inputs: same seed, same times, to the bit. Engine thread of one rank.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>

namespace swiftbalancer::engine {

struct HardwareConstant {
  double value = 0.0;
  std::string unit;
  std::string source;
};

/// data/hardware/*.yaml: every constant with unit and source; expert sizes of a named large model.
struct HardwareProfile {
  std::string name;
  std::string model;  ///< The large model whose sizes are charged.
  std::map<std::string, HardwareConstant> constants;
  double value(const std::string& constant) const;  ///< @throws Error kInvalidArgument naming profile and constant.
};

/// @throws Error kIo, kInvalidArgument: unknown or missing key with file and line.
HardwareProfile load_hardware_profile(const std::string& path);

struct TimedDeviceOptions {
  int token_scale = 1;              ///< Each real token stands for this many tokens of the named model.
  InstallMode install_mode = InstallMode::kSwap;
  std::string policy;               ///< Planning is charged per policy.
  std::uint64_t packet_interval = 1;
  std::uint64_t packet_lag = 2;
  std::vector<int> staging_capacity_per_rank;  ///< Buffers; agreed by all ranks at start.
  std::size_t packet_bytes = 0;
};

class TimedDevice {
 public:
  TimedDevice(const HardwareProfile& profile, const ClusterShape& shape, int rank, const TimedDeviceOptions& options);
  ~TimedDevice();

  /// This rank's virtual clock.
  std::int64_t now_ns() const noexcept;

  /// Step boundary: engines with data-parallel attention agree on every step; all ranks go on at the latest clock, plus the
  /// cost of that agreement. @param clocks [num_ranks] as exchanged. Also: waits (virtually) for the packet set used by this
  /// step; returns that stall.
  std::int64_t begin_step(std::uint64_t step, std::span<const std::int64_t> clocks);
  /// After Balancer::begin_step: charges the call and the installs, and keeps the timetable of copies and plans. The events
  /// and the start clock are the same on all ranks, and so is the timetable.
  void on_events(std::uint64_t step, std::span<const BalancerEvent> events);

  /// Attention, router and everything else that a rank does for its own tokens in one layer.
  /// @param context sum over these tokens of cached positions.
  void attention(int num_tokens, std::int64_t context);
  /// Own clock when the rows for the other ranks have left; copies under way take their part of the link.
  /// @param rows_to [num_ranks] rows sent (own rank included, not charged).
  std::int64_t dispatch(std::span<const int> rows_to, std::span<const int> rows_from);
  /// A barrier: the clock becomes the maximum. @param clocks [num_ranks] from the headers.
  void arrive(std::span<const std::int64_t> clocks);
  /// Experts of one layer: tokens and activated experts. @param tokens_per_slot [slots of this rank].
  void experts(std::span<const std::uint32_t> tokens_per_slot);
  /// Like dispatch, for the way back.
  std::int64_t combine(std::span<const int> rows_to, std::span<const int> rows_from);
  /// Final norm, head and sampling for the sequences that yield a token.
  void head(int num_tokens);
  /// Balancer::record of all layers and end_step.
  void balancer_calls(int num_layers);

  /// What the worker counts as having finished now: give it to Balancer::hold_progress_at() before end_step().
  WorkerProgress visible() const;

  /// Virtual nanoseconds charged on this rank so far by term (attention, dispatch, expert_tokens, expert_weights, combine,
  /// head, step_barrier, balancer_calls, install, packet_stall, copy_slowdown, barrier_wait).
  const std::map<std::string, std::int64_t>& terms() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftbalancer::engine
