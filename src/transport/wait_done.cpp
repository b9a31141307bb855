#include <swiftbalancer/transport.hpp>

namespace swiftbalancer {

Status wait_done(Transport& transport, TransportHandle handle,
                 std::chrono::steady_clock::time_point deadline, std::size_t* bytes) {
  Status waited;
  while (true) {
    const TransferStatus status = transport.poll(handle);
    if (status.state == TransferState::kDone) {
      if (bytes != nullptr) *bytes = status.bytes;
      return {};
    }
    if (status.state == TransferState::kFailed) {
      if (!waited.ok()) return waited;
      return {ErrorCode::kTransport, "rank " + std::to_string(transport.rank()) +
                                         ": a transfer failed: its message is longer than the "
                                         "receive, or the transport failed"};
    }
    if (!waited.ok()) break;
    waited = transport.wait(deadline);  // after a failure there is one more look
  }
  transport.cancel(handle);
  return waited;
}

}  // namespace swiftbalancer
