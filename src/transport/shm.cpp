// Transport between processes of one user: the group's memory is a POSIX shared-memory object.

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <swiftbalancer/transport.hpp>

#include "transport/process_identity.hpp"
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

ring::Mapping map(const File& file, std::size_t bytes, const std::string& name) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (memory == MAP_FAILED) fail(name, "cannot map " + std::to_string(bytes) + " bytes", errno);
  return {memory, bytes};
}

/// Creates the object and gives it its memory. Removes the name again when that fails.
std::unique_ptr<ring::Region> create(const std::string& name, const std::string& path,
                                     int num_ranks, const RingOptions& options) {
  const std::size_t bytes = ring::Region::bytes_for(num_ranks, options);
  const File file(::shm_open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                             S_IRUSR | S_IWUSR));
  if (file.get() < 0 && errno == EEXIST)
    fail(name, "cannot create, use another name or remove /dev/shm/" + name, errno);
  if (file.get() < 0) fail(name, "cannot create", errno);
  try {
    if (::fchmod(file.get(), S_IRUSR | S_IWUSR) != 0) fail(name, "cannot set permissions", errno);
    // Before anything that takes time: were this process killed now, the group would be nobody's.
    const ring::RegionHeader header = ring::Region::unfinished_header();
    if (::pwrite(file.get(), &header, sizeof header, 0) != sizeof header)
      fail(name, "cannot write", errno);
    // Takes the memory now: with a full /dev/shm a later write would kill the process.
    const int error = ring::take_memory(file.get(), bytes);
    if (error != 0)
      fail(name, "cannot get " + std::to_string(bytes) + " bytes, use fewer ranks or smaller rings",
           error);
    return std::make_unique<ring::Region>(map(file, bytes, name), num_ranks, options);
  } catch (...) {
    ::shm_unlink(path.c_str());
    throw;
  }
}

/// "swiftbalancer.<pid>.<rest>"
bool is_named_like_ours(std::string_view name) {
  if (!name.starts_with(kPrefix)) return false;
  name.remove_prefix(kPrefix.size());
  const std::size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  return digits > 0 && digits + 1 < name.size() && name[digits] == '.';
}

/// Who made a group of this user; nothing if the file is not one or does not say.
std::optional<ring::ProcessIdentity> creator_of(const std::string& path) {
  const File file(::shm_open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0));
  struct stat info{};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) return std::nullopt;
  if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid()) return std::nullopt;
  std::byte first_bytes[sizeof(ring::RegionHeader)];
  const ssize_t bytes = ::pread(file.get(), first_bytes, sizeof first_bytes, 0);
  if (bytes <= 0) return std::nullopt;
  return ring::Region::creator_in({first_bytes, static_cast<std::size_t>(bytes)});
}

}  // namespace

ShmGroup::ShmGroup(std::string name, int num_ranks, const RingOptions& options)
    : name_(std::move(name)), path_("/" + name_) {
  check_name(name_);
  region_ = create(name_, path_, num_ranks, options);
  creator_ = ::getpid();
  linked_ = true;
}

ShmGroup::~ShmGroup() { unlink(); }

void ShmGroup::unlink() noexcept {
  // A forked rank has a copy of this object, but the name is its creator's.
  if (linked_ && creator_ == ::getpid()) ::shm_unlink(path_.c_str());
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
  auto region =
      std::make_shared<ring::Region>(map(file, bytes, name), "transport: shared memory " + name);
  return std::make_unique<ring::RingTransport>(std::move(region), rank, name, true);
}

std::vector<std::string> remove_stale_shm_groups() {
  std::vector<std::string> removed;
  const ring::ProcessIdentity own = ring::own_process();
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder, error)) {
    const std::string name = entry.path().filename().string();
    if (!is_named_like_ours(name)) continue;
    const std::string path = "/" + name;
    const std::optional<ring::ProcessIdentity> creator = creator_of(path);
    if (!creator || ring::ProcessWatch().look(*creator, own) != ring::Life::kEnded) continue;
    removed.push_back(name);  // before the deed: it may fail
    if (::shm_unlink(path.c_str()) != 0) removed.pop_back();
  }
  return removed;
}

}  // namespace swiftbalancer
