// asmjit's three debugging functions. Debian's libasmjit.a holds them in its only object that is not position
// independent; defined here, that object stays out of the link. Nothing else belongs in this file.
#include <asmjit/core.h>

#include <cstdio>
#include <cstdlib>

ASMJIT_BEGIN_NAMESPACE
namespace DebugUtils {

const char* errorAsString(Error error) noexcept {
  thread_local char text[32];
  std::snprintf(text, sizeof text, "asmjit error %u", static_cast<unsigned>(error));
  return text;
}

void debugOutput(const char* text) noexcept { std::fputs(text, stderr); }

// Only asmjit's own debug builds call this, when asmjit contradicts itself.
void assertionFailed(const char* file, int line, const char* message) noexcept {
  std::fprintf(stderr, "asmjit: %s:%d: %s\n", file, line, message);
  std::abort();
}

}  // namespace DebugUtils
ASMJIT_END_NAMESPACE
