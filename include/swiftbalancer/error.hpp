#pragma once
// How failures are told. Set-up and tools throw Error; running code returns Status; the hot path
// cannot fail. Used by everybody. All types here are values and thread-compatible.

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace swiftbalancer {

enum class ErrorCode {
  kOk,
  kInvalidArgument,  ///< A value outside what is allowed; the message says what is.
  kInvalidState,     ///< A call out of order.
  kUnavailable,      ///< Not now: paused, stopped or not started.
  kTimeout,          ///< A wait reached its deadline.
  kPeerLost,         ///< Another rank is gone.
  kTransport,        ///< The transport failed.
  kIo,               ///< A file could not be read or written.
  kUnsupported,      ///< Known, but not supported; the message lists what is.
  kInternal,         ///< A broken invariant of this library.
};

std::string_view to_string(ErrorCode code);

/// Thrown by set-up and tools: one line with what, the value and where, what is allowed, what to
/// do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

/// Result of a running operation. Success carries no message and allocates nothing.
class [[nodiscard]] Status {
 public:
  Status() noexcept = default;
  Status(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}
  bool ok() const noexcept { return code_ == ErrorCode::kOk; }
  ErrorCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }
  /// @throws Error with this code and message unless ok().
  void throw_if_failed() const {
    if (!ok()) throw Error(code_, message_);
  }

 private:
  ErrorCode code_ = ErrorCode::kOk;
  std::string message_;
};

}  // namespace swiftbalancer
