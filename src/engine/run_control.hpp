#pragma once
// Watching and steering a run while it serves. The tool implements RunControl; ControlDesk is the
// launchers' side of it: it puts the ranks' snapshots together and passes on what is asked. All on
// the thread that called serve().

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>

#include "engine/rank_pipe.hpp"
#include "engine/record.hpp"

namespace swiftbalancer::engine {

/// Steps between the snapshots that a rank sends.
constexpr std::uint64_t kSnapshotInterval = 16;

/// A run as of a step that all ranks have made.
struct RunSnapshot {
  std::uint64_t step = 0;
  int num_ranks = 0;  ///< Live.
  std::int64_t tokens = 0;
  std::vector<std::int64_t> layer_tokens;  ///< [num_moe_layers] to experts, since the run began.
  std::vector<double> layer_imbalance;  ///< [num_moe_layers] since the last snapshot; 0: unknown.
  WaitRecord waits;                     ///< Summed over ranks, times too.
  BalancingRecord balancing;            ///< As in RunRecord.
  bool healthy = true;                  ///< As in RunRecord, with the next.
  std::string health_reason;
  std::vector<CommitRecord> commits;          ///< Since the last snapshot.
  std::vector<GenerationRecord> generations;  ///< Ended since the last snapshot.
};

/// Its functions do not throw.
class RunControl {
 public:
  virtual ~RunControl() = default;
  /// Readable when somebody asks for something; -1: nobody ever does.
  virtual int fd() const = 0;
  /// Called when fd() is readable. @returns the modes asked for, in order.
  virtual std::vector<BalancingMode> take_modes() = 0;
  /// @param run with what is going to run.
  virtual void on_start(const RunRecord& run) = 0;
  virtual void on_snapshot(const RunSnapshot& snapshot) = 0;
};

class ControlDesk {
 public:
  /// @param control null: nobody watches or steers; else outlives this.
  ControlDesk(RunControl* control, int num_ranks);

  /// Makes the pipe down to a rank, for each process of it anew. @returns the rank's end, which
  /// does not block.
  FrameReader connect(int rank);
  /// Sends a rank a frame of at most PIPE_BUF bytes. Never waits: a rank that has read nothing for
  /// very long gets no more.
  void tell(int rank, FrameHeader header, std::span<const std::byte> content);
  /// The snapshots of this rank are waited for no more; what it has counted stays in the sums.
  void lose(int rank);

  int fd() const { return control_ == nullptr ? -1 : control_->fd(); }
  /// fd() is readable.
  void serve();
  /// A rank's RankSnapshot as bytes.
  void on_snapshot(std::span<const std::byte> content);

 private:
  struct Rank {
    bool live = false;
    int number = 0;  // in order of connecting
    std::unique_ptr<FrameWriter> down;
    RankSnapshot last, shown;  // the latest, and that of the last RunSnapshot
  };
  static void add_counts(const RankSnapshot& rank, RunSnapshot& run);
  void publish();

  RunControl* control_;
  std::vector<Rank> ranks_;
  int num_connected_ = 0;
  std::vector<RankSnapshot> gone_;  // the last ones of processes that were lost
};

/// The same for health: the first rank that is not well decides, else the first that has recovered.
void add_health(int rank, bool rank_ok, const std::string& rank_reason, bool& ok,
                std::string& reason);
/// Adds a rank's part to that of the ranks before it (the first part is taken as it is): counts of
/// its own are summed, of agreed ones the longest is kept.
void add_balancing(const BalancingRecord& rank, bool first, BalancingRecord& sum);

}  // namespace swiftbalancer::engine
