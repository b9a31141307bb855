#include <swiftbalancer/transport.hpp>

namespace swiftbalancer {
namespace {

/// Gives an operation up unless it is over, whatever ends the wait: nobody else knows its handle.
class Waited {
 public:
  Waited(Transport& transport, TransportHandle handle) : transport_(transport), handle_(handle) {}
  ~Waited() {
    if (!over_) transport_.cancel(handle_);
  }
  Waited(const Waited&) = delete;
  Waited& operator=(const Waited&) = delete;
  TransferStatus poll() {
    const TransferStatus status = transport_.poll(handle_);
    over_ = status.state != TransferState::kPending;
    return status;
  }

 private:
  bool over_ = false;
  Transport& transport_;
  TransportHandle handle_;
};

}  // namespace

Status wait_done(Transport& transport, TransportHandle handle,
                 std::chrono::steady_clock::time_point deadline, std::size_t* bytes) {
  Waited operation(transport, handle);
  Status waited;
  while (true) {
    const TransferStatus status = operation.poll();
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
    if (!waited.ok()) return waited;
    waited = transport.wait(deadline);  // after a failure there is one more look
  }
}

}  // namespace swiftbalancer
