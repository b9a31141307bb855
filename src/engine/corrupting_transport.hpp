#pragma once
// A transport that changes a byte of what an all-gather has brought, when it is told to: what a
// defect of the memory between the ranks would do to a packet. Only for runs that inject it.

#include <atomic>
#include <memory>

#include <swiftbalancer/transport.hpp>

namespace swiftbalancer::engine {

/// @param corrupt set by any thread; taken back when a byte was changed. Outlives the transport.
std::unique_ptr<Transport> make_corrupting_transport(std::unique_ptr<Transport> transport,
                                                     std::atomic<bool>& corrupt);

}  // namespace swiftbalancer::engine
