// NVRTC, loaded at run time: CUDA C++ text to machine code of one architecture. Nothing of the CUDA toolkit is needed
// to build this.
#ifndef FRAMEJIT_BACKENDS_CUDA_CODEGEN_NVRTC_H_
#define FRAMEJIT_BACKENDS_CUDA_CODEGEN_NVRTC_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace framejit::cuda {

// A compute capability: 90 is sm_90.
struct Architecture {
  int number = 0;
  std::string name() const { return "sm_" + std::to_string(number); }
};

// Thread-safe; compilations run side by side.
class Nvrtc {
 public:
  // The first of `libraries` that loads and has what is needed. Unavailable says why each did not.
  static absl::StatusOr<std::unique_ptr<const Nvrtc>> Open(const std::vector<std::string>& libraries);

  // Unimplemented: this NVRTC does not know the architecture.
  absl::Status CheckArchitecture(Architecture architecture) const;

  // Machine code (a cubin). InvalidArgument carries the compiler's log and the numbered source; other errors
  // are CheckArchitecture's and the library's own.
  absl::StatusOr<std::string> Compile(const std::string& source, Architecture architecture) const;

  // "nvrtc 13.0" and the options: what besides source and architecture decides the code.
  std::string Identity() const;

 private:
  struct Functions;
  explicit Nvrtc(std::shared_ptr<const Functions> functions) : functions_(std::move(functions)) {}

  std::shared_ptr<const Functions> functions_;
  std::vector<int> architectures_;
  std::vector<std::string> options_;  // but the architecture
  int major_ = 0, minor_ = 0;
};

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_CODEGEN_NVRTC_H_
