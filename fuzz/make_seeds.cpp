// Writes the seeds of the targets whose inputs are binary or have a checksum: run it from the
// repository root after a change of their layout. The other seeds are files as users have them.

#include <cstring>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>

#include "fuzz_target.hpp"
#include "io/placement_file.hpp"
#include "protocol/packet.hpp"
#include "runtime/plan_bytes.hpp"

using namespace swiftbalancer;

namespace {

void write(const std::string& path, std::span<const std::byte> bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

void write_packet() {
  std::vector<std::byte> packet(PacketLayout(fuzz::small_shape()).bytes());
  PacketHeader header;
  header.rank = 1;
  header.step = 7;
  header.staged_cursor = 1;
  std::memcpy(packet.data(), &header, sizeof header);
  seal_packet(packet);
  write("fuzz/corpus/packet/packet", packet);
}

void write_plan(const std::string& name, int num_changes) {
  const ClusterShape& shape = fuzz::small_shape();
  Plan plan;
  for (int layer = num_changes; layer-- > 0;) {
    LayerChange& change = plan.changes.emplace_back();
    change.moe_layer_id = layer;
    change.plan.placement = {2, 0, 1, layer};
    change.plan.shares = even_shares(change.plan.placement, shape.num_logical_experts());
    plan.moves += change.plan.moves = 2;
  }
  std::vector<std::byte> bytes(most_plan_bytes(shape));
  bytes.resize(encode_plan({0, 7}, plan, shape, bytes));
  write("fuzz/corpus/plan_message/" + name, bytes);
}

void write_state(const std::string& name, bool with_empty_slot) {
  const ClusterShape& shape = fuzz::small_shape();
  ServedState state = ServedState::initial(shape);
  if (with_empty_slot) {
    const auto row = state.placement.layer(1);
    std::ranges::copy(std::vector{0, 1, 2, kEmptySlot}, row.begin());
    state.shares[1] = {kShareUnit, kShareUnit, kShareUnit, 0};
  }
  std::vector<std::byte> bytes(state_bytes(shape));
  encode_state(state, shape, bytes);
  write("fuzz/corpus/state_message/" + name, bytes);
}

void write_placement(const std::string& name, bool with_shares) {
  const ServedState state = ServedState::initial(fuzz::small_shape());
  io::PlacementFile file;
  file.shape = {.num_moe_layers = 2, .num_logical_experts = 3, .num_ranks = 2, .num_slots = 4};
  file.placement = state.placement;
  if (with_shares) file.shares = state.shares;
  const std::string text = io::format_placement(file);
  write("fuzz/corpus/placement_file/" + name, std::as_bytes(std::span(text)));
}

}  // namespace

int main() {
  write_packet();
  write_plan("empty", 0);
  write_plan("one_layer", 1);
  write_plan("all_layers", 2);
  write_state("initial", false);
  write_state("empty_slot", true);
  write_placement("even", false);
  write_placement("shares", true);
}
