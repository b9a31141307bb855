#include "runtime/planner_process/child.hpp"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {
namespace {

constexpr const char* kName = "swiftbalancer-planner";

void require_done(int error, const std::string& what) {
  if (error == 0) return;
  throw Error(ErrorCode::kIo, what + ": " + std::strerror(error));
}

bool is_program(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         ::access(path.c_str(), X_OK) == 0;
}

std::string folder_of_this_program() {
  char path[4096];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0) return {};
  const std::string_view exe(path, static_cast<std::size_t>(length));
  return std::string(exe.substr(0, exe.rfind('/')));
}

std::vector<std::string> folders_in_path() {
  std::vector<std::string> folders;
  const char* path = std::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): set-up
  std::string_view rest = path == nullptr ? "" : path;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    if (end != 0) folders.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return folders;
}

std::string describe(int status) {
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    const char* name = ::sigdescr_np(signal);
    return "was killed by signal " + std::to_string(signal) + " (" +
           (name == nullptr ? "unknown" : name) + ")";
  }
  const int code = WEXITSTATUS(status);
  if (code == kPlannerExitOutOfMemory) return "ran out of memory";
  return "ended by itself with status " + std::to_string(code);
}

class FileActions {
 public:
  FileActions() { require_done(::posix_spawn_file_actions_init(&actions_), "cannot prepare"); }
  ~FileActions() { ::posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;
  posix_spawn_file_actions_t* get() noexcept { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

class Attributes {
 public:
  Attributes() { require_done(::posix_spawnattr_init(&attributes_), "cannot prepare"); }
  ~Attributes() { ::posix_spawnattr_destroy(&attributes_); }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;
  posix_spawnattr_t* get() noexcept { return &attributes_; }

 private:
  posix_spawnattr_t attributes_{};
};

void give_descriptors(FileActions& actions, int descriptor) {
  int error =
      ::posix_spawn_file_actions_addopen(actions.get(), STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (error == 0)
    error =
        ::posix_spawn_file_actions_addopen(actions.get(), STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  if (error == 0)
    error = ::posix_spawn_file_actions_adddup2(actions.get(), descriptor, kPlannerDescriptor);
  if (error == 0)
    error = ::posix_spawn_file_actions_addclosefrom_np(actions.get(), kPlannerDescriptor + 1);
  require_done(error, "cannot prepare");
}

// Signals as a new program expects them, and a group of its own: an interrupt from the terminal is
// for the engine, which ends the planner itself.
void give_signals(Attributes& attributes) {
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  ::posix_spawnattr_setsigmask(attributes.get(), &none);
  ::posix_spawnattr_setsigdefault(attributes.get(), &all);
  ::posix_spawnattr_setpgroup(attributes.get(), 0);
  require_done(
      ::posix_spawnattr_setflags(
          attributes.get(), POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP),
      "cannot prepare");
}

}  // namespace

std::string find_planner_program(const std::string& configured) {
  if (configured.find('/') != std::string::npos) {
    if (is_program(configured)) return configured;
    throw Error(ErrorCode::kInvalidArgument, "planner_program is '" + configured +
                                                 "', which is not an executable file; give the "
                                                 "path of swiftbalancer-planner");
  }
  const std::string name = configured.empty() ? kName : configured;
  std::vector<std::string> folders = folders_in_path();
  if (configured.empty())
    folders.insert(folders.begin(), {folder_of_this_program(), SWIFTBALANCER_INSTALLED_PROGRAMS});
  for (const std::string& folder : folders) {
    if (is_program(folder + "/" + name)) return folder + "/" + name;
  }
  throw Error(ErrorCode::kInvalidArgument,
              "planner_program '" + name + "' was found neither " +
                  (configured.empty() ? "beside this program (" + folders[0] + "), nor in " +
                                            folders[1] + ", nor in PATH"
                                      : "in PATH nor is it a path") +
                  "; give its path, or use the worker kind thread");
}

PlannerChild::PlannerChild(const std::string& program, int descriptor,
                           std::size_t max_memory_bytes) {
  FileActions actions;
  Attributes attributes;
  give_descriptors(actions, descriptor);
  give_signals(attributes);
  std::string name = kName;
  std::string parent = std::to_string(::getpid());
  std::string limit = std::to_string(max_memory_bytes);
  char* const arguments[] = {name.data(), parent.data(), limit.data(), nullptr};
  require_done(
      ::posix_spawn(&pid_, program.c_str(), actions.get(), attributes.get(), arguments, environ),
      program);
}

PlannerChild::~PlannerChild() {
  kill();
  if (ended()) return;
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool PlannerChild::ended() noexcept {
  if (ended_) return true;
  const pid_t result = ::waitpid(pid_, &status_, WNOHANG);
  status_is_known_ = result == pid_;
  // Without a child to wait for: somebody else in this process waits for any, or ignores SIGCHLD.
  ended_ = status_is_known_ || (result < 0 && errno == ECHILD);
  return ended_;
}

std::string PlannerChild::how_it_ended() const {
  return status_is_known_ ? describe(status_) : "ended (how was not to be learnt)";
}

void PlannerChild::kill() noexcept {
  // Its number is its own only until it has been waited for.
  if (!ended()) ::kill(pid_, SIGKILL);
}

}  // namespace swiftbalancer
