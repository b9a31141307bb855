#include "io/checkpoint.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <swiftbalancer/error.hpp>
#include <utility>

#include "io/file_error.hpp"
#include "io/json_depth.hpp"

namespace swiftbalancer::io {
namespace {

using Json = nlohmann::json;
using Tensors = std::map<std::string, Tensor, std::less<>>;

constexpr std::uint64_t kLengthBytes = 8;
// The format's own limit; it keeps a corrupt length from being parsed as gigabytes of JSON.
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

/// A name from a file as it may stand in a message: quoted, control characters escaped, one line.
std::string escaped(std::string_view name) {
  return Json(name).dump(-1, ' ', false, Json::error_handler_t::replace);
}

class Mapping {
 public:
  explicit Mapping(const std::string& file) {
    // Not blocking: a pipe of that name must end in the message below, not in waiting for a writer.
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) fail(file, std::string("cannot be opened: ") + std::strerror(errno));
    struct stat status{};
    const bool known = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    if (known && status.st_size > 0) {
      size_ = static_cast<std::size_t>(status.st_size);
      address_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    }
    const int map_error = errno;
    ::close(descriptor);
    if (!known) fail(file, "is not a regular file");
    if (address_ == MAP_FAILED)
      fail(file, std::string("cannot be mapped: ") + std::strerror(map_error));
  }
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&&) = delete;
  ~Mapping() {
    if (size_ > 0) ::munmap(address_, size_);
  }

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(address_), size_};
  }

 private:
  void* address_ = nullptr;
  std::size_t size_ = 0;
};

struct DTypeRow {
  std::string_view name;
  DType dtype;
  std::uint64_t bytes;
};

constexpr DTypeRow kDTypes[] = {
    {"F32", DType::kF32, 4},       {"BF16", DType::kBF16, 2},     {"I32", DType::kI32, 4},
    {"I64", DType::kI64, 8},       {"F16", DType::kOther, 2},     {"F64", DType::kOther, 8},
    {"BOOL", DType::kOther, 1},    {"U8", DType::kOther, 1},      {"I8", DType::kOther, 1},
    {"F8_E4M3", DType::kOther, 1}, {"F8_E5M2", DType::kOther, 1}, {"I16", DType::kOther, 2},
    {"U16", DType::kOther, 2},     {"U32", DType::kOther, 4},     {"U64", DType::kOther, 8},
};

/// The JSON header; two equal keys in one object are an error, which a plain parse would hide.
Json parse_header(const std::string& file, std::span<const std::byte> text) {
  std::vector<std::set<std::string>> keys;
  const auto refuse_duplicates = [&](int depth, Json::parse_event_t event, Json& parsed) {
    const auto level = static_cast<std::size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      keys.resize(std::max(keys.size(), level + 2));
      keys[level + 1].clear();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys[level].insert(key).second) {
        fail(file, "the header names " + escaped(key) + " twice; the file is damaged");
      }
    }
    return true;
  };
  const auto* begin = reinterpret_cast<const char*>(text.data());
  if (is_too_deep({begin, text.size()})) {
    fail(file,
         "the header is nested deeper than " + std::to_string(kMaxJsonDepth) + " lists or objects");
  }
  try {
    Json header = Json::parse(begin, begin + text.size(), refuse_duplicates);
    if (!header.is_object()) fail(file, "the header is not a JSON object");
    return header;
  } catch (const Json::exception& error) {
    fail(file, std::string("the header is not JSON (") + error.what() + ")");
  }
}

const Json& field(const std::string& file, const std::string& name, const Json& entry,
                  const char* key) {
  const auto found = entry.is_object() ? entry.find(key) : entry.end();
  if (found == entry.end()) fail(file, "tensor " + escaped(name) + " has no \"" + key + "\"");
  return *found;
}

std::vector<std::uint64_t> numbers(const std::string& file, const std::string& name,
                                   const Json& entry, const char* key) {
  const Json& list = field(file, name, entry, key);
  std::vector<std::uint64_t> result;
  bool good = list.is_array();
  for (std::size_t i = 0; good && i < list.size(); ++i) {
    good = list[i].is_number_unsigned() &&
           list[i].get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()};
    if (good) result.push_back(list[i].get<std::uint64_t>());
  }
  if (!good) {
    fail(file, "tensor " + escaped(name) + ": " + key + " is " + list.dump() +
                   "; a list of integers from 0 to 2^63-1 is needed");
  }
  return result;
}

struct Extent {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::string name;
};

Tensor read_entry(const std::string& file, const std::string& name, const Json& entry,
                  std::span<const std::byte> data, Extent& extent) {
  Tensor tensor;
  tensor.file = file;
  const Json& dtype = field(file, name, entry, "dtype");
  const auto row =
      std::find_if(std::begin(kDTypes), std::end(kDTypes), [&](const DTypeRow& candidate) {
        return dtype.is_string() && candidate.name == dtype.get_ref<const std::string&>();
      });
  if (row == std::end(kDTypes))
    fail(file, "tensor " + escaped(name) + ": unknown dtype " + dtype.dump());
  tensor.dtype = row->dtype;
  tensor.dtype_name = row->name;

  std::uint64_t needed = row->bytes;
  for (const std::uint64_t size : numbers(file, name, entry, "shape")) {
    tensor.shape.push_back(static_cast<std::int64_t>(size));
    if (__builtin_mul_overflow(needed, size, &needed)) {
      fail(file, "tensor " + escaped(name) + ": shape " + entry["shape"].dump() +
                     " is too large to address");
    }
  }
  const auto offsets = numbers(file, name, entry, "data_offsets");
  const std::string shown =
      "tensor " + escaped(name) + ": data_offsets " + entry["data_offsets"].dump();
  if (offsets.size() != 2) fail(file, shown + "; two numbers are needed, begin and end");
  if (offsets[0] > offsets[1]) fail(file, shown + " are reversed");
  if (offsets[1] > data.size()) {
    fail(file, shown + " reach past the " + std::to_string(data.size()) +
                   " bytes of data; the file is truncated or damaged");
  }
  if (offsets[1] - offsets[0] != needed) {
    fail(file, shown + " span " + std::to_string(offsets[1] - offsets[0]) + " bytes, but shape " +
                   entry["shape"].dump() + " of " + tensor.dtype_name + " needs " +
                   std::to_string(needed));
  }
  tensor.bytes = data.subspan(offsets[0], needed);
  extent = {offsets[0], offsets[1], name};
  return tensor;
}

/// The format has the tensors cover the data exactly: no byte twice, none left out.
void check_cover(const std::string& file, std::vector<Extent>& extents, std::uint64_t data_bytes) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::uint64_t covered = 0;
  const Extent* previous = nullptr;
  for (const Extent& extent : extents) {
    if (extent.begin < covered) {
      fail(file, "tensors " + escaped(previous->name) + " and " + escaped(extent.name) +
                     " overlap at byte " + std::to_string(extent.begin) + " of the data");
    }
    if (extent.begin > covered) {
      fail(file, "bytes " + std::to_string(covered) + " to " + std::to_string(extent.begin) +
                     " of the data, before tensor " + escaped(extent.name) +
                     ", belong to no tensor");
    }
    covered = extent.end;
    previous = &extent;
  }
  if (covered != data_bytes) {
    fail(file,
         std::to_string(data_bytes - covered) + " bytes after the last tensor belong to no tensor");
  }
}

void read_file(const std::string& file, std::span<const std::byte> bytes, Tensors& tensors) {
  if (bytes.size() < kLengthBytes) {
    fail(file, "has " + std::to_string(bytes.size()) + " bytes; a safetensors file has at least 8");
  }
  std::uint64_t header_bytes = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) {
    header_bytes = header_bytes << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    fail(file, "the header claims " + std::to_string(header_bytes) + " bytes, the file has " +
                   std::to_string(bytes.size()) + "; it is truncated or no safetensors file");
  }
  if (header_bytes > kMaxHeaderBytes) {
    fail(file, "the header claims " + std::to_string(header_bytes) + " bytes; at most " +
                   std::to_string(kMaxHeaderBytes) + " are allowed");
  }
  const Json header = parse_header(file, bytes.subspan(kLengthBytes, header_bytes));
  const auto data = bytes.subspan(kLengthBytes + header_bytes);
  std::vector<Extent> extents;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    Extent extent;
    Tensor tensor = read_entry(file, name, entry, data, extent);
    const auto [position, inserted] = tensors.emplace(name, std::move(tensor));
    if (!inserted)
      fail(file, "tensor " + escaped(name) + " is already in " + position->second.file);
    extents.push_back(std::move(extent));
  }
  check_cover(file, extents, data.size());
}

std::string read_text(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream || text.bad()) fail(file, "cannot be read");
  return text.str();
}

std::vector<std::string> safetensors_in(const std::filesystem::path& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

struct Checkpoint::Impl {
  std::string path;
  std::string config_json;
  std::vector<Mapping> mappings;
  Tensors tensors;
};

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const std::string& path) {
  namespace fs = std::filesystem;
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  std::vector<std::string> files;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    const std::string config = (fs::path(path) / "config.json").string();
    if (!fs::is_regular_file(config, error)) {
      fail(path, "has no config.json; a Hugging Face checkpoint folder is needed");
    }
    impl->config_json = read_text(config);
    try {
      files = safetensors_in(path);
    } catch (const fs::filesystem_error& cause) {
      fail(path, "cannot be listed: " + cause.code().message());
    }
    if (files.empty()) fail(path, "has no .safetensors file; other weight formats are not read");
  } else if (!fs::exists(path, error)) {
    fail(path, "does not exist; a checkpoint folder or a .safetensors file is needed");
  } else if (fs::path(path).extension() != ".safetensors") {
    fail(path, "is neither a checkpoint folder nor a .safetensors file");
  } else {
    files.push_back(path);
  }
  for (const std::string& file : files) {
    impl->mappings.emplace_back(file);
    read_file(file, impl->mappings.back().bytes(), impl->tensors);
  }
  return Checkpoint(std::move(impl));
}

const std::string& Checkpoint::path() const noexcept { return impl_->path; }
const std::string& Checkpoint::config_json() const noexcept { return impl_->config_json; }
const std::map<std::string, Tensor, std::less<>>& Checkpoint::tensors() const noexcept {
  return impl_->tensors;
}

const Tensor& Checkpoint::tensor(std::string_view name) const {
  const auto found = impl_->tensors.find(name);
  if (found == impl_->tensors.end()) {
    fail(impl_->path, "tensor " + escaped(name) + " is missing among the " +
                          std::to_string(impl_->tensors.size()) + " of the checkpoint");
  }
  return found->second;
}

}  // namespace swiftbalancer::io
