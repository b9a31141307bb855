// What becomes of a run when /dev/shm is full: an error at the start; while serving, the others go
// on without the rank that cannot join, or one clear line ends the run. In a mount namespace of a
// process of its own, with a small /dev/shm that nobody else sees.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>

#include "engine/rank_pipe.hpp"
#include "engine_serve/support.hpp"

namespace swiftbalancer::engine::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Of serve(): "ok DIGEST" or the error.
std::string outcome(const ServeOptions& options) {
  try {
    return "ok " + serve(options).output_digest;
  } catch (const Error& error) {
    return error.what();
  }
}

// Takes all that is left of /dev/shm.
void fill_up() {
  const int file = open("/dev/shm/filler", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  const std::string block(1 << 16, 'x');
  while (write(file, block.data(), block.size()) > 0) {
  }
  close(file);
}

bool mount_small(const std::string& bytes) {
  if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  return mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV,
               ("mode=1777,size=" + bytes).c_str()) == 0;
}

// What `body` says in a process whose /dev/shm has so many bytes; "" where that cannot be had.
// A process that was ended by a signal says so.
std::string with_shm_of(const std::string& bytes, const std::function<std::string()>& body) {
  Pipe pipe = make_pipe();
  const pid_t child = fork();
  if (child == 0) {
    std::string said = mount_small(bytes) ? body() : "";
    const ssize_t written = write(pipe.write.get(), said.data(), said.size());
    _exit(written == std::ssize(said) ? 0 : 1);
  }
  pipe.write.close();
  std::string said(1 << 16, '\0');
  const ssize_t length = read(pipe.read.get(), said.data(), said.size());
  said.resize(static_cast<std::size_t>(std::max<ssize_t>(0, length)));
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? std::string("ended by ") + strsignal(WTERMSIG(status)) : said;
}

#define SWIFTBALANCER_SKIP_WITHOUT_NAMESPACE(said) \
  if ((said).empty()) GTEST_SKIP() << "no mount namespaces here"

TEST(FullSharedMemory, IsAnErrorAtTheStart) {
  const std::string said = with_shm_of("1m", [] { return outcome(moving_run("")); });
  SWIFTBALANCER_SKIP_WITHOUT_NAMESPACE(said);
  EXPECT_THAT(said, StartsWith("transport: shared memory swiftbalancer."));
  EXPECT_THAT(said, HasSubstr("cannot get "));
  EXPECT_THAT(said, HasSubstr("No space left on device"));
}

// The groups of four ranks take 8 MiB, those of the three left 5 MiB more.
TEST(FullSharedMemory, EndsARunThatLosesARankWithOneLine) {
  const std::string said = with_shm_of("10m", [] { return outcome(moving_run("kill:1@6")); });
  SWIFTBALANCER_SKIP_WITHOUT_NAMESPACE(said);
  EXPECT_THAT(said, StartsWith("rank 1 was killed by signal 9 (Killed) at step "));
  EXPECT_THAT(said, HasSubstr("the ranks left cannot go on: transport: shared memory"));
  EXPECT_THAT(said, HasSubstr("No space left on device"));
}

TEST(FullSharedMemory, KeepsARankFromJoiningAndTheOthersServe) {
  const std::string said = with_shm_of("64m", [] {
    ServeOptions options = moving_run("kill:1@6,join:1@12");
    std::string lines;
    options.notice = [&](const std::string& line) { lines += line + "\n"; };
    options.progress = [](std::uint64_t, std::uint64_t, const std::string& line) {
      if (line.starts_with("inject join:")) fill_up();
    };
    return lines.insert(0, outcome(options) + "\n");
  });
  SWIFTBALANCER_SKIP_WITHOUT_NAMESPACE(said);
  EXPECT_THAT(said, HasSubstr("rank 1 cannot join: transport: shared memory"));
  EXPECT_THAT(said, HasSubstr("No space left on device"));
  EXPECT_THAT(said, StartsWith("ok "));
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
