#pragma once
// The memory that the ranks of a group share: a header, one block per rank, and for each ordered
// pair of ranks two byte rings. The same layout lies in private memory (ranks are threads) and in
// shared memory (ranks are processes). Whatever is read back from it is checked before use: the
// other side may have died or be hostile. Thread-safe: after construction only atomics change here.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include <swiftbalancer/transport.hpp>

#include "transport/process_identity.hpp"

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
  // The ProcessIdentity of its owner, a value of each.
  std::atomic<std::int32_t> pid;
  std::atomic<std::uint64_t> start_time;
  std::atomic<std::uint64_t> time_namespace;
  std::atomic<std::uint64_t> pid_namespace;  ///< Written last: while 0, nobody judges the process.
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

/// Begins the memory of a group. The creator lets others tell whether a group is still somebody's;
/// it stays where it is in later versions, from 2 on.
struct RegionHeader {
  std::uint64_t magic = 0;
  std::uint32_t version = 0;
  std::uint32_t num_ranks = 0;
  std::uint64_t ring_bytes = 0;
  std::uint64_t region_bytes = 0;
  ProcessIdentity creator;
};

/// Owns memory from mmap().
class Mapping {
 public:
  Mapping(void* memory, std::size_t bytes) noexcept
      : memory_(static_cast<std::byte*>(memory)), bytes_(bytes) {}
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&&) = delete;
  std::byte* data() const noexcept { return memory_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  std::byte* memory_;
  std::size_t bytes_;
};

/// Owns a mapping and finds its way in it.
class Region {
 public:
  /// Size of a group. @throws Error kInvalidArgument: counts out of range.
  static std::size_t bytes_for(int num_ranks, const RingOptions& options);
  /// What a group that is being made begins with, before it is laid out: others see whose it is.
  static RegionHeader unfinished_header() noexcept;
  /// Who made the group that begins with these bytes; nothing if they do not say.
  static std::optional<ProcessIdentity> creator_in(std::span<const std::byte> first_bytes) noexcept;

  /// Lays a new group out in zeroed memory of bytes_for() bytes.
  Region(Mapping memory, int num_ranks, const RingOptions& options);
  /// Takes over memory laid out by somebody else.
  /// @throws Error kInvalidArgument naming `what`: not our layout.
  Region(Mapping memory, const std::string& what);
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

  // Constant after construction.
  const Mapping memory_;
  int num_ranks_ = 0;
  std::size_t ring_bytes_ = 0;
};

/// Takes the memory of a file now, as posix_fallocate() does, which a signal may interrupt.
/// @returns 0 or its error.
int take_memory(int descriptor, std::size_t bytes) noexcept;

}  // namespace swiftbalancer::ring
