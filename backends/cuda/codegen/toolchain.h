// From CUDA C++ to machine code with what the process has: its NVRTC and its cache on disk.
#ifndef FRAMEJIT_BACKENDS_CUDA_CODEGEN_TOOLCHAIN_H_
#define FRAMEJIT_BACKENDS_CUDA_CODEGEN_TOOLCHAIN_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backends/cuda/codegen/nvrtc.h"

namespace framejit::cuda {

struct ToolchainOptions {
  std::vector<std::string> nvrtc_libraries;  // names or paths for dlopen, tried in order
  std::string cache_folder;                  // empty: compiled kernels are not kept
};

// Takes effect if nothing was compiled yet. Thread-safe, like everything here.
void SetToolchainOptions(ToolchainOptions options);

// Ok where kernels can be compiled for the architecture; else why not.
absl::Status CheckToolchain(Architecture architecture);

// Machine code from the cache or from NVRTC; see Nvrtc::Compile for errors. Logs nothing: callable from any thread
// while another one holds the GIL and waits.
absl::StatusOr<std::string> CompileSource(const std::string& source, Architecture architecture);

// Why the cache could not be written to, once; Ok otherwise.
absl::Status TakeCacheFailure();

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_CODEGEN_TOOLCHAIN_H_
