#pragma once
// The Unix domain socket by which users steer a `serve` at work, both ends. A client sends one
// line, the server answers with one and closes. Neither end of the server waits for a client. Main
// thread.

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/rank_pipe.hpp"

namespace swiftbalancer::tool {

class ControlSocket {
 public:
  /// Listens at `path`, for the owner only; a socket that nobody listens at any more is replaced.
  /// @throws Error kInvalidArgument: the path is too long, taken, or cannot be made.
  explicit ControlSocket(const std::string& path);
  /// Removes the socket; who still waits for an answer gets none.
  ~ControlSocket();
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

  /// Readable when take() has something to do.
  int fd() const noexcept { return ready_.get(); }
  struct Request {
    int client = -1;
    std::string line;
  };
  /// Requests that have come since the last call.
  std::vector<Request> take();
  /// Answers a request and forgets its client.
  void answer(int client, std::string_view line);

 private:
  struct Client {
    engine::FileDescriptor socket;
    std::string received;
  };
  void watch(int fd);
  void accept_all();

  std::string path_;
  engine::FileDescriptor listener_, ready_;
  std::map<int, Client> clients_;
};

/// Sends a line to the server at `path`. @returns its answer.
/// @throws Error kInvalidArgument: nobody listens there; kUnavailable: no answer.
std::string ask(const std::string& path, const std::string& line);

}  // namespace swiftbalancer::tool
