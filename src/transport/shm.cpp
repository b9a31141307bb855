// Transport between processes of one user: the group's memory is a POSIX shared-memory object.

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <swiftbalancer/transport.hpp>

#include "transport/region.hpp"
#include "transport/ring_transport.hpp"

namespace swiftbalancer {
namespace {

constexpr std::string_view kPrefix = "swiftbalancer.";
constexpr const char* kFolder = "/dev/shm";

class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int get() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

[[noreturn]] void fail(const std::string& name, const std::string& what, int error) {
  throw Error(ErrorCode::kIo,
              "transport: shared memory " + name + ": " + what + ": " + std::strerror(error));
}

void check_name(const std::string& name) {
  const bool plain = !name.empty() && name.size() < NAME_MAX && name.front() != '.' &&
                     name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
  if (plain) return;
  throw Error(ErrorCode::kInvalidArgument,
              "transport: shared memory name '" + name + "' is not allowed: 1 to " +
                  std::to_string(NAME_MAX - 1) + " characters, no slash, no leading dot");
}

void* map(const File& file, std::size_t bytes, const std::string& name) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (memory == MAP_FAILED) fail(name, "cannot map " + std::to_string(bytes) + " bytes", errno);
  return memory;
}

/// Creates the object and gives it its memory. Removes the name again when that fails.
void* create(const std::string& name, std::size_t bytes) {
  const std::string path = "/" + name;
  const File file(::shm_open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                             S_IRUSR | S_IWUSR));
  if (file.get() < 0 && errno == EEXIST)
    fail(name, "cannot create, use another name or remove /dev/shm/" + name, errno);
  if (file.get() < 0) fail(name, "cannot create", errno);
  try {
    if (::fchmod(file.get(), S_IRUSR | S_IWUSR) != 0) fail(name, "cannot set permissions", errno);
    // Takes the memory now: with a full /dev/shm a later write would kill the process.
    const int error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(bytes));
    if (error != 0)
      fail(name, "cannot get " + std::to_string(bytes) + " bytes, use fewer ranks or smaller rings",
           error);
    return map(file, bytes, name);
  } catch (...) {
    ::shm_unlink(path.c_str());
    throw;
  }
}

/// Pid in "swiftbalancer.<pid>.<rest>", or 0.
pid_t creator_of(std::string_view name) {
  if (!name.starts_with(kPrefix)) return 0;
  name.remove_prefix(kPrefix.size());
  pid_t pid = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
  const bool rest_follows =
      error == std::errc() && end + 1 < name.data() + name.size() && *end == '.';
  return rest_follows && pid > 0 ? pid : 0;
}

}  // namespace

ShmGroup::ShmGroup(std::string name, int num_ranks, const RingOptions& options)
    : name_(std::move(name)) {
  check_name(name_);
  const std::size_t bytes = ring::Region::bytes_for(num_ranks, options);
  void* memory = create(name_, bytes);
  creator_ = ::getpid();
  linked_ = true;
  region_ = std::make_unique<ring::Region>(memory, num_ranks, options);
}

ShmGroup::~ShmGroup() { unlink(); }

void ShmGroup::unlink() noexcept {
  // A forked rank has a copy of this object, but the name is its creator's.
  if (linked_ && creator_ == ::getpid()) ::shm_unlink(("/" + name_).c_str());
  linked_ = false;
}

void ShmGroup::mark_lost(int rank) noexcept {
  if (rank >= 0 && rank < region_->num_ranks()) region_->mark_gone(rank, ring::RankState::kLost);
}

std::unique_ptr<Transport> open_shm_transport(const std::string& name, int rank) {
  check_name(name);
  const File file(::shm_open(("/" + name).c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0));
  if (file.get() < 0) fail(name, "cannot open", errno);
  struct stat info{};
  if (::fstat(file.get(), &info) != 0) fail(name, "cannot look at it", errno);
  const bool private_to_us =
      S_ISREG(info.st_mode) && info.st_uid == ::geteuid() && (info.st_mode & 077) == 0;
  if (!private_to_us) {
    throw Error(ErrorCode::kIo, "transport: shared memory " + name +
                                    " is not a file that only this user can access; remove it");
  }
  if (info.st_size <= 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "transport: shared memory " + name + " is empty, so not a transport group");
  }
  const auto bytes = static_cast<std::size_t>(info.st_size);
  auto region = std::make_shared<ring::Region>(map(file, bytes, name), bytes,
                                               "transport: shared memory " + name);
  return std::make_unique<ring::RingTransport>(std::move(region), rank, name, true);
}

std::vector<std::string> remove_stale_shm_groups() {
  std::vector<std::string> removed;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder, error)) {
    const std::string name = entry.path().filename().string();
    const pid_t creator = creator_of(name);
    struct stat info{};
    if (creator == 0 || ::kill(creator, 0) == 0 || errno != ESRCH) continue;
    if (::lstat(entry.path().c_str(), &info) != 0 || !S_ISREG(info.st_mode) ||
        info.st_uid != ::geteuid())
      continue;
    if (::shm_unlink(("/" + name).c_str()) == 0) removed.push_back(name);
  }
  return removed;
}

}  // namespace swiftbalancer
