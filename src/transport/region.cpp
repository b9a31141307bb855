#include "transport/region.hpp"

#include <bit>
#include <cstring>
#include <new>

#include <sys/mman.h>

#include "transport/doorbell.hpp"

namespace swiftbalancer::ring {
namespace {

constexpr std::uint64_t kMagic = 0x676e69722d6c6273;  // "sbl-ring"
constexpr std::uint32_t kLayoutVersion = 1;

struct RegionHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t num_ranks;
  std::uint64_t ring_bytes;
  std::uint64_t region_bytes;
};

constexpr std::size_t kHeaderBytes = kCacheLine;
static_assert(sizeof(RegionHeader) <= kHeaderBytes);

std::size_t layout_bytes(std::size_t num_ranks, std::size_t ring_bytes) {
  return kHeaderBytes + num_ranks * sizeof(RankBlock) +
         num_ranks * num_ranks * kNumLanes * (sizeof(RingBlock) + ring_bytes);
}

}  // namespace

std::size_t Region::bytes_for(int num_ranks, const RingOptions& options) {
  if (num_ranks < 1 || num_ranks > kMaxRanks) {
    throw Error(ErrorCode::kInvalidArgument, "transport: num_ranks is " +
                                                 std::to_string(num_ranks) + ", allowed are 1 to " +
                                                 std::to_string(kMaxRanks));
  }
  if (options.ring_bytes < kMinRingBytes || options.ring_bytes > kMaxRingBytes) {
    throw Error(ErrorCode::kInvalidArgument, "transport: ring_bytes is " +
                                                 std::to_string(options.ring_bytes) +
                                                 ", allowed are " + std::to_string(kMinRingBytes) +
                                                 " to " + std::to_string(kMaxRingBytes));
  }
  return layout_bytes(static_cast<std::size_t>(num_ranks), std::bit_ceil(options.ring_bytes));
}

Region::Region(void* memory, int num_ranks, const RingOptions& options)
    : base_(static_cast<std::byte*>(memory)),
      bytes_(bytes_for(num_ranks, options)),
      num_ranks_(num_ranks),
      ring_bytes_(std::bit_ceil(options.ring_bytes)) {
  for (int r = 0; r < num_ranks; ++r) new (&rank(r)) RankBlock{};
  for (int from = 0; from < num_ranks; ++from) {
    for (int to = 0; to < num_ranks; ++to) {
      for (const Lane lane : {kMessages, kBulk}) new (ring_at(from, to, lane)) RingBlock{};
    }
  }
  new (base_) RegionHeader{kMagic, kLayoutVersion, static_cast<std::uint32_t>(num_ranks),
                           ring_bytes_, bytes_};
}

Region::Region(void* memory, std::size_t bytes, const std::string& what)
    : base_(static_cast<std::byte*>(memory)), bytes_(bytes) {
  const auto refuse = [&](const std::string& why) {
    ::munmap(base_, bytes_);
    throw Error(ErrorCode::kInvalidArgument,
                what + " is not a transport group of this version: " + why);
  };
  if (bytes < kHeaderBytes) refuse("it has only " + std::to_string(bytes) + " bytes");
  RegionHeader header;
  std::memcpy(&header, base_, sizeof header);
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

Region::~Region() { ::munmap(base_, bytes_); }

RankBlock& Region::rank(int rank) const noexcept {
  std::byte* at = base_ + kHeaderBytes + static_cast<std::size_t>(rank) * sizeof(RankBlock);
  return *std::launder(reinterpret_cast<RankBlock*>(at));
}

std::byte* Region::ring_at(int from, int to, Lane lane) const noexcept {
  const auto ranks = static_cast<std::size_t>(num_ranks_);
  const std::size_t index =
      (static_cast<std::size_t>(from) * ranks + static_cast<std::size_t>(to)) * kNumLanes + lane;
  return base_ + kHeaderBytes + ranks * sizeof(RankBlock) +
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

}  // namespace swiftbalancer::ring
