#include <swiftbalancer/dispatch_table.hpp>

#include <algorithm>
#include <numeric>

#include <swiftbalancer/placement.hpp>

namespace swiftbalancer {
namespace {

struct Choice {
  std::int32_t slot;
  std::int64_t share;  // in kShareUnit
  int entries = 0;     // how often it appears in the table
  std::int64_t credit = 0;
};

// Largest remainder; among equal remainders the turn rotates with the source rank, so that over all
// sources each slot gets its share.
void apportion(std::span<Choice> choices, int source_rank) {
  int left = kDispatchEntries;
  for (Choice& choice : choices) {
    choice.entries = static_cast<int>(choice.share * kDispatchEntries / kShareUnit);
    left -= choice.entries;
  }
  const auto count = static_cast<int>(choices.size());
  std::vector<int> order(choices.size());
  std::iota(order.begin(), order.end(), 0);
  const auto remainder = [&](int i) {
    return choices[static_cast<std::size_t>(i)].share * kDispatchEntries % kShareUnit;
  };
  const auto turn = [&](int i) { return (i + source_rank) % count; };
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    // Remainders that differ by rounding of the shares only (3 replicas: 21845.33 units) count as
    // equal.
    constexpr std::int64_t kStep = kShareUnit / 64;
    const std::int64_t ra = (remainder(a) + kStep / 2) / kStep,
                       rb = (remainder(b) + kStep / 2) / kStep;
    return ra != rb ? ra > rb : turn(a) < turn(b);
  });
  for (int i = 0; i < left; ++i)
    ++choices[static_cast<std::size_t>(order[static_cast<std::size_t>(i % count)])].entries;
}

// Smooth weighted round-robin: every prefix of the row is within one entry of the planned
// proportion.
void interleave(std::span<Choice> choices, int source_rank, std::span<std::int32_t> row) {
  const std::size_t start = static_cast<std::size_t>(source_rank) % choices.size();
  for (std::int32_t& entry : row) {
    Choice* best = nullptr;
    for (std::size_t k = 0; k < choices.size(); ++k) {
      Choice& choice = choices[(start + k) % choices.size()];
      choice.credit += choice.entries;
      if (best == nullptr || choice.credit > best->credit) best = &choice;
    }
    best->credit -= kDispatchEntries;
    entry = best->slot;
  }
}

}  // namespace

std::vector<std::uint32_t> even_shares(std::span<const std::int32_t> slots,
                                       int num_logical_experts) {
  const auto counts = replica_count(slots, num_logical_experts);
  std::vector<std::uint32_t> given(counts.size(), 0);
  std::vector<std::uint32_t> shares(slots.size());
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot] == kEmptySlot) continue;
    const auto expert = static_cast<std::size_t>(slots[slot]);
    const auto replicas = static_cast<std::uint32_t>(counts[expert]);
    shares[slot] = kShareUnit / replicas + (given[expert]++ < kShareUnit % replicas ? 1U : 0U);
  }
  return shares;
}

void build_dispatch_table(std::span<const std::int32_t> slots,
                          std::span<const std::uint32_t> shares, const ClusterShape& shape,
                          int source_rank, std::span<std::int32_t> out) {
  std::vector<std::vector<Choice>> choices(static_cast<std::size_t>(shape.num_logical_experts()));
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot] == kEmptySlot) continue;
    choices[static_cast<std::size_t>(slots[slot])].push_back(
        {static_cast<std::int32_t>(slot), shares[slot]});
  }
  for (std::size_t expert = 0; expert < choices.size(); ++expert) {
    std::span<Choice> of_expert = choices[expert];
    apportion(of_expert, source_rank);
    interleave(of_expert, source_rank, out.subspan(expert * kDispatchEntries, kDispatchEntries));
  }
}

}  // namespace swiftbalancer
