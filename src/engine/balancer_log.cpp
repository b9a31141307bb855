#include "engine/balancer_log.hpp"

#include <algorithm>

namespace swiftbalancer::engine {

void BalancerLog::add(std::uint64_t step, std::span<const BalancerEvent> events) {
  for (const BalancerEvent& event : events) {
    if (!event.generation) continue;  // of planners, not of a plan
    const std::size_t index = generation(event.generation);
    GenerationRecord& record = generations_[index];
    switch (event.kind) {
      case BalancerEventKind::kOpened:
        break;
      case BalancerEventKind::kAdopted:
        record.adopted_step = step;
        describe(*event.plan, record);
        break;
      case BalancerEventKind::kClosed:
        // In plan-only mode this is all that a plan comes to.
        if (event.plan != nullptr) describe(*event.plan, record);
        record.result = to_string(event.reason);
        end(index, step);
        break;
      case BalancerEventKind::kCommitted:
        add_commit(step, event);
        record.result = "committed";
        break;
      case BalancerEventKind::kDropped:
        if (record.result.empty()) record.result = to_string(event.reason);
        break;
      case BalancerEventKind::kRetired:
        end(index, step);
        break;
      case BalancerEventKind::kPlannersReset:
      case BalancerEventKind::kBalancingOff:
        break;
    }
  }
}

void BalancerLog::describe(const MigrationPlan& plan, GenerationRecord& record) const {
  record.moves = plan.moves;
  record.bytes = plan.moves * expert_bytes_;
  record.imbalance_before = plan.imbalance_before;
  record.imbalance_after = plan.imbalance_after;
}

void BalancerLog::end(std::size_t generation, std::uint64_t step) {
  GenerationRecord& record = generations_[generation];
  record.finished_step = step;
  record.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - opened_[generation]).count();
  ended_.push_back(generation);
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
  commit.shares = unit.shares;
  commits_.push_back(std::move(commit));
}

// The last two generations are the only ones that events still name.
std::size_t BalancerLog::generation(const GenerationId& id) {
  const auto found =
      std::find_if(generations_.rbegin(), generations_.rend(),
                   [&](const GenerationRecord& record) { return record.opened_step == id.step; });
  if (found != generations_.rend())
    return static_cast<std::size_t>(generations_.rend() - found) - 1;
  generations_.emplace_back().opened_step = id.step;
  opened_.push_back(std::chrono::steady_clock::now());
  return generations_.size() - 1;
}

}  // namespace swiftbalancer::engine
