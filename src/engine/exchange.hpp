#pragma once
// Dispatch and combine of one rank: sends each token's row to the ranks whose slots were chosen for
// it, hands the received rows out by slot, and brings the results back to where the tokens are. One
// eager message per peer and direction; every message carries the sender's virtual clock. Memory
// grows to the largest step seen and stays. Engine thread of one rank, on a transport instance of
// its own.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>
#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/shape.hpp>
#include <swiftbalancer/transport.hpp>

#include "engine/model.hpp"
#include "engine/record.hpp"

namespace swiftbalancer::engine {

/// What the ranks tell each other at the start of a step.
struct StepHeader {
  std::int64_t clock_ns = 0;
  std::uint32_t num_tokens = 0;          ///< Planned for this step.
  std::uint32_t num_prefill_tokens = 0;  ///< Of those.
  std::uint64_t has_work = 0;  ///< 0: all requests of this rank, also those to come, are answered.
};

/// Of all ranks' tokens together, so that all choose replicas alike. A step without tokens is
/// mixed.
Phase phase_of(std::span<const StepHeader> headers) noexcept;

class ExpertExchange {
 public:
  ExpertExchange(const ClusterShape& shape, const ModelInfo& model, Transport& transport,
                 std::chrono::milliseconds deadline);

  /// Collects one value per rank. @param tag below kFirstStepTag and used once. @param out
  /// [num_ranks]
  Status gather(std::uint64_t tag, std::int64_t mine, std::span<std::int64_t> out);
  /// Opens a step. All ranks call it with the same step and then see the same headers.
  Status open_step(std::uint64_t step, const StepHeader& mine);
  std::span<const StepHeader> headers() const noexcept { return headers_; }

  /// Sends the rows of a layer to their slots and receives those for this rank's slots.
  /// @param draws if there are any, they and not the table say which slot a row goes to.
  Status dispatch(int moe_layer_id, const Routing& routing, DispatchView table,
                  std::int64_t clock_ns, const DrawTable* draws = nullptr);
  /// Tokens received by each slot of this rank in the last dispatch: [slots of this rank].
  std::span<const std::uint32_t> tokens_per_slot() const noexcept { return tokens_per_slot_; }
  /// Runs every slot that received rows. @param run(local_slot, input, num_rows, output), rows of
  /// hidden_size.
  template <typename Run>
  void run_slots(Run&& run);
  /// Sends the results back and receives those for this rank's tokens.
  Status combine(std::int64_t clock_ns);
  /// [num_tokens * top_k] rows of the last combine, for Model::combine.
  std::span<const float* const> expert_output() const noexcept { return expert_output_; }

  /// Clocks in the messages of the last dispatch or combine, own included: [num_ranks].
  std::span<const std::int64_t> clocks() const noexcept { return clocks_; }
  /// Rows of the last dispatch by peer, own rank included: [num_ranks]. The way back is the
  /// reverse.
  std::span<const int> rows_to() const noexcept { return rows_to_; }
  std::span<const int> rows_from() const noexcept { return rows_from_; }

  /// Adds the rows of the last dispatch.
  void count_locality(LocalityRecord& locality) const noexcept;

  static constexpr std::uint64_t kFirstStepTag = std::uint64_t{1} << 20;

 private:
  // Starts a dispatch message; then num_rows slots (int32), then num_rows rows. A result message:
  // this, then the rows.
  struct MessageHeader {
    std::int64_t clock_ns = 0;
    std::uint32_t num_rows = 0;
    std::uint32_t unused = 0;
  };
  struct Peer {
    MessageHeader out_header, in_header;
    std::vector<std::int32_t> slots;  // to the peer
    std::vector<float> rows;          // to the peer; number of rows times hidden_size
    std::vector<std::byte> received;  // from the peer: header, slots, rows
    std::vector<float> results_out;   // for the peer's rows
    std::vector<float> results_in;    // of the rows sent to it
  };
  struct RowRef {
    int peer;
    int row;
  };

  void choose(int moe_layer_id, const Routing& routing, DispatchView table, const DrawTable* draws);
  Status receive_rows(std::int64_t clock_ns);
  Status check_message(int peer, std::size_t bytes) const;
  void group_by_slot();
  std::span<const std::int32_t> received_slots(int peer) const noexcept;
  const float* received_row(const RowRef& ref) const noexcept;
  Status wait_all(const char* what);
  void cancel_all();
  std::uint64_t tag(std::uint64_t kind) const noexcept {
    return (step_ << 20) + kFirstStepTag + (static_cast<std::uint64_t>(layer_) << 2) + kind;
  }
  Peer& peer(int rank) noexcept { return peers_[static_cast<std::size_t>(rank)]; }
  const Peer& peer(int rank) const noexcept { return peers_[static_cast<std::size_t>(rank)]; }

  const ClusterShape& shape_;
  Transport& transport_;
  std::chrono::milliseconds deadline_;
  std::size_t width_;  // hidden_size
  std::size_t top_k_;
  int rank_;
  std::uint64_t step_ = 0;
  int layer_ = 0;
  std::vector<StepHeader> headers_;
  std::vector<std::uint32_t>
      tickets_;  // [num_moe_layers, num_logical_experts] tokens sent to the expert so far
  std::vector<Peer> peers_;
  std::vector<RowRef> choices_;  // [num_tokens * top_k] where each row went
  std::vector<const float*> expert_output_;
  std::vector<int> rows_to_, rows_from_;
  std::vector<std::int64_t> clocks_;
  std::vector<std::uint32_t> tokens_per_slot_;
  std::vector<std::size_t> slot_begin_;  // [slots + 1] into order_
  std::vector<RowRef> order_;            // received rows by slot
  std::vector<float> input_, output_;    // rows of one slot
  struct Pending {
    TransportHandle handle;
    int peer;  // -1: all ranks
    bool receive;
    std::size_t bytes = 0;
    bool done = false;
  };
  std::vector<Pending> pending_;
};

template <typename Run>
void ExpertExchange::run_slots(Run&& run) {
  for (std::size_t slot = 0; slot + 1 < slot_begin_.size(); ++slot) {
    const std::span<const RowRef> refs(order_.data() + slot_begin_[slot],
                                       slot_begin_[slot + 1] - slot_begin_[slot]);
    if (refs.empty()) continue;
    input_.resize(refs.size() * width_);
    output_.resize(refs.size() * width_);
    for (std::size_t i = 0; i < refs.size(); ++i) {
      const float* row = received_row(refs[i]);
      std::copy(row, row + width_, input_.data() + i * width_);
    }
    run(static_cast<int>(slot), std::span<const float>(input_), static_cast<int>(refs.size()),
        std::span<float>(output_));
    for (std::size_t i = 0; i < refs.size(); ++i) {
      const float* row = output_.data() + i * width_;
      std::copy(
          row, row + width_,
          peer(refs[i].peer).results_out.data() + static_cast<std::size_t>(refs[i].row) * width_);
    }
  }
}

}  // namespace swiftbalancer::engine
