#include "protocol/packet.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/migration_plan.hpp>

namespace swiftbalancer {
namespace {

constexpr std::uint32_t kMagic = 0x32425753U;  // "SWB2"

constexpr std::size_t kCovered = offsetof(PacketHeader, checksum) + sizeof(std::uint64_t);

Status refuse(int rank, std::uint64_t step, const std::string& what) {
  return {ErrorCode::kTransport, "packet of rank " + std::to_string(rank) + " for step " +
                                     std::to_string(step) + ": " + what};
}

}  // namespace

// Four chains side by side: a single one would wait for its own multiplications.
std::uint64_t checksum_of(std::span<const std::byte> covered) noexcept {
  constexpr std::size_t kChains = 4;
  std::uint64_t chains[kChains] = {covered.size(), 1, 2, 3};
  std::size_t chain = 0;
  for (std::size_t at = 0; at < covered.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, covered.data() + at, std::min(sizeof word, covered.size() - at));
    chains[chain] = mix(chains[chain], word);
    chain = (chain + 1) % kChains;
  }
  return mix(mix(chains[0], chains[1]), mix(chains[2], chains[3]));
}

void seal_packet(std::span<std::byte> packet) noexcept {
  PacketHeader header;
  std::memcpy(&header, packet.data(), sizeof header);
  header.magic = kMagic;
  header.bytes = static_cast<std::uint32_t>(packet.size());
  header.checksum = checksum_of(packet.subspan(kCovered));
  std::memcpy(packet.data(), &header, sizeof header);
}

Status open_packet(std::span<const std::byte> packet, std::uint32_t membership, int rank,
                   std::uint64_t step, PacketHeader& header) {
  if (packet.size() < sizeof header)
    return refuse(rank, step, "truncated to " + std::to_string(packet.size()) + " bytes");
  std::memcpy(&header, packet.data(), sizeof header);
  if (header.magic != kMagic)
    return refuse(rank, step,
                  "magic " + std::to_string(header.magic) + ", another protocol version?");
  if (header.bytes != packet.size()) {
    return refuse(
        rank, step,
        "says " + std::to_string(header.bytes) + " bytes, has " + std::to_string(packet.size()));
  }
  if (header.checksum != checksum_of(packet.subspan(kCovered)))
    return refuse(rank, step, "checksum does not match");
  if (header.rank != static_cast<std::uint32_t>(rank))
    return refuse(rank, step, "names rank " + std::to_string(header.rank));
  if (header.membership != membership) {
    return refuse(rank, step,
                  "names membership " + std::to_string(header.membership) + ", not " +
                      std::to_string(membership));
  }
  if (header.mode > static_cast<std::uint32_t>(BalancingMode::kPlanOnly))
    return refuse(rank, step, "names mode " + std::to_string(header.mode));
  if (header.phase > static_cast<std::uint32_t>(Phase::kMixed))
    return refuse(rank, step, "names phase " + std::to_string(header.phase));
  if (header.load_shift > 31)
    return refuse(rank, step, "shifts loads by " + std::to_string(header.load_shift) + " bits");
  if (header.step != step) return refuse(rank, step, "names step " + std::to_string(header.step));
  return {};
}

}  // namespace swiftbalancer
