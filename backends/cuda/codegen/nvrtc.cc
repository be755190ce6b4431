// See nvrtc.h. The declarations of nvrtc.h (CUDA 12 and 13) that are used, and dlopen.
#include "backends/cuda/codegen/nvrtc.h"

#include <dlfcn.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace framejit::cuda {
namespace {

using Result = int;                      // nvrtcResult; 0: success
using Program = void*;                   // nvrtcProgram
constexpr Result kCompilationError = 6;  // NVRTC_ERROR_COMPILATION

// Products and sums stay apart, as the operators they come from: eager rounds between them. Subnormal numbers, division
// and square roots are exact by default. 177: positions that no access of a kernel needs.
constexpr const char* kOptions[] = {"--std=c++17", "--fmad=false", "--diag-suppress=177"};

// Without the declarations of textures and of the runtime's functions, which take time to read (from NVRTC 12.4 on).
constexpr const char* kMinimal = "--minimal";

// Programs are destroyed however a compilation ends.
struct ProgramOwner {
  Program program = nullptr;
  Result (*destroy)(Program*) = nullptr;
  ~ProgramOwner() {
    if (program != nullptr) destroy(&program);
  }
};

std::string Numbered(const std::string& source) {
  std::string out;
  int line = 0;
  for (absl::string_view text : absl::StrSplit(source, '\n')) absl::StrAppend(&out, ++line, ": ", text, "\n");
  return out;
}

}  // namespace

struct Nvrtc::Functions {
  void* library = nullptr;
  const char* (*nvrtcGetErrorString)(Result) = nullptr;
  Result (*nvrtcVersion)(int*, int*) = nullptr;
  Result (*nvrtcGetNumSupportedArchs)(int*) = nullptr;
  Result (*nvrtcGetSupportedArchs)(int*) = nullptr;
  Result (*nvrtcCreateProgram)(Program*, const char*, const char*, int, const char* const*,
                               const char* const*) = nullptr;
  Result (*nvrtcDestroyProgram)(Program*) = nullptr;
  Result (*nvrtcCompileProgram)(Program, int, const char* const*) = nullptr;
  Result (*nvrtcGetCUBINSize)(Program, size_t*) = nullptr;
  Result (*nvrtcGetCUBIN)(Program, char*) = nullptr;
  Result (*nvrtcGetProgramLogSize)(Program, size_t*) = nullptr;
  Result (*nvrtcGetProgramLog)(Program, char*) = nullptr;

  // The name of a function that is missing; empty where all are there.
  std::string Find() {
    std::string missing;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      if (function == nullptr) missing = name;
    };
#define FRAMEJIT_FIND(name) find(name, #name)
    FRAMEJIT_FIND(nvrtcGetErrorString);
    FRAMEJIT_FIND(nvrtcVersion);
    FRAMEJIT_FIND(nvrtcGetNumSupportedArchs);
    FRAMEJIT_FIND(nvrtcGetSupportedArchs);
    FRAMEJIT_FIND(nvrtcCreateProgram);
    FRAMEJIT_FIND(nvrtcDestroyProgram);
    FRAMEJIT_FIND(nvrtcCompileProgram);
    FRAMEJIT_FIND(nvrtcGetCUBINSize);
    FRAMEJIT_FIND(nvrtcGetCUBIN);
    FRAMEJIT_FIND(nvrtcGetProgramLogSize);
    FRAMEJIT_FIND(nvrtcGetProgramLog);
#undef FRAMEJIT_FIND
    return missing;
  }

  absl::Status Check(Result result, const char* what) const {
    if (result == 0) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(what, ": ", nvrtcGetErrorString(result)));
  }

  std::string LogOf(Program program) const {
    size_t size = 0;
    if (nvrtcGetProgramLogSize(program, &size) != 0 || size <= 1) return "";
    std::string log(size, '\0');
    if (nvrtcGetProgramLog(program, log.data()) != 0) return "";
    log.resize(size - 1);  // the terminating zero
    return log;
  }
};

absl::StatusOr<std::unique_ptr<const Nvrtc>> Nvrtc::Open(const std::vector<std::string>& libraries) {
  std::vector<std::string> reasons;
  for (const std::string& name : libraries) {
    auto functions = std::make_shared<Functions>();
    // Never closed: its threads and the compiler's global state do not expect it.
    functions->library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (functions->library == nullptr) {
      const char* error = dlerror();
      reasons.push_back(error != nullptr ? error : name);
      continue;
    }
    if (const std::string missing = functions->Find(); !missing.empty()) {
      reasons.push_back(absl::StrCat(name, " has no ", missing));
      continue;
    }
    auto nvrtc = std::unique_ptr<Nvrtc>(new Nvrtc(functions));
    nvrtc->options_.assign(std::begin(kOptions), std::end(kOptions));
    int count = 0;
    absl::Status status = functions->Check(functions->nvrtcVersion(&nvrtc->major_, &nvrtc->minor_), "nvrtcVersion");
    status.Update(functions->Check(functions->nvrtcGetNumSupportedArchs(&count), "nvrtcGetNumSupportedArchs"));
    nvrtc->architectures_.resize(static_cast<size_t>(count));
    status.Update(
        functions->Check(functions->nvrtcGetSupportedArchs(nvrtc->architectures_.data()), "nvrtcGetSupportedArchs"));
    if (std::pair(nvrtc->major_, nvrtc->minor_) >= std::pair(12, 4)) nvrtc->options_.push_back(kMinimal);
    if (status.ok()) return nvrtc;
    reasons.push_back(absl::StrCat(name, ": ", status.message()));
  }
  return absl::UnavailableError(absl::StrCat("NVRTC was not found (", absl::StrJoin(reasons, "; "), ")"));
}

absl::Status Nvrtc::CheckArchitecture(Architecture architecture) const {
  const auto known = std::find(architectures_.begin(), architectures_.end(), architecture.number);
  if (known != architectures_.end()) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("NVRTC ", major_, ".", minor_, " does not compile for ", architecture.name()));
}

absl::StatusOr<std::string> Nvrtc::Compile(const std::string& source, Architecture architecture) const {
  const Functions& f = *functions_;
  absl::Status status = CheckArchitecture(architecture);
  if (!status.ok()) return status;
  ProgramOwner owner{nullptr, f.nvrtcDestroyProgram};
  status = f.Check(f.nvrtcCreateProgram(&owner.program, source.c_str(), "kernel.cu", 0, nullptr, nullptr),
                   "nvrtcCreateProgram");
  if (!status.ok()) return status;
  const std::string target = absl::StrCat("--gpu-architecture=", architecture.name());
  std::vector<const char*> options = {target.c_str()};
  for (const std::string& option : options_) options.push_back(option.c_str());
  const Result compiled = f.nvrtcCompileProgram(owner.program, static_cast<int>(options.size()), options.data());
  if (compiled == kCompilationError) {
    return absl::InvalidArgumentError(
        absl::StrCat("NVRTC refuses a kernel:\n", f.LogOf(owner.program), "\n", Numbered(source)));
  }
  status = f.Check(compiled, "nvrtcCompileProgram");
  size_t size = 0;
  if (status.ok()) status = f.Check(f.nvrtcGetCUBINSize(owner.program, &size), "nvrtcGetCUBINSize");
  if (!status.ok()) return status;
  std::string cubin(size, '\0');
  status = f.Check(f.nvrtcGetCUBIN(owner.program, cubin.data()), "nvrtcGetCUBIN");
  if (!status.ok()) return status;
  return cubin;
}

std::string Nvrtc::Identity() const {
  return absl::StrCat("nvrtc ", major_, ".", minor_, " ", absl::StrJoin(options_, " "));
}

}  // namespace framejit::cuda
