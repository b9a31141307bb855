#include "engine/scheduler.hpp"

#include <algorithm>

#include "engine/sampling.hpp"

namespace swiftbalancer::engine {

Scheduler::Scheduler(const Model& model, const Traffic& traffic, int max_batch_tokens)
    : model_(model),
      traffic_(traffic),
      max_batch_tokens_(max_batch_tokens),
      logits_(static_cast<std::size_t>(model.info().vocab_size)) {}

void Scheduler::share(std::uint64_t after, int rank, int num_ranks) {
  const auto to_come = [after](const Request* request) { return request->arrival_step > after; };
  // A step that was given up before any rank began it may have admitted some already.
  std::erase_if(active_, [&](const Active& active) { return to_come(active.request); });
  std::erase_if(mine_, to_come);
  next_ = std::min(next_, mine_.size());
  for (const Request& request : traffic_.requests) {
    if (to_come(&request) && request.id % num_ranks == rank) mine_.push_back(&request);
  }
}

const Batch& Scheduler::plan(std::uint64_t step) {
  batch_.tokens.clear();
  batch_.sequences.clear();
  batch_.active.clear();
  batch_.yields.clear();
  batch_.prefill_tokens = batch_.decode_tokens = batch_.num_yields = 0;
  batch_.context = 0;
  admit(step);
  // Every decoding request took a token of room as it was prefilled, so their number never exceeds
  // the room.
  for (std::size_t i = 0; i < active_.size(); ++i) {
    if (decoding(active_[i])) add(i, 1);
  }
  for (std::size_t i = 0; i < active_.size() && batch_.num_tokens() < max_batch_tokens_; ++i) {
    const int waiting = static_cast<int>(active_[i].request->prompt.size()) - active_[i].computed;
    if (waiting > 0) add(i, std::min(waiting, max_batch_tokens_ - batch_.num_tokens()));
  }
  // Only now: admission may have moved the requests and their caches.
  for (std::size_t i = 0; i < batch_.sequences.size(); ++i)
    batch_.sequences[i].cache = &active_[batch_.active[i]].cache;
  return batch_;
}

// Requests wait outside until a step has room for them: a cache is made when its first token is.
void Scheduler::admit(std::uint64_t step) {
  int planned = 0;
  for (const Active& active : active_) {
    planned +=
        decoding(active) ? 1 : static_cast<int>(active.request->prompt.size()) - active.computed;
  }
  while (next_ < mine_.size() && mine_[next_]->arrival_step <= step &&
         planned < max_batch_tokens_) {
    planned += static_cast<int>(mine_[next_]->prompt.size());
    active_.push_back({mine_[next_], model_.make_cache(), 0, {}});
    ++next_;
  }
}

void Scheduler::add(std::size_t index, int num_tokens) {
  const Active& active = active_[index];
  const bool decode = decoding(active);
  const auto first = static_cast<std::size_t>(active.computed);
  for (int i = 0; i < num_tokens; ++i) {
    batch_.tokens.push_back(decode ? active.output.back()
                                   : active.request->prompt[first + static_cast<std::size_t>(i)]);
    batch_.context += active.computed + i + 1;
  }
  (decode ? batch_.decode_tokens : batch_.prefill_tokens) += num_tokens;
  batch_.sequences.push_back({nullptr, active.computed, num_tokens});
  batch_.active.push_back(index);
  const bool yields =
      active.computed + num_tokens >= static_cast<int>(active.request->prompt.size());
  batch_.yields.push_back(yields ? 1 : 0);
  batch_.num_yields += yields ? 1 : 0;
}

void Scheduler::abandon() {
  for (Active& active : active_) active.cache.cut_back(active.computed);
}

void Scheduler::finish(std::span<const float> hidden) {
  const auto width = static_cast<std::size_t>(model_.info().hidden_size);
  std::size_t row = 0;
  for (std::size_t i = 0; i < batch_.sequences.size(); ++i) {
    Active& active = active_[batch_.active[i]];
    active.computed += batch_.sequences[i].num_tokens;
    row += static_cast<std::size_t>(batch_.sequences[i].num_tokens);
    if (batch_.yields[i] == 0) continue;
    model_.logits(hidden.subspan((row - 1) * width, width), logits_);
    active.output.push_back(
        choose_token(logits_, traffic_.options, active.request->id, active.computed));
  }
  for (Active& active : active_) {
    if (complete(active)) outputs_.push_back({active.request->id, std::move(active.output)});
  }
  // A finished request has given its output away; one that waits for its first token has computed
  // too little to be one.
  std::erase_if(active_,
                [&](const Active& active) { return decoding(active) && active.output.empty(); });
}

bool Scheduler::complete(const Active& active) const noexcept {
  if (active.output.empty()) return false;
  return static_cast<int>(active.output.size()) >= active.request->max_output_tokens ||
         active.output.back() == model_.info().end_of_text;
}

}  // namespace swiftbalancer::engine
