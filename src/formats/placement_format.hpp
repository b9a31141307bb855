#pragma once
// The formats of placement files, found by name, extension or content. Used by `plan`, `compare`
// and `inspect`. Thread-safe.

#include <span>
#include <string>
#include <string_view>

#include "formats/facts.hpp"
#include "io/placement_file.hpp"

namespace swiftbalancer::formats {

struct PlacementFormat {
  std::string_view name;
  std::string_view extension;  ///< With its dot.
  bool holds_shares;           ///< Otherwise what is written loses them.
  /// Whether the text looks like this format, complete or not.
  bool (*recognises)(const std::string& text);
  /// @throws Error kIo naming file and place.
  io::PlacementFile (*parse)(const std::string& path, const std::string& text,
                             const PlacementFacts& facts);
  /// @throws Error kUnsupported: what the format cannot hold.
  std::string (*format)(const io::PlacementFile& file);
};

/// All formats; where several have an extension, the first is the one meant by it.
std::span<const PlacementFormat> placement_formats();
/// @throws Error kInvalidArgument listing the names that exist.
const PlacementFormat& placement_format(std::string_view name);
/// The format to write a file in. @param name empty: by the file's extension.
/// @throws Error kInvalidArgument: neither says one.
const PlacementFormat& format_of_output(const std::string& path, std::string_view name);

/// Reads a placement in whatever format it has, and holds it against the facts.
/// @param format if not null, receives the format.
/// @throws Error kIo: not readable, of no known format, not valid.
io::PlacementFile read_placement(const std::string& path, const PlacementFacts& facts,
                                 const PlacementFormat** format = nullptr);

}  // namespace swiftbalancer::formats
