#include "transport/region.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>

#include "transport/doorbell.hpp"

namespace swiftbalancer::ring {
namespace {

constexpr std::uint64_t kMagic = 0x676e69722d6c6273;            // "sbl-ring"
constexpr std::uint64_t kUnfinishedMagic = 0x656b616d2d6c6273;  // "sbl-make"
constexpr std::uint32_t kLayoutVersion = 2;
constexpr std::uint32_t kFirstVersionWithCreator = 2;

// Default size of rings: those of a rank to all its peers hold this much together (a lane), so that
// what can be under way does not depend on the number of ranks, and the memory of a group grows
// with it (2 MiB a rank) instead of with its square.
constexpr std::size_t kBytesToAllPeers = std::size_t{1} << 20;
constexpr std::size_t kLeastDefaultRing = std::size_t{1} << 12;
constexpr std::size_t kMostDefaultRing = std::size_t{1} << 17;

constexpr std::size_t kHeaderBytes = kCacheLine;
static_assert(sizeof(RegionHeader) <= kHeaderBytes && std::is_trivially_copyable_v<RegionHeader>);

std::size_t layout_bytes(std::size_t num_ranks, std::size_t ring_bytes) {
  return kHeaderBytes + num_ranks * sizeof(RankBlock) +
         num_ranks * num_ranks * kNumLanes * (sizeof(RingBlock) + ring_bytes);
}

std::size_t ring_bytes_for(int num_ranks, const RingOptions& options) {
  if (options.ring_bytes != 0) return std::bit_ceil(options.ring_bytes);
  return std::clamp(std::bit_floor(kBytesToAllPeers / static_cast<std::size_t>(num_ranks)),
                    kLeastDefaultRing, kMostDefaultRing);
}

}  // namespace

Mapping::~Mapping() {
  if (memory_ != nullptr) ::munmap(memory_, bytes_);
}

Mapping::Mapping(Mapping&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)), bytes_(other.bytes_) {}

std::size_t Region::bytes_for(int num_ranks, const RingOptions& options) {
  if (num_ranks < 1 || num_ranks > kMaxRanks) {
    throw Error(ErrorCode::kInvalidArgument, "transport: num_ranks is " +
                                                 std::to_string(num_ranks) + ", allowed are 1 to " +
                                                 std::to_string(kMaxRanks));
  }
  if (options.ring_bytes != 0 &&
      (options.ring_bytes < kMinRingBytes || options.ring_bytes > kMaxRingBytes)) {
    throw Error(ErrorCode::kInvalidArgument,
                "transport: ring_bytes is " + std::to_string(options.ring_bytes) +
                    ", allowed are " + std::to_string(kMinRingBytes) + " to " +
                    std::to_string(kMaxRingBytes) + ", or 0: by the number of ranks");
  }
  return layout_bytes(static_cast<std::size_t>(num_ranks), ring_bytes_for(num_ranks, options));
}

RegionHeader Region::unfinished_header() noexcept {
  return {.magic = kUnfinishedMagic, .version = kLayoutVersion, .creator = own_process()};
}

std::optional<ProcessIdentity> Region::creator_in(std::span<const std::byte> first_bytes) noexcept {
  RegionHeader header;
  if (first_bytes.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, first_bytes.data(), sizeof header);
  if (header.magic != kMagic && header.magic != kUnfinishedMagic) return std::nullopt;
  if (header.version < kFirstVersionWithCreator) return std::nullopt;
  return header.creator;
}

Region::Region(Mapping memory, int num_ranks, const RingOptions& options)
    : memory_(std::move(memory)),
      num_ranks_(num_ranks),
      ring_bytes_(ring_bytes_for(num_ranks, options)) {
  for (int r = 0; r < num_ranks; ++r) new (&rank(r)) RankBlock{};
  for (int from = 0; from < num_ranks; ++from) {
    for (int to = 0; to < num_ranks; ++to) {
      for (const Lane lane : {kMessages, kBulk}) new (ring_at(from, to, lane)) RingBlock{};
    }
  }
  new (memory_.data())
      RegionHeader{kMagic,      kLayoutVersion,  static_cast<std::uint32_t>(num_ranks),
                   ring_bytes_, memory_.bytes(), own_process()};
}

Region::Region(Mapping memory, const std::string& what) : memory_(std::move(memory)) {
  const std::size_t bytes = memory_.bytes();
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kInvalidArgument,
                what + " is not a transport group of this version: " + why);
  };
  if (bytes < kHeaderBytes) refuse("it has only " + std::to_string(bytes) + " bytes");
  RegionHeader header;
  std::memcpy(&header, memory_.data(), sizeof header);
  if (header.magic == kUnfinishedMagic) refuse("it is being made");
  if (header.magic != kMagic) refuse("its first bytes are not ours");
  if (header.version != kLayoutVersion) {
    refuse("its layout is version " + std::to_string(header.version) + ", expected " +
           std::to_string(kLayoutVersion));
  }
  if (header.num_ranks < 1 || header.num_ranks > static_cast<std::uint32_t>(kMaxRanks)) {
    refuse("it names " + std::to_string(header.num_ranks) + " ranks");
  }
  if (!std::has_single_bit(header.ring_bytes) || header.ring_bytes < kMinRingBytes ||
      header.ring_bytes > kMaxRingBytes) {
    refuse("it names rings of " + std::to_string(header.ring_bytes) + " bytes");
  }
  const std::size_t expected = layout_bytes(header.num_ranks, header.ring_bytes);
  if (expected != bytes || header.region_bytes != bytes) {
    refuse("it has " + std::to_string(bytes) + " bytes, expected " + std::to_string(expected));
  }
  num_ranks_ = static_cast<int>(header.num_ranks);
  ring_bytes_ = header.ring_bytes;
}

RankBlock& Region::rank(int rank) const noexcept {
  std::byte* at =
      memory_.data() + kHeaderBytes + static_cast<std::size_t>(rank) * sizeof(RankBlock);
  return *std::launder(reinterpret_cast<RankBlock*>(at));
}

std::byte* Region::ring_at(int from, int to, Lane lane) const noexcept {
  const auto ranks = static_cast<std::size_t>(num_ranks_);
  const std::size_t index =
      (static_cast<std::size_t>(from) * ranks + static_cast<std::size_t>(to)) * kNumLanes + lane;
  return memory_.data() + kHeaderBytes + ranks * sizeof(RankBlock) +
         index * (sizeof(RingBlock) + ring_bytes_);
}

RingBlock& Region::ring(int from, int to, Lane lane) const noexcept {
  return *std::launder(reinterpret_cast<RingBlock*>(ring_at(from, to, lane)));
}

std::byte* Region::ring_data(int from, int to, Lane lane) const noexcept {
  return ring_at(from, to, lane) + sizeof(RingBlock);
}

void Region::mark_gone(int gone, RankState state) const noexcept {
  RankState before = rank(gone).state.load();
  while (before == RankState::kFree || before == RankState::kOpen) {
    if (rank(gone).state.compare_exchange_weak(before, state)) break;
  }
  for (int r = 0; r < num_ranks_; ++r) ring_doorbell_now(rank(r).doorbell);
}

int take_memory(int descriptor, std::size_t bytes) noexcept {
  constexpr int kMostInterruptions = 1000;
  int error = EINTR;
  for (int i = 0; i < kMostInterruptions && error == EINTR; ++i)
    error = ::posix_fallocate(descriptor, 0, static_cast<off_t>(bytes));
  return error;
}

}  // namespace swiftbalancer::ring
