#include "backends/cpu/codegen/perf_map.h"

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace framejit::cpu {
namespace {

constexpr int kNamedOperators = 6;

// FNV-1a: the same in every process, so that names can be compared between runs.
uint32_t Hash(std::string_view text) {
  uint32_t hash = 2166136261u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

bool IsWorthNaming(loop::Op op) {
  using loop::Op;
  return op != Op::kConst && op != Op::kIndex && op != Op::kLoad && op != Op::kStore && op != Op::kCast;
}

}  // namespace

std::string KernelName(const loop::Kernel& kernel, const std::string& text) {
  std::string name = "framejit";
  int left = kNamedOperators;
  for (const loop::Node& node : kernel.nodes) {
    if (IsWorthNaming(node.op) && left-- > 0) absl::StrAppend(&name, "_", loop::OpName(node.op));
  }
  return absl::StrCat(name, "_", absl::Hex(Hash(text), absl::kZeroPad8));
}

void AddToPerfMap(const void* code, size_t bytes, const std::string& name) {
  const char* wanted = std::getenv("FRAMEJIT_PERF_MAP");
  if (wanted == nullptr || std::string_view(wanted) != "1") return;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const std::string path = absl::StrCat("/tmp/perf-", getpid(), ".map");
  std::FILE* file = std::fopen(path.c_str(), "a");  // a forked child has a map of its own
  if (file == nullptr) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(code);
  std::fprintf(file, "%lx %zx %s\n", static_cast<unsigned long>(address), bytes, name.c_str());
  std::fclose(file);
}

}  // namespace framejit::cpu
