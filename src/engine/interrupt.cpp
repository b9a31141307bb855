#include "engine/interrupt.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>

namespace swiftbalancer::engine {
namespace {

std::atomic<int> wake_fd{-1};

extern "C" void on_signal(int signal) {
  const auto byte = static_cast<unsigned char>(signal);
  // A full pipe has woken the reader already.
  if (write(wake_fd.load(), &byte, 1) < 0) return;
}

}  // namespace

InterruptScope::InterruptScope() : pipe_(make_pipe()) {
  fcntl(pipe_.read.get(), F_SETFL, O_NONBLOCK);
  fcntl(pipe_.write.get(), F_SETFL, O_NONBLOCK);
  wake_fd = pipe_.write.get();
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &old_int_);
  sigaction(SIGTERM, &action, &old_term_);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, &old_pipe_);
}

InterruptScope::~InterruptScope() {
  sigaction(SIGINT, &old_int_, nullptr);
  sigaction(SIGTERM, &old_term_, nullptr);
  sigaction(SIGPIPE, &old_pipe_, nullptr);
  wake_fd = -1;
}

void InterruptScope::ignore_in_child() noexcept {
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGPIPE, SIG_IGN);
}

int InterruptScope::received() {
  unsigned char byte = 0;
  return ::read(pipe_.read.get(), &byte, 1) == 1 ? byte : 0;
}

}  // namespace swiftbalancer::engine
