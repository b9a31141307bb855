#include "engine/balancer_log.hpp"

#include <algorithm>

namespace swiftbalancer::engine {

void BalancerLog::add(std::uint64_t step, std::span<const BalancerEvent> events) {
  for (const BalancerEvent& event : events) {
    GenerationRecord& record = generation(event.generation);
    switch (event.kind) {
      case BalancerEventKind::kOpened:
        break;
      case BalancerEventKind::kAdopted:
        record.adopted_step = step;
        record.moves = event.plan->moves;
        record.bytes = event.plan->moves * expert_bytes_;
        record.imbalance_before = event.plan->imbalance_before;
        record.imbalance_after = event.plan->imbalance_after;
        break;
      case BalancerEventKind::kClosed:
        record.finished_step = step;
        record.result = to_string(event.reason);
        break;
      case BalancerEventKind::kCommitted:
        add_commit(step, event);
        record.result = "committed";
        break;
      case BalancerEventKind::kDropped:
        if (record.result.empty()) record.result = to_string(event.reason);
        break;
      case BalancerEventKind::kRetired:
        record.finished_step = step;
        break;
    }
  }
}

void BalancerLog::add_commit(std::uint64_t step, const BalancerEvent& event) {
  const CommitUnit& unit = event.plan->units[event.unit];
  CommitRecord commit;
  commit.step = step;
  commit.generation = event.generation.step;
  commit.unit = event.unit;
  commit.moe_layer_id = unit.moe_layer_id;
  // Sources are taken from the destination's own rank where it holds the expert: only the others
  // are moves.
  commit.moves = static_cast<std::int32_t>(
      std::count_if(unit.copies.begin(), unit.copies.end(), [&](const ExpertCopy& copy) {
        return shape_.rank_of_slot(copy.source_slot) != shape_.rank_of_slot(copy.destination_slot);
      }));
  commit.bytes = commit.moves * expert_bytes_;
  commit.placement = unit.placement;
  commits_.push_back(std::move(commit));
}

// The last two generations are the only ones that events still name.
GenerationRecord& BalancerLog::generation(const GenerationId& id) {
  const auto found =
      std::find_if(generations_.rbegin(), generations_.rend(),
                   [&](const GenerationRecord& record) { return record.opened_step == id.step; });
  if (found != generations_.rend()) return *found;
  GenerationRecord& record = generations_.emplace_back();
  record.opened_step = id.step;
  return record;
}

}  // namespace swiftbalancer::engine
