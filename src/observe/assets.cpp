#include "observe/assets.hpp"

// The assembler reads the files: megabytes of text as a C++ array would cost the compiler seconds.
#define SWIFTBALANCER_EMBED(symbol, file)                                                    \
  asm(".pushsection .rodata\n.global " #symbol "_begin\n" #symbol "_begin:\n.incbin \"" file \
      "\"\n.global " #symbol "_end\n" #symbol "_end:\n.byte 0\n.popsection\n");              \
  extern "C" const char symbol##_begin[];                                                    \
  extern "C" const char symbol##_end[]

SWIFTBALANCER_EMBED(swiftbalancer_page_css, SWIFTBALANCER_PAGE_CSS);
SWIFTBALANCER_EMBED(swiftbalancer_page_js, SWIFTBALANCER_PAGE_JS);
SWIFTBALANCER_EMBED(swiftbalancer_vega_bundle, SWIFTBALANCER_VEGA_BUNDLE);

namespace swiftbalancer::observe {
namespace {

std::string_view between(const char* begin, const char* end) {
  return {begin, static_cast<std::size_t>(end - begin)};
}

}  // namespace

std::string_view page_css() {
  return between(swiftbalancer_page_css_begin, swiftbalancer_page_css_end);
}
std::string_view page_js() {
  return between(swiftbalancer_page_js_begin, swiftbalancer_page_js_end);
}
std::string_view vega_bundle() {
  return between(swiftbalancer_vega_bundle_begin, swiftbalancer_vega_bundle_end);
}

}  // namespace swiftbalancer::observe
