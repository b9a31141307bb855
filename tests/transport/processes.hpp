#pragma once
// Ranks in processes of their own, and the names of their groups.

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace swiftbalancer {

inline std::string name_for(const std::string& rest, pid_t pid = ::getpid()) {
  return "swiftbalancer." + std::to_string(pid) + "." + rest;
}

inline std::vector<std::string> names_of(pid_t pid) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("swiftbalancer." + std::to_string(pid) + ".")) names.push_back(name);
  }
  return names;
}

/// A forked rank. Its body returns what went wrong, or nothing.
class Child {
 public:
  explicit Child(const std::function<std::string()>& body) {
    std::fflush(nullptr);  // or the child prints it again
    pid_ = ::fork();
    if (pid_ != 0) return;
    std::string error;
    try {
      error = body();
    } catch (const std::exception& e) {
      error = e.what();
    }
    if (!error.empty()) std::fprintf(stderr, "child: %s\n", error.c_str());
    ::_exit(error.empty() ? 0 : 1);
  }
  ~Child() {
    if (pid_ > 0) kill();
  }
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
  pid_t pid() const { return pid_; }
  int join() {
    int status = 0;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return status;
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    join();
  }

 private:
  pid_t pid_ = 0;
};

}  // namespace swiftbalancer
