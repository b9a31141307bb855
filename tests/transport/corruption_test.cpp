// Shared memory that makes no sense, by accident or on purpose: a clear failure, never an access
// out of bounds.
#include <cstring>
#include <random>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "transport/byte_ring.hpp"
#include "transport/conformance.hpp"
#include "transport/region.hpp"

namespace swiftbalancer {
namespace {

constexpr int kRanks = 2;

/// A group and a hand in its memory.
class Tampered {
 public:
  Tampered()
      : group_("swiftbalancer." + std::to_string(::getpid()) + ".tampered", kRanks, {kSmallRing}) {
    const int file = ::open(path().c_str(), O_RDWR);
    bytes_ = ring::Region::bytes_for(kRanks, {kSmallRing});
    void* memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    base_ = static_cast<std::byte*>(memory);
    region_ = std::make_unique<ring::Region>(ring::Mapping(memory, bytes_), "test");
  }
  std::string path() const { return "/dev/shm/" + group_.name(); }
  const std::string& name() const { return group_.name(); }
  const ring::Region& region() const { return *region_; }
  std::byte* base() const { return base_; }
  std::size_t bytes() const { return bytes_; }

 private:
  ShmGroup group_;
  std::size_t bytes_ = 0;
  std::byte* base_ = nullptr;
  std::unique_ptr<ring::Region> region_;
};

TEST(Corruption, OfTheHeaderIsRefusedWhenOpening) {
  for (std::size_t field = 0; field < 4; ++field) {
    Tampered memory;
    const std::size_t offsets[] = {0, 8, 12, 16};  // magic, version, num_ranks, ring_bytes
    memory.base()[offsets[field]] ^= std::byte{0x41};
    try {
      open_shm_transport(memory.name(), 0);
      ADD_FAILURE() << "field " << field << " accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find(memory.name()), std::string::npos) << error.what();
    }
  }
}

TEST(Corruption, OfTheSizeIsRefusedWhenOpening) {
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{10}, std::size_t{64}, std::size_t{4096}}) {
    Tampered memory;
    ASSERT_EQ(::truncate(memory.path().c_str(), static_cast<off_t>(size)), 0);
    EXPECT_THROW(open_shm_transport(memory.name(), 0), Error) << size;
  }
}

TEST(Corruption, OfAPositionFailsEveryOperationNowAndLater) {
  Tampered memory;
  const auto t = open_shm_transport(memory.name(), 0);
  std::vector<std::byte> in(8), out(16);
  const auto received = receive(*t, 1, 1, in, Delivery::kEager);
  const auto gathered = t->post_all_gather(2, in, out);
  memory.region().ring(1, 0, ring::kMessages).tail.store(std::uint64_t{1} << 40);
  const Status status = t->wait(soon());
  EXPECT_EQ(status.code(), ErrorCode::kTransport);
  EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.message();
  EXPECT_EQ(t->poll(received).state, TransferState::kFailed);
  EXPECT_EQ(wait_done(*t, gathered, soon()).code(), ErrorCode::kTransport);
  EXPECT_EQ(t->poll(send(*t, 1, 3, in, Delivery::kEager)).state, TransferState::kFailed);
}

TEST(Corruption, OfTheReceiversPositionFailsTheSender) {
  Tampered memory;
  const auto t = open_shm_transport(memory.name(), 0);
  const auto message = pattern(1, 3 * kSmallRing);
  memory.region().ring(0, 1, ring::kMessages).head.store(12345);
  EXPECT_EQ(wait_done(*t, send(*t, 1, 3, message, Delivery::kEager), soon()).code(),
            ErrorCode::kTransport);
}

TEST(Corruption, OfFramesNeverReadsOrWritesOutOfBounds) {
  int failed = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    Tampered memory;
    const auto t = open_shm_transport(memory.name(), 0);
    std::vector<std::byte> eager(100), bulk(100), out(200);
    const auto mine = pattern(1, 100);
    std::vector<TransportHandle> handles{
        receive(*t, 1, 1, eager, Delivery::kEager), receive(*t, 1, 1, bulk, Delivery::kRendezvous),
        t->post_all_gather(1, mine, out), send(*t, 1, 1, mine, Delivery::kRendezvous)};
    for (const ring::Lane lane : {ring::kMessages, ring::kBulk}) {
      // Frames that are nearly right: each field is small, or now and then anything.
      std::uint64_t position = 0;
      for (int i = 0; i < 4; ++i) {
        const auto any = [&](std::uint64_t most) {
          return random() % 12 == 0 ? random() : random() % (most + 1);
        };
        ring::FrameHeader header{any(1),
                                 any(2),
                                 any(1) * 50,
                                 any(2) * 50,
                                 static_cast<std::uint32_t>(any(1) * 50),
                                 static_cast<ring::FrameKind>(any(6))};
        std::memcpy(memory.region().ring_data(1, 0, lane) + position, &header, sizeof header);
        position += ring::frame_bytes(std::min<std::size_t>(header.length, 100));
      }
      memory.region().ring(1, 0, lane).tail.store(random() % 8 == 0 ? random() : position);
    }
    for (int round = 0; round < 3; ++round) {
      for (const TransportHandle handle : handles) t->poll(handle);
    }
    failed += t->wait(soon(0)).code() == ErrorCode::kTransport ? 1 : 0;
    for (const TransportHandle handle : handles) t->cancel(handle);
  }
  EXPECT_GT(failed, 100);
}

}  // namespace
}  // namespace swiftbalancer
