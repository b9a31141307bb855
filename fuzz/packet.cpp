// Packets of other ranks: open_packet.

#include <cstring>
#include <vector>

#include "fuzz_target.hpp"
#include "protocol/packet.hpp"

using namespace swiftbalancer;

namespace {

// As it came.
void open_raw(std::span<const std::byte> bytes) {
  PacketHeader header;
  const Status status = open_packet(bytes, 0, 1, 7, header);
  if (!status.ok()) return fuzz::expect(!status.message().empty(), "a refusal says why");
  std::vector<std::byte> again(bytes.begin(), bytes.end());
  seal_packet(again);
  fuzz::expect(std::memcmp(again.data(), bytes.data(), bytes.size()) == 0, "sealed as it was");
}

// From a sender that seals whatever it sends: opened by its own rank and step, by no other, and
// not after a byte has changed.
void open_sealed(std::span<const std::byte> bytes, std::byte flip) {
  std::vector<std::byte> packet(bytes.begin(), bytes.end());
  if (packet.size() < sizeof(PacketHeader)) packet.resize(sizeof(PacketHeader));
  seal_packet(packet);
  PacketHeader sent;
  std::memcpy(&sent, packet.data(), sizeof sent);
  const int rank = static_cast<int>(sent.rank & 0x7FFFFFFFU);
  PacketHeader header;
  fuzz::expect(
      open_packet(packet, sent.membership, rank, sent.step, header).ok() ==
          (sent.rank == static_cast<std::uint32_t>(rank) && sent.mode <= 2 && sent.phase <= 2),
      "opened exactly if rank, mode and phase are possible");
  fuzz::expect(!open_packet(packet, sent.membership, rank, sent.step + 1, header).ok(),
               "another step is refused");
  packet[std::to_integer<std::size_t>(flip) % packet.size()] ^= std::byte{0x20};
  fuzz::expect(!open_packet(packet, sent.membership, rank, sent.step, header).ok(),
               "a changed byte is found");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = fuzz::bytes_of(data, size);
  open_raw(bytes);
  if (!bytes.empty()) open_sealed(bytes.subspan(1), bytes[0]);
  return 0;
}
