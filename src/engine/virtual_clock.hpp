#pragma once
// A rank's virtual clock as the serving loop uses it: passes everything on to the TimedDevice, or
// does nothing with
// `--device none`, and works out which term of the charges lies on the critical path. Engine thread
// of one rank.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include <swiftbalancer/balancer.hpp>

#include "engine/timed_device.hpp"

namespace swiftbalancer::engine {

class VirtualClock {
 public:
  /// @param device null: no virtual time.
  VirtualClock(std::unique_ptr<TimedDevice> device, int rank)
      : device_(std::move(device)), rank_(rank) {}
  bool timed() const noexcept { return device_ != nullptr; }
  std::int64_t now_ns() const noexcept { return device_ ? device_->now_ns() : 0; }

  void begin_step(std::uint64_t step, std::span<const std::int64_t> clocks);
  void on_events(std::uint64_t step, std::span<const BalancerEvent> events);
  void attention(int num_tokens, std::int64_t context);
  /// The rows of all ranks are on their way: a barrier, then the transfer of this rank's rows both
  /// ways.
  void dispatch(std::span<const std::int64_t> clocks, std::span<const int> rows_to,
                std::span<const int> rows_from);
  void experts(std::span<const std::uint32_t> tokens_per_slot);
  void combine(std::span<const int> rows_to, std::span<const int> rows_from);
  void arrive(std::span<const std::int64_t> clocks);
  void head(int num_tokens);
  /// Charges the calls and lets the worker's progress count as far as virtual time has it.
  Status end_step(Balancer& balancer, int num_layers);
  /// The run is over at the latest of these clocks.
  void finish(std::span<const std::int64_t> clocks) { close_segment(clocks); }

  /// Charges between two barriers count for the rank that came last to the second (of equals, the
  /// first rank); summed over ranks they are the run's virtual time.
  const std::map<std::string, std::int64_t>& critical_ns() const noexcept { return critical_ns_; }

 private:
  void close_segment(std::span<const std::int64_t> clocks);

  std::unique_ptr<TimedDevice> device_;
  int rank_;
  std::map<std::string, std::int64_t> at_barrier_;  ///< Terms when the segment began.
  std::map<std::string, std::int64_t> critical_ns_;
};

}  // namespace swiftbalancer::engine
