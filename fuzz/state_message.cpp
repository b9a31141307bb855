// Served states from outside: decode_state.

#include <cstring>
#include <vector>

#include "forge.hpp"
#include "fuzz_target.hpp"
#include "runtime/plan_bytes.hpp"

using namespace swiftbalancer;

namespace {

constexpr std::size_t kHeaderBytes = 40;

std::vector<std::byte> encoded(const ServedState& state) {
  std::vector<std::byte> bytes(state_bytes(fuzz::small_shape()));
  bytes.resize(encode_state(state, fuzz::small_shape(), bytes));
  return bytes;
}

void decode(std::span<const std::byte> bytes) {
  ServedState state;
  const Status status = decode_state(bytes, fuzz::small_shape(), state);
  if (!status.ok()) {
    fuzz::expect(state.shares.empty() && !status.message().empty(), "refused, with a reason");
    return;
  }
  const auto again = encoded(state);
  fuzz::expect(
      again.size() == bytes.size() && std::memcmp(again.data(), bytes.data(), bytes.size()) == 0,
      "a state is sent on as it came");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto genuine = encoded(ServedState::initial(fuzz::small_shape()));
  const auto bytes = fuzz::bytes_of(data, size);
  decode(bytes);
  decode(fuzz::forge(genuine, kHeaderBytes, bytes.subspan(std::min(size, kHeaderBytes))));
  return 0;
}
