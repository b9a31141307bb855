#include "migration/copy_executor.hpp"

#include <algorithm>
#include <string>

#include <swiftbalancer/error.hpp>

#include "migration/copy_executor_impl.hpp"
#include "migration/copy_tag.hpp"
#include "migration/index.hpp"

namespace swiftbalancer {
namespace {

[[noreturn]] void out_of_order(const std::string& what) {
  throw Error(ErrorCode::kInternal, "copy executor: " + what);
}

}  // namespace

void CopyExecutor::Impl::check_parts() const {
  const auto room = pool.part_bytes();
  for (std::size_t layer = 0; layer < slots.part_bytes.size(); ++layer) {
    const auto& parts = slots.part_bytes[layer];
    for (std::size_t part = 0; part < parts.size(); ++part) {
      const std::size_t bytes = part < room.size() ? room[part] : 0;
      if (parts[part] > bytes) {
        throw Error(ErrorCode::kInvalidArgument,
                    "part " + std::to_string(part) + " of MoE layer " + std::to_string(layer) +
                        " has " + std::to_string(parts[part]) + " bytes; a staging buffer has " +
                        std::to_string(bytes) +
                        " there: size the pool by the largest of each part");
      }
    }
  }
}

// Takes all memory that the plan will need, so that only the transport's own can lack later.
void CopyExecutor::Impl::start(const MigrationPlan& adopted) {
  transfers = transfers_of(adopted, shape, rank);
  receiving.reserve(transfers.arrivals.size());
  local.reserve(transfers.arrivals.size());
  sending.reserve(transfers.departures.size());
  if (!can_cancel) drain.reserve(transfers.arrivals.size(), transfers.departures.size());
  for (std::uint32_t unit = 0; unit < transfers.num_units(); ++unit) {
    const CommitUnit& starts = adopted.units[unit];
    const std::size_t num_parts = slots.part_bytes[index(starts.moe_layer_id)].size();
    for (Arrival& arrival : transfers.arrivals_of(unit)) arrival.parts.reserve(num_parts);
    // No unit before this one overwrites what it sends.
    for (Departure& departure : transfers.departures_of(unit))
      departure.parts = source_parts(starts, starts.copies[departure.copy]);
    transfers.units[unit].staged.reserve(transfers.arrivals_of(unit).size());
    transfers.units[unit].failed =
        drain.gave_up(starts.moe_layer_id, copy_tag(adopted.generation, unit, 0));
  }
  departures_left = transfers.departures.size();
  plan = &adopted;
}

void CopyExecutor::Impl::clear() {
  plan = nullptr;
  transfers = {};
  next_arrival = departures_left = 0;
  receiving.clear();
  sending.clear();
  local.clear();
  cursor = 0;
  copying = kNothing;
}

UnitTransfers& CopyExecutor::Impl::pending_unit(std::uint32_t unit, const char* call) {
  if (unit >= transfers.num_units() ||
      transfers.units[unit].state != UnitTransfers::State::kPending) {
    out_of_order(std::string(call) + " of unit " + std::to_string(unit) +
                 ", which is not pending (the plan has " + std::to_string(transfers.num_units()) +
                 ")");
  }
  return transfers.units[unit];
}

std::size_t CopyExecutor::Impl::expert_bytes(std::uint32_t unit) const {
  std::size_t sum = 0;
  for (std::size_t bytes : slots.part_bytes[index(plan->units[unit].moe_layer_id)]) sum += bytes;
  return sum;
}

std::vector<std::span<const std::byte>> CopyExecutor::Impl::source_parts(
    const CommitUnit& unit, const ExpertCopy& copy) const {
  const std::size_t layer = index(unit.moe_layer_id);
  const PartPointers& from = slots.parts[layer][index(local_slot(copy.source_slot))];
  std::vector<std::span<const std::byte>> parts;
  for (std::size_t part = 0; part < from.size(); ++part)
    parts.emplace_back(from[part], slots.part_bytes[layer][part]);
  return parts;
}

void CopyExecutor::Impl::arrived(std::uint32_t unit) {
  UnitTransfers& reached = transfers.units[unit];
  if (--reached.missing > 0) return;
  for (const Arrival& arrival : transfers.arrivals_of(unit)) {
    const std::int32_t slot = copy_of(unit, arrival.copy).destination_slot;
    reached.staged.push_back({local_slot(slot), arrival.buffer});
  }
}

CopyExecutor::CopyExecutor(const ClusterShape& shape, Transport& transport, StagingPool& pool,
                           LocalSlots& slots)
    : impl_(std::make_unique<Impl>(shape, transport, pool, slots)) {
  impl_->check_parts();
}

CopyExecutor::~CopyExecutor() {
  for (std::uint32_t unit = 0; unit < impl_->transfers.num_units(); ++unit) {
    if (impl_->can_cancel) impl_->cancel_transfers(unit);
    impl_->release_buffers(unit);
  }
}

void CopyExecutor::adopt(const MigrationPlan& plan) {
  if (active()) out_of_order("adopt while another plan is active");
  impl_->start(plan);
  impl_->advance_cursor();
}

void CopyExecutor::drop(std::uint32_t unit, bool too_old) {
  UnitTransfers& dropped = impl_->pending_unit(unit, "drop");
  if (too_old) {
    impl_->drain.give_up(impl_->plan->generation.step, impl_->plan->units[unit].moe_layer_id);
  }
  dropped.state = UnitTransfers::State::kDropped;
  impl_->stop_transfers(unit);
  impl_->release_buffers(unit);
  impl_->advance_cursor();
}

void CopyExecutor::committed(std::uint32_t unit, bool swap) {
  UnitTransfers& installed = impl_->pending_unit(unit, "commit");
  if (installed.missing > 0)
    out_of_order("commit of unit " + std::to_string(unit) + ", which is not staged here");
  installed.state = UnitTransfers::State::kCommitted;
  // Every rank has its bytes, so a send that still looks pending has only not been told yet.
  impl_->stop_transfers(unit);
  if (swap) {
    const std::size_t layer = index(impl_->plan->units[unit].moe_layer_id);
    if (!std::ranges::equal(impl_->slots.part_bytes[layer], impl_->pool.part_bytes())) {
      out_of_order("swap of MoE layer " + std::to_string(layer) +
                   ", whose experts differ from the pool's buffers");
    }
    for (const StagedExpert& expert : installed.staged) {
      PartPointers& slot = impl_->slots.parts[layer][index(expert.local_slot)];
      std::swap_ranges(slot.begin(), slot.end(), impl_->pool.parts(expert.buffer).begin());
    }
  }
  impl_->release_buffers(unit);
  impl_->advance_cursor();
}

void CopyExecutor::retire() {
  if (!active()) out_of_order("retire without a plan");
  for (std::uint32_t unit = 0; unit < impl_->transfers.num_units(); ++unit) {
    if (impl_->transfers.units[unit].state == UnitTransfers::State::kPending) {
      out_of_order("retire with unit " + std::to_string(unit) + " pending");
    }
  }
  impl_->clear();
}

bool CopyExecutor::progress() {
  impl_->drain.poll();
  if (active()) {
    impl_->poll_receives();
    impl_->poll_sends();
  }
  impl_->rules.take_buffers([this] { impl_->drain.post_owed(impl_->slots.part_bytes); },
                            [this] { impl_->grant_buffers(); });
  if (!active()) return false;
  impl_->copy_local();
  impl_->post_sends();
  impl_->advance_cursor();
  return !impl_->local.empty();
}

std::uint32_t CopyExecutor::staged_cursor() const noexcept { return impl_->cursor; }

std::optional<std::uint32_t> CopyExecutor::failed_unit() const noexcept {
  for (std::uint32_t unit = impl_->cursor; unit < impl_->transfers.num_units(); ++unit) {
    if (impl_->transfers.units[unit].failed &&
        impl_->transfers.units[unit].state == UnitTransfers::State::kPending)
      return unit;
  }
  return std::nullopt;
}

std::span<const StagedExpert> CopyExecutor::staged(std::uint32_t unit) const noexcept {
  return unit < impl_->transfers.num_units()
             ? std::span<const StagedExpert>(impl_->transfers.units[unit].staged)
             : std::span<const StagedExpert>{};
}

bool CopyExecutor::active() const noexcept { return impl_->plan != nullptr; }

}  // namespace swiftbalancer
