// See toolchain.h.
#include "backends/cuda/codegen/toolchain.h"

#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/cuda/codegen/cubin_cache.h"

namespace framejit::cuda {
namespace {

struct Toolchain {
  explicit Toolchain(const ToolchainOptions& options)
      : nvrtc(Nvrtc::Open(options.nvrtc_libraries)), cache(options.cache_folder) {}

  const absl::StatusOr<std::unique_ptr<const Nvrtc>> nvrtc;
  const CubinCache cache;
  std::mutex mutex;
  absl::Status cache_failure;  // not yet taken
  bool cache_failed = false;
};

std::mutex options_mutex;

ToolchainOptions& TheOptions() {
  static auto* options = new ToolchainOptions;
  return *options;
}

// Made when it is first asked for: loading NVRTC takes a while.
Toolchain& TheToolchain() {
  static auto* toolchain = [] {
    std::lock_guard<std::mutex> lock(options_mutex);
    return new Toolchain(TheOptions());
  }();
  return *toolchain;
}

}  // namespace

void SetToolchainOptions(ToolchainOptions options) {
  std::lock_guard<std::mutex> lock(options_mutex);
  TheOptions() = std::move(options);
}

absl::Status CheckToolchain(Architecture architecture) {
  Toolchain& toolchain = TheToolchain();
  return toolchain.nvrtc.ok() ? (*toolchain.nvrtc)->CheckArchitecture(architecture) : toolchain.nvrtc.status();
}

absl::StatusOr<std::string> CompileSource(const std::string& source, Architecture architecture) {
  Toolchain& toolchain = TheToolchain();
  if (!toolchain.nvrtc.ok()) return toolchain.nvrtc.status();
  const Nvrtc& nvrtc = **toolchain.nvrtc;
  const std::string key = absl::StrCat(nvrtc.Identity(), " ", architecture.name(), "\n", source);
  if (std::optional<std::string> known = toolchain.cache.Get(key)) return *std::move(known);
  absl::StatusOr<std::string> cubin = nvrtc.Compile(source, architecture);
  if (!cubin.ok()) return cubin;
  const absl::Status kept = toolchain.cache.Put(key, *cubin);
  if (!kept.ok()) {
    std::lock_guard<std::mutex> lock(toolchain.mutex);
    if (!std::exchange(toolchain.cache_failed, true)) toolchain.cache_failure = kept;
  }
  return cubin;
}

absl::Status TakeCacheFailure() {
  Toolchain& toolchain = TheToolchain();
  std::lock_guard<std::mutex> lock(toolchain.mutex);
  return std::exchange(toolchain.cache_failure, absl::OkStatus());
}

}  // namespace framejit::cuda
