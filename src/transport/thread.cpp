// Transport between threads of one process: the group's memory is private.

#include <cerrno>
#include <cstring>

#include <sys/mman.h>

#include <swiftbalancer/transport.hpp>

#include "transport/region.hpp"
#include "transport/ring_transport.hpp"

namespace swiftbalancer {

std::vector<std::unique_ptr<Transport>> make_thread_transports(int num_ranks,
                                                               const RingOptions& options) {
  const std::size_t bytes = ring::Region::bytes_for(num_ranks, options);
  // Mapped, not allocated: pages of rings that are never used cost nothing.
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw Error(ErrorCode::kIo, "transport: no " + std::to_string(bytes) + " bytes of memory for " +
                                    std::to_string(num_ranks) + " ranks: " + std::strerror(errno) +
                                    "; use fewer ranks or smaller rings");
  }
  const auto region =
      std::make_shared<ring::Region>(ring::Mapping(memory, bytes), num_ranks, options);
  std::vector<std::unique_ptr<Transport>> transports;
  for (int rank = 0; rank < num_ranks; ++rank) {
    transports.push_back(
        std::make_unique<ring::RingTransport>(region, rank, "a thread group", false));
  }
  return transports;
}

}  // namespace swiftbalancer
