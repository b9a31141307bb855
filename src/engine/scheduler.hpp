#pragma once
// Continuous batching of one rank: every step runs one token of each decoding request and, in the
// room that is left, chunks of the prompts that wait, in order of arrival. Engine thread of one
// rank.

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model.hpp"
#include "engine/traffic.hpp"

namespace swiftbalancer::engine {

/// The tokens a rank runs in one step.
struct Batch {
  std::vector<std::int32_t> tokens;
  std::vector<Sequence> sequences;
  std::vector<std::size_t> active;  ///< [sequences] which active request each is.
  std::vector<std::uint8_t>
      yields;  ///< [sequences] 1 when its last token decides the request's next one.
  int prefill_tokens = 0;
  int decode_tokens = 0;
  int num_yields = 0;
  std::int64_t context = 0;  ///< Sum over tokens of the positions they attend to.
  int num_tokens() const noexcept { return prefill_tokens + decode_tokens; }
};

struct Output {
  int request = 0;
  std::vector<std::int32_t> tokens;
};

class Scheduler {
 public:
  /// Serves nothing until share().
  Scheduler(const Model& model, const Traffic& traffic, int max_batch_tokens);

  /// Of the requests that arrive after step `after`, serves those with id % num_ranks == rank, from
  /// now on; what has arrived stays where it is. Between steps, or after abandon().
  void share(std::uint64_t after, int rank, int num_ranks);

  /// The batch of a step; valid until the next call.
  const Batch& plan(std::uint64_t step);
  /// Chooses the next token of every sequence that yields one, and ends requests that are complete.
  /// @param hidden [batch tokens, hidden_size] after the last layer.
  void finish(std::span<const float> hidden);

  /// Gives up the batch planned last: the caches are as before it, the next plan takes it up anew.
  void abandon();

  /// False when every request of this rank, also those to come, has been answered.
  bool has_work() const noexcept { return next_ < mine_.size() || !active_.empty(); }
  const std::vector<Output>& outputs() const noexcept { return outputs_; }

 private:
  struct Active {
    const Request* request;
    KvCache cache;
    int computed = 0;  ///< Tokens whose keys and values are in the cache.
    std::vector<std::int32_t> output;
  };
  void admit(std::uint64_t step);
  void add(std::size_t active, int num_tokens);
  bool decoding(const Active& active) const noexcept {
    return active.computed >= static_cast<int>(active.request->prompt.size());
  }
  bool complete(const Active& active) const noexcept;

  const Model& model_;
  const Traffic& traffic_;
  int max_batch_tokens_;
  std::vector<const Request*> mine_;  ///< In order of arrival.
  std::size_t next_ = 0;              ///< First of mine_ that has not been admitted.
  std::vector<Active> active_;        ///< In order of arrival.
  std::vector<Output> outputs_;
  std::vector<float> logits_;
  Batch batch_;
};

}  // namespace swiftbalancer::engine
