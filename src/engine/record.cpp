#include "engine/record.hpp"

#include <cstring>
#include <type_traits>

namespace swiftbalancer::engine {
namespace {

// The same visit writes and reads, so the two cannot differ.
template <typename Archive, typename Record>
void visit(Archive& archive, Record& r) {
  archive(r.rank, r.code, r.error, r.steps, r.tokens, r.decode_steps, r.slot_tokens,
          r.routed_tokens, r.step_start_ns, r.critical_ns, r.output_requests, r.outputs, r.commits,
          r.generations, r.locality, r.waits, r.balancing, r.verified_commits, r.healthy,
          r.health_reason, r.first_step, r.resumed_step, r.resumed_placement);
}
template <typename Archive>
void visit(Archive& archive, RankSnapshot& s) {
  archive(s.rank, s.step, s.tokens, s.layer_tokens, s.waits, s.balancing, s.healthy,
          s.health_reason, s.commits, s.generations);
}
template <typename Archive>
void visit(Archive& archive, CommitRecord& c) {
  archive(c.step, c.generation, c.unit, c.moe_layer_id, c.moves, c.bytes, c.placement, c.shares);
}
template <typename Archive>
void visit(Archive& archive, GenerationRecord& g) {
  archive(g.opened_step, g.adopted_step, g.finished_step, g.result, g.moves, g.bytes,
          g.imbalance_before, g.imbalance_after, g.seconds);
}

// Both archives agree on: plain values as they lie in memory, containers with their size first.
template <typename Derived>
class Archive {
 public:
  template <typename... Values>
  void operator()(Values&... values) {
    (value(values), ...);
  }

 protected:
  template <typename T>
  void value(T& v) {
    if constexpr (std::is_trivially_copyable_v<T>) {
      self().raw(&v, sizeof v);
    } else {
      visit(self(), v);
    }
  }
  void value(std::string& text) { sized(text); }
  template <typename T>
  void value(std::vector<T>& values) {
    if constexpr (std::is_trivially_copyable_v<T>) {
      sized(values);
    } else {
      self().size(values);
      for (T& v : values) value(v);
    }
  }
  void value(std::map<std::string, std::int64_t>& map) {
    std::vector<std::string> keys;
    std::vector<std::int64_t> numbers;
    for (const auto& [key, number] : map) {
      keys.push_back(key);
      numbers.push_back(number);
    }
    value(keys);
    value(numbers);
    for (std::size_t i = 0; i < keys.size(); ++i) map[keys[i]] = numbers.at(i);
  }

 private:
  template <typename Container>
  void sized(Container& container) {
    self().size(container);
    self().raw(container.data(), container.size() * sizeof(typename Container::value_type));
  }
  Derived& self() { return static_cast<Derived&>(*this); }
};

class Writer : public Archive<Writer> {
 public:
  void raw(const void* data, std::size_t bytes) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), begin, begin + bytes);
  }
  template <typename Container>
  void size(const Container& container) {
    const std::uint64_t count = container.size();
    raw(&count, sizeof count);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class Reader : public Archive<Reader> {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  void raw(void* data, std::size_t bytes) {
    if (bytes > bytes_.size()) throw Error(ErrorCode::kInternal, "the record of a rank is cut off");
    if (bytes > 0) std::memcpy(data, bytes_.data(), bytes);
    bytes_ = bytes_.subspan(bytes);
  }
  template <typename Container>
  void size(Container& container) {
    std::uint64_t count = 0;
    raw(&count, sizeof count);
    if (count > bytes_.size()) throw Error(ErrorCode::kInternal, "the record of a rank is cut off");
    container.resize(count);
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
};

template <typename Record>
std::vector<std::byte> encoded(const Record& record) {
  Writer writer;
  Record copy = record;
  visit(writer, copy);
  return writer.take();
}

template <typename Record>
Record decoded(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  Record record;
  visit(reader, record);
  if (!reader.at_end())
    throw Error(ErrorCode::kInternal, "the record of a rank is longer than it says");
  return record;
}

}  // namespace

std::vector<std::byte> encode(const RankRecord& record) { return encoded(record); }
std::vector<std::byte> encode(const RankSnapshot& snapshot) { return encoded(snapshot); }

RankRecord decode_rank_record(std::span<const std::byte> bytes) {
  return decoded<RankRecord>(bytes);
}
RankSnapshot decode_rank_snapshot(std::span<const std::byte> bytes) {
  return decoded<RankSnapshot>(bytes);
}

}  // namespace swiftbalancer::engine
