#pragma once
// Copies that were dropped or are no longer needed, on a transport that cannot cancel: both ends
// carry them through, and until then their memory is not used for anything else (rules 8 and 9).
// Used by CopyExecutor alone, on the balancer worker.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/transport.hpp>

#include "migration/copy_executor.hpp"
#include "migration/copy_rules.hpp"

namespace swiftbalancer {

/// One end of a copy that is to be carried through.
struct LeftOver {
  std::uint64_t generation_step = 0;
  int moe_layer_id = 0;
  int peer = 0;
  std::uint64_t tag = 0;
  TransportHandle handle{};  ///< None: not posted yet.
  int buffer = -1;           ///< Of a receive; -1: none granted yet.
  bool given_up = false;     ///< It outlasted a later plan that waited for it.
  bool over = false;
  std::vector<std::span<std::byte>> target{};
  std::vector<std::span<const std::byte>> source{};
};

class TransferDrain {
 public:
  TransferDrain(Transport& transport, StagingPool& pool) : transport_(transport), pool_(pool) {}
  /// Gives the buffers back; what is under way ends with the transport.
  ~TransferDrain();
  TransferDrain(const TransferDrain&) = delete;
  TransferDrain& operator=(const TransferDrain&) = delete;

  /// Takes memory for this many more ends, so that adding them allocates nothing.
  void reserve(std::size_t num_receives, std::size_t num_sends);
  void add_receive(LeftOver&& receive) { receives_.push_back(std::move(receive)); }
  void add_send(LeftOver&& send) { sends_.push_back(std::move(send)); }
  /// Owed receives take buffers before any new one does, else two ranks could wait for each other.
  /// @param part_bytes of a layer's parts.
  void post_owed(std::span<const std::vector<std::size_t>> part_bytes);
  /// Polls, and returns the buffers of what is done. Sends that were not posted are: the other end
  /// may wait for them.
  void poll();
  /// Whether a copy of a generation before this one is outstanding for the layer.
  bool holds_back(std::uint64_t generation_step, int moe_layer_id) const noexcept;
  /// A plan of `generation_step` has waited too long: nothing is to wait any more for what holds it
  /// back in the layer.
  void give_up(std::uint64_t generation_step, int moe_layer_id) noexcept;
  /// Whether a unit has no chance: something that was given up is outstanding for its layer, or for
  /// one of so long ago that it has the same tags. @param unit_tag of any of its copies.
  bool gave_up(int moe_layer_id, std::uint64_t unit_tag) const noexcept;
  bool empty() const noexcept { return receives_.empty() && sends_.empty(); }

 private:
  bool holds_back(const LeftOver& left, std::uint64_t generation_step,
                  int moe_layer_id) const noexcept {
    return rules_.holds_back(left.generation_step, generation_step) &&
           left.moe_layer_id == moe_layer_id;
  }

  [[no_unique_address]] const CopyRules rules_{};
  Transport& transport_;
  StagingPool& pool_;
  std::vector<LeftOver> receives_;
  std::vector<LeftOver> sends_;
};

}  // namespace swiftbalancer
