// Plans from the leader or a planner process: decode_plan, and what is done with them.

#include <cstring>
#include <vector>

#include "forge.hpp"
#include "fuzz_target.hpp"
#include "runtime/plan_bytes.hpp"
#include "runtime/prepared_plan.hpp"

using namespace swiftbalancer;

namespace {

constexpr GenerationId kGeneration{0, 7};
constexpr std::size_t kUpToRows = 36;  // of the header: the number of layers comes next

std::vector<std::byte> encoded(const Plan& plan) {
  std::vector<std::byte> bytes(most_plan_bytes(fuzz::small_shape()));
  bytes.resize(encode_plan(kGeneration, plan, fuzz::small_shape(), bytes));
  return bytes;
}

void decode(std::span<const std::byte> bytes) {
  const ClusterShape& shape = fuzz::small_shape();
  Plan plan;
  const Status status = decode_plan(bytes, kGeneration, shape, plan);
  if (!status.ok()) {
    fuzz::expect(plan.changes.empty() && !status.message().empty(), "refused, with a reason");
    return;
  }
  const auto again = encoded(plan);
  fuzz::expect(
      again.size() == bytes.size() && std::memcmp(again.data(), bytes.data(), bytes.size()) == 0,
      "a plan is sent on as it came");
  const ServedState served = ServedState::initial(shape);
  const PreparedPlan prepared =
      prepare_plan(kGeneration, plan, served, {0, 0}, shape, {.rank = 1, .staging_capacity = 2});
  for (const CommitUnit& unit : prepared.migration.units)
    fuzz::expect(is_valid_layer(unit.placement, shape), "no unit loses an expert");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<std::byte> genuine = encoded({});
  const auto bytes = fuzz::bytes_of(data, size);
  decode(bytes);
  decode(fuzz::forge(genuine, kUpToRows, bytes.subspan(std::min(size, kUpToRows))));
  return 0;
}
