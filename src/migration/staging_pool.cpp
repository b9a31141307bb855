#include <algorithm>
#include <new>
#include <numeric>
#include <string>

#include <swiftbalancer/error.hpp>

#include "migration/copy_executor.hpp"

namespace swiftbalancer {
namespace {

constexpr std::size_t kPartAlignment = 64;
constexpr int kMaxBuffers = 1 << 20;

std::size_t padded(std::size_t bytes) {
  return (bytes + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
}

struct AlignedDelete {
  void operator()(std::byte* memory) const noexcept {
    ::operator delete(memory, std::align_val_t{kPartAlignment});
  }
};

int buffers_within(std::span<const std::size_t> part_bytes, std::size_t staging_bytes) {
  const std::size_t expert_bytes =
      std::accumulate(part_bytes.begin(), part_bytes.end(), std::size_t{0});
  if (expert_bytes == 0) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "expert weights have no bytes; register at least one part with bytes for every slot");
  }
  if (staging_bytes < expert_bytes) {
    throw Error(ErrorCode::kInvalidArgument, "staging_bytes is " + std::to_string(staging_bytes) +
                                                 ", less than one expert; give at least " +
                                                 std::to_string(expert_bytes) + " bytes");
  }
  return static_cast<int>(std::min(staging_bytes / expert_bytes, std::size_t{kMaxBuffers}));
}

std::byte* allocate(std::size_t bytes) {
  try {
    return static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kPartAlignment}));
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kInvalidArgument,
                "staging_bytes needs " + std::to_string(bytes) +
                    " bytes of memory, more than can be allocated; give less");
  }
}

}  // namespace

struct StagingPool::Impl {
  std::vector<std::size_t> part_bytes;
  std::unique_ptr<std::byte, AlignedDelete> memory;
  std::vector<PartPointers> parts;  // [buffer]
  std::vector<int> free;            // the last one is granted next
  std::vector<bool> is_free;        // [buffer]
};

StagingPool::StagingPool(std::span<const std::size_t> part_bytes, std::size_t staging_bytes)
    : impl_(std::make_unique<Impl>()) {
  const auto buffers = static_cast<std::size_t>(buffers_within(part_bytes, staging_bytes));
  impl_->part_bytes.assign(part_bytes.begin(), part_bytes.end());
  std::size_t buffer_bytes = 0;
  for (std::size_t bytes : part_bytes) buffer_bytes += padded(bytes);
  impl_->memory.reset(allocate(buffers * buffer_bytes));

  std::byte* next = impl_->memory.get();
  impl_->parts.resize(buffers);
  for (PartPointers& parts : impl_->parts) {
    for (std::size_t bytes : part_bytes) {
      parts.push_back(next);
      next += padded(bytes);
    }
  }
  impl_->is_free.assign(buffers, true);
  impl_->free.resize(buffers);
  std::iota(impl_->free.rbegin(), impl_->free.rend(), 0);
}

StagingPool::~StagingPool() = default;

int StagingPool::capacity() const noexcept { return static_cast<int>(impl_->parts.size()); }
int StagingPool::num_free() const noexcept { return static_cast<int>(impl_->free.size()); }
std::span<const std::size_t> StagingPool::part_bytes() const noexcept { return impl_->part_bytes; }
PartPointers& StagingPool::parts(int buffer) {
  return impl_->parts.at(static_cast<std::size_t>(buffer));
}

std::optional<int> StagingPool::grant() {
  if (impl_->free.empty()) return std::nullopt;
  const int buffer = impl_->free.back();
  impl_->free.pop_back();
  impl_->is_free[static_cast<std::size_t>(buffer)] = false;
  return buffer;
}

void StagingPool::release(int buffer) {
  if (buffer < 0 || buffer >= capacity() || impl_->is_free[static_cast<std::size_t>(buffer)]) {
    throw Error(ErrorCode::kInternal, "staging buffer " + std::to_string(buffer) + " of " +
                                          std::to_string(capacity()) +
                                          " is released but was not granted");
  }
  impl_->is_free[static_cast<std::size_t>(buffer)] = true;
  impl_->free.push_back(buffer);
}

}  // namespace swiftbalancer
