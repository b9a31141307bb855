#pragma once
// Transport moves bytes between ranks; it knows nothing of experts. Posting never blocks, every
// wait has a deadline, and no call works on for long because others' bytes flow. One instance per
// thread: the engine's exchange has its own, the balancer worker its own. Only wake() may be called
// from another thread. Implementations: src/transport/, one file each; one conformance suite tests
// them all.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {

namespace ring {
class Region;
}

struct TransportCapabilities {
  bool multi_process = false;  ///< Ranks may be processes.
  bool cancel =
      true;  ///< cancel() takes effect at once; the buffers may be reused when it returns.
};

/// Names a posted operation of one transport instance. Value 0 names none.
struct TransportHandle {
  std::uint64_t id = 0;
  explicit operator bool() const noexcept { return id != 0; }
};

enum class TransferState { kPending, kDone, kFailed };

struct TransferStatus {
  TransferState state = TransferState::kPending;
  std::size_t bytes = 0;  ///< kDone: bytes received (receives) or sent.
};

/// How a send meets its receive.
enum class Delivery {
  kEager,       ///< Sent at once; the receiver keeps what arrives before its receive is posted. For
                ///< small or expected data.
  kRendezvous,  ///< Nothing is sent before the receive is posted. Bulk data: never takes memory
                ///< that was not granted.
};

/// Where memory is lacking, calls throw std::bad_alloc: nothing is posted, taken or lost then, and
/// the same call may be made again. cancel() and wake() never lack any.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const noexcept = 0;
  virtual int num_ranks() const noexcept = 0;
  virtual TransportCapabilities capabilities() const noexcept = 0;

  /// Contributes `mine` and collects every rank's contribution: out[rank * mine.size(), ...). All
  /// ranks pass equal sizes. Both spans stay valid until done. Never queues behind a rendezvous
  /// transfer.
  virtual TransportHandle post_all_gather(std::uint64_t tag, std::span<const std::byte> mine,
                                          std::span<std::byte> out) = 0;
  /// Sends the concatenation of parts to the receive with the same tag on `peer` (own rank
  /// allowed). Memory stays valid and unchanged until done, failed or cancelled. Both sides name
  /// the same delivery. A tag may be used again after both sides are done with it.
  virtual TransportHandle post_send(int peer, std::uint64_t tag,
                                    std::span<const std::span<const std::byte>> parts,
                                    Delivery delivery) = 0;
  /// Receives at most the summed size of parts; a longer message fails the receive, and a
  /// rendezvous send as well.
  virtual TransportHandle post_recv(int peer, std::uint64_t tag,
                                    std::span<const std::span<std::byte>> parts,
                                    Delivery delivery) = 0;
  /// Makes progress, by a bounded amount, and reports. A round of polls over many handles makes
  /// progress once. After kDone or kFailed has been reported once the handle is forgotten.
  virtual TransferStatus poll(TransportHandle handle) = 0;
  /// Gives up an operation; a handle already done is forgotten. When it returns, the operation
  /// touches no memory any more. An eager message whose receive was given up is kept until a
  /// receive with its tag takes it.
  virtual void cancel(TransportHandle handle) = 0;

  /// Makes progress until an operation is finished, wake() was called, or the deadline, all of
  /// which it looks at after each bounded amount of work; sleeps while nothing moves. May return
  /// early. @returns kTimeout at the deadline, kPeerLost (message names the ranks) when a peer has
  /// closed or died.
  virtual Status wait(std::chrono::steady_clock::time_point deadline) = 0;
  /// Ends a wait() of this instance from another thread; remembered if none is under way.
  virtual void wake() noexcept = 0;
  /// Ranks that are gone (closed or died), ascending. Looks now; not for every step.
  virtual std::vector<int> lost_peers() = 0;
  /// Ranks without which operations of this instance are not done, ascending.
  virtual std::vector<int> awaited_peers() const = 0;
};

/// Posts done within a deadline: waits until handle is done.
/// @returns kTimeout, kPeerLost or kTransport otherwise; the operation has then been cancelled, and
/// so it has where memory is lacking.
Status wait_done(Transport& transport, TransportHandle handle,
                 std::chrono::steady_clock::time_point deadline, std::size_t* bytes = nullptr);

struct RingOptions {
  /// Bytes of a ring, of which each ordered pair of ranks has two; rounded up to a power of two.
  /// 0: 1 MiB by the number of ranks, at least 4 KiB and at most 128 KiB, so that a group takes
  /// 16 MiB for 8 ranks and 128 MiB for 64. A longer message goes through in pieces.
  std::size_t ring_bytes = 0;
};

/// One instance per rank, all in this process: ranks are threads.
std::vector<std::unique_ptr<Transport>> make_thread_transports(int num_ranks,
                                                               const RingOptions& options = {});

/// A shared-memory group. The creator makes it before forking the ranks; each rank opens its own
/// instance by name, in the process that then uses it. The name is removed when the creator's
/// object goes (in the process that made it, not in a fork), and can be removed as soon as all
/// ranks have opened it. A rank whose process ends without closing its instance is noticed by its
/// peers within about 100 ms of their waits, whoever waits for what. Somebody has to call
/// mark_lost() between processes of different pid or time namespaces (containers that share
/// /dev/shm), without /proc, and for a rank that ends before it has opened its instance.
class ShmGroup {
 public:
  /// @param name without slash; must be new. "swiftbalancer.<pid>.<rest>" lets
  ///        remove_stale_shm_groups() find what a killed creator left. Permissions: this user only.
  /// @throws Error kIo: exists already, no space, no permission.
  ShmGroup(std::string name, int num_ranks, const RingOptions& options = {});
  ~ShmGroup();
  ShmGroup(const ShmGroup&) = delete;
  ShmGroup& operator=(const ShmGroup&) = delete;
  const std::string& name() const noexcept { return name_; }
  /// Removes the name now; mappings stay.
  void unlink() noexcept;
  /// Marks a rank whose process ended, so that peers stop waiting for it at once.
  void mark_lost(int rank) noexcept;

 private:
  std::string name_;
  std::string path_;  // of shm_open()
  bool linked_ = false;
  int creator_ = 0;  // pid
  std::unique_ptr<ring::Region> region_;
};

/// Opens a rank's instance of a group. @throws Error kIo, kInvalidArgument (rank taken or out of
/// range, not our layout).
std::unique_ptr<Transport> open_shm_transport(const std::string& name, int rank);

/// Removes the groups "swiftbalancer.<pid>.*" of this user whose creators have ended. The creator
/// is the one that the group's memory names, so that neither a process id that came back nor one of
/// another pid namespace deceives: groups of other namespaces stay, and so does a file whose
/// beginning does not say who made it. @returns the names removed.
std::vector<std::string> remove_stale_shm_groups();

}  // namespace swiftbalancer
