#include <swiftbalancer/dispatch_table.hpp>

#include <algorithm>
#include <array>
#include <numeric>

#include <swiftbalancer/placement.hpp>

namespace swiftbalancer {
namespace {

constexpr std::uint32_t kStratum = kShareUnit / kDispatchEntries;

// Strata in the order in which tickets take them: bits reversed, so that any run of tickets is
// spread over all.
constexpr std::array<std::uint8_t, kDispatchEntries> kTicketOfStratum = [] {
  std::array<std::uint8_t, kDispatchEntries> order{};
  for (unsigned i = 0; i < kDispatchEntries; ++i) {
    for (unsigned bit = 0; 1U << bit < kDispatchEntries; ++bit)
      order[i] |= static_cast<std::uint8_t>((i >> bit & 1U) * kDispatchEntries >> (bit + 1));
  }
  return order;
}();

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

DispatchTableBuilder::DispatchTableBuilder(const ClusterShape& shape, bool locality_first)
    : num_sources_(static_cast<std::uint32_t>(shape.num_ranks())),
      end_(static_cast<std::size_t>(shape.num_logical_experts())),
      slots_(static_cast<std::size_t>(shape.num_slots())),
      is_changed_(end_.size()) {
  if (locality_first) locality_.emplace(shape);
}

void DispatchTableBuilder::group_by_expert(std::span<const std::int32_t> slots) {
  std::ranges::fill(end_, 0);
  for (const std::int32_t expert : slots) {
    if (expert != kEmptySlot) ++end_[static_cast<std::size_t>(expert)];
  }
  std::exclusive_scan(end_.begin(), end_.end(), end_.begin(), std::size_t{0});
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {  // Each begin moves up to its end.
    if (slots[slot] != kEmptySlot)
      slots_[end_[static_cast<std::size_t>(slots[slot])]++] = static_cast<std::int32_t>(slot);
  }
}

void DispatchTableBuilder::fill_row(std::size_t expert, std::span<const std::uint32_t> shares,
                                    std::uint32_t source, std::int32_t* row) {
  std::size_t at = begin_of(expert);
  const std::size_t end = end_[expert];
  const std::uint32_t offset = (2 * source + 1) * kStratum / (2 * num_sources_);
  const std::uint32_t start = source % kDispatchEntries;
  if (locality_) {
    std::array<std::int32_t, kDispatchEntries> chosen{};
    locality_->choose(std::span(slots_).subspan(at, end - at), shares, source, chosen);
    for (std::uint32_t stratum = 0; stratum < kDispatchEntries; ++stratum)
      row[kTicketOfStratum[stratum] ^ start] = chosen[stratum];
    return;
  }
  std::uint32_t limit = shares[static_cast<std::size_t>(slots_[at])];
  for (std::uint32_t stratum = 0; stratum < kDispatchEntries; ++stratum) {
    while (stratum * kStratum + offset >= limit && at + 1 < end)
      limit += shares[static_cast<std::size_t>(slots_[++at])];
    row[kTicketOfStratum[stratum] ^ start] = slots_[at];
  }
}

void DispatchTableBuilder::build(std::span<const std::int32_t> slots,
                                 std::span<const std::uint32_t> shares, int source_rank,
                                 std::span<std::int32_t> out) {
  group_by_expert(slots);
  for (std::size_t expert = 0; expert < end_.size(); ++expert) {
    std::int32_t* row = out.data() + expert * kDispatchEntries;
    if (end_[expert] - begin_of(expert) > 1) {
      fill_row(expert, shares, static_cast<std::uint32_t>(source_rank), row);
    } else {
      std::fill_n(row, kDispatchEntries, first_slot(expert));
    }
  }
}

DispatchRows DispatchTableBuilder::changed_rows(std::span<const std::int32_t> slots_before,
                                                std::span<const std::uint32_t> shares_before,
                                                std::span<const std::int32_t> slots,
                                                std::span<const std::uint32_t> shares,
                                                int source_rank) {
  std::ranges::fill(is_changed_, std::uint8_t{0});
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot] == slots_before[slot] && shares[slot] == shares_before[slot]) continue;
    for (const std::int32_t expert : {slots_before[slot], slots[slot]}) {
      if (expert != kEmptySlot) is_changed_[static_cast<std::size_t>(expert)] = 1;
    }
  }
  group_by_expert(slots);
  const auto count = static_cast<std::size_t>(std::ranges::count(is_changed_, std::uint8_t{1}));
  DispatchRows rows;
  rows.experts.reserve(count);
  rows.entries.reserve(count * kDispatchEntries);
  for (std::size_t expert = 0; expert < is_changed_.size(); ++expert) {
    if (is_changed_[expert] == 0) continue;
    const std::size_t at = rows.entries.size();
    rows.entries.insert(rows.entries.end(), kDispatchEntries, first_slot(expert));
    if (end_[expert] - begin_of(expert) > 1) {
      fill_row(expert, shares, static_cast<std::uint32_t>(source_rank), rows.entries.data() + at);
    }
    rows.experts.push_back(static_cast<std::int32_t>(expert));
  }
  return rows;
}

void DispatchRows::copy_to(std::span<std::int32_t> table) const noexcept {
  for (std::size_t i = 0; i < experts.size(); ++i) {
    std::copy_n(entries.data() + i * kDispatchEntries, kDispatchEntries,
                table.data() + static_cast<std::size_t>(experts[i]) * kDispatchEntries);
  }
}

DrawTable::DrawTable(const ClusterShape& shape)
    : source_shift_(kShareUnit / static_cast<std::uint32_t>(shape.num_ranks())),
      first_(static_cast<std::size_t>(shape.num_logical_experts()) + 1),
      choices_(static_cast<std::size_t>(shape.num_slots())) {}

void DrawTable::build(std::span<const std::int32_t> slots, std::span<const std::uint32_t> shares) {
  std::ranges::fill(first_, 0U);
  for (const std::int32_t expert : slots) {
    if (expert != kEmptySlot) ++first_[static_cast<std::size_t>(expert)];
  }
  std::inclusive_scan(first_.begin(), first_.end(), first_.begin());
  // Filled from the back, the ends come down to the beginnings.
  for (std::size_t slot = slots.size(); slot-- > 0;) {
    if (slots[slot] == kEmptySlot) continue;
    choices_[--first_[static_cast<std::size_t>(slots[slot])]] = {static_cast<std::int32_t>(slot),
                                                                 shares[slot]};
  }
  for (std::size_t expert = 0; expert + 1 < first_.size(); ++expert) {
    for (std::uint32_t i = first_[expert] + 1; i < first_[expert + 1]; ++i)
      choices_[i].limit += choices_[i - 1].limit;
  }
}

std::int32_t DrawTable::slot(int logical_id, std::uint32_t ticket, int source_rank) const noexcept {
  const auto expert = static_cast<std::size_t>(logical_id);
  const Choice* choice = choices_.data() + first_[expert];
  const Choice* last = choices_.data() + first_[expert + 1] - 1;
  if (choice == last) return choice->slot;
  std::uint32_t point = ticket;  // The low 16 bits reversed: a share in kShareUnit.
  point = (point & 0x5555U) << 1 | (point >> 1 & 0x5555U);
  point = (point & 0x3333U) << 2 | (point >> 2 & 0x3333U);
  point = (point & 0x0F0FU) << 4 | (point >> 4 & 0x0F0FU);
  point = (point & 0x00FFU) << 8 | (point >> 8 & 0x00FFU);
  point = (point + static_cast<std::uint32_t>(source_rank) * source_shift_) % kShareUnit;
  while (choice != last && point >= choice->limit) ++choice;
  return choice->slot;
}

void build_dispatch_table(std::span<const std::int32_t> slots,
                          std::span<const std::uint32_t> shares, const ClusterShape& shape,
                          int source_rank, std::span<std::int32_t> out) {
  DispatchTableBuilder(shape).build(slots, shares, source_rank, out);
}

}  // namespace swiftbalancer
