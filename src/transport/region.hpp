#pragma once
// The memory that the ranks of a group share: a header, one block per rank, and for each ordered
// pair of ranks two byte rings. The same layout lies in private memory (ranks are threads) and in
// shared memory (ranks are processes). Whatever is read back from it is checked before use: the
// other side may have died or be hostile. Thread-safe: after construction only atomics change here.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include <swiftbalancer/transport.hpp>

namespace swiftbalancer::ring {

inline constexpr std::size_t kCacheLine = 64;
inline constexpr std::size_t kMinRingBytes = 1024;
inline constexpr std::size_t kMaxRingBytes = std::size_t{1} << 30;
inline constexpr int kMaxRanks = 256;

enum class RankState : std::uint32_t { kFree, kOpen, kClosed, kLost };

/// Why two rings: all-gathers and requests must not queue behind bulk data.
enum Lane : int { kMessages = 0, kBulk = 1, kNumLanes = 2 };

struct RankBlock {
  alignas(kCacheLine) std::atomic<RankState> state;
  std::atomic<std::int32_t> pid;
  alignas(kCacheLine) std::atomic<std::uint32_t> doorbell;  ///< See doorbell.hpp.
};

/// Positions count bytes since the beginning and never wrap. The bytes of the ring follow.
struct RingBlock {
  alignas(kCacheLine) std::atomic<std::uint64_t> tail;  ///< Written by the sender.
  alignas(kCacheLine) std::atomic<std::uint64_t> head;  ///< Written by the receiver.
  std::atomic<std::uint32_t>
      space_wanted;  ///< Set by a sender that cannot go on, cleared by the receiver.
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
              std::atomic<RankState>::is_always_lock_free);

/// Owns a mapping and finds its way in it.
class Region {
 public:
  /// Size of a group. @throws Error kInvalidArgument: counts out of range.
  static std::size_t bytes_for(int num_ranks, const RingOptions& options);

  /// Lays a new group out in zeroed memory of bytes_for() bytes; unmaps it in the end.
  Region(void* memory, int num_ranks, const RingOptions& options);
  /// Takes over memory laid out by somebody else; unmaps it in the end, also when it throws.
  /// @throws Error kInvalidArgument naming `what`: not our layout.
  Region(void* memory, std::size_t bytes, const std::string& what);
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  int num_ranks() const noexcept { return num_ranks_; }
  std::size_t ring_bytes() const noexcept { return ring_bytes_; }
  RankBlock& rank(int rank) const noexcept;
  RingBlock& ring(int from, int to, Lane lane) const noexcept;
  std::byte* ring_data(int from, int to, Lane lane) const noexcept;

  /// Marks a rank that is still in the group as gone, and tells everybody.
  void mark_gone(int rank, RankState state) const noexcept;

 private:
  std::byte* ring_at(int from, int to, Lane lane) const noexcept;

  std::byte* base_;
  std::size_t bytes_;
  int num_ranks_ = 0;
  std::size_t ring_bytes_ = 0;
};

}  // namespace swiftbalancer::ring
