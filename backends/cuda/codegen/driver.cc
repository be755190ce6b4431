// See driver.h. The declarations of cuda.h that are used, under their exported names, and dlopen.
#include "backends/cuda/codegen/driver.h"

#include <dlfcn.h>

#include <mutex>
#include <type_traits>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace framejit::cuda {

using Result = int;  // CUresult; 0: success

class DriverApi {
 public:
  // CUdevice is an int; contexts, modules, functions and streams are pointers.
  Result (*cuInit)(unsigned) = nullptr;
  Result (*cuGetErrorString)(Result, const char**) = nullptr;
  Result (*cuDeviceGet)(int*, int) = nullptr;
  Result (*cuDeviceGetAttribute)(int*, int, int) = nullptr;
  Result (*cuDevicePrimaryCtxRetain)(void**, int) = nullptr;
  Result (*cuCtxGetCurrent)(void**) = nullptr;
  Result (*cuCtxSetCurrent)(void*) = nullptr;
  Result (*cuModuleLoadData)(void**, const void*) = nullptr;
  Result (*cuModuleGetFunction)(void**, void*, const char*) = nullptr;
  Result (*cuFuncGetAttribute)(int*, int, void*) = nullptr;
  Result (*cuLaunchKernel)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                           void**) = nullptr;
  Result (*cuStreamIsCapturing)(void*, int*) = nullptr;
  Result (*cuMemcpyDtoDAsync_v2)(uint64_t, uint64_t, size_t, void*) = nullptr;
  Result (*cuMemsetD8Async)(uint64_t, unsigned char, size_t, void*) = nullptr;

  static absl::StatusOr<const DriverApi*> Open() {
    static const auto* api = new absl::StatusOr<const DriverApi*>(Load());
    return *api;
  }

  absl::Status Check(Result result, const char* what) const {
    if (result == 0) return absl::OkStatus();
    const char* text = nullptr;
    cuGetErrorString(result, &text);
    return absl::InternalError(absl::StrCat(what, ": ", text != nullptr ? text : absl::StrCat("error ", result)));
  }

  // Makes the context the thread's, which torch's device guard has done already but for other threads' work.
  absl::Status Enter(void* context) const {
    void* current = nullptr;
    absl::Status status = Check(cuCtxGetCurrent(&current), "cuCtxGetCurrent");
    if (status.ok() && current != context) status = Check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    return status;
  }

 private:
  static absl::StatusOr<const DriverApi*> Load() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* error = dlerror();
      return absl::UnavailableError(absl::StrCat("no CUDA driver (", error != nullptr ? error : "libcuda.so.1", ")"));
    }
    auto* api = new DriverApi;
    std::string missing;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      if (function == nullptr) missing = name;
    };
#define FRAMEJIT_FIND(name) find(api->name, #name)
    FRAMEJIT_FIND(cuInit);
    FRAMEJIT_FIND(cuGetErrorString);
    FRAMEJIT_FIND(cuDeviceGet);
    FRAMEJIT_FIND(cuDeviceGetAttribute);
    FRAMEJIT_FIND(cuDevicePrimaryCtxRetain);
    FRAMEJIT_FIND(cuCtxGetCurrent);
    FRAMEJIT_FIND(cuCtxSetCurrent);
    FRAMEJIT_FIND(cuModuleLoadData);
    FRAMEJIT_FIND(cuModuleGetFunction);
    FRAMEJIT_FIND(cuFuncGetAttribute);
    FRAMEJIT_FIND(cuLaunchKernel);
    FRAMEJIT_FIND(cuStreamIsCapturing);
    FRAMEJIT_FIND(cuMemcpyDtoDAsync_v2);
    FRAMEJIT_FIND(cuMemsetD8Async);
#undef FRAMEJIT_FIND
    if (!missing.empty()) return absl::UnavailableError(absl::StrCat("the CUDA driver has no ", missing));
    if (const absl::Status status = api->Check(api->cuInit(0), "cuInit"); !status.ok()) {
      return absl::UnavailableError(absl::StrCat("the CUDA driver does not start: ", std::string(status.message())));
    }
    return api;
  }
};

bool IsCapturing(void* stream) {
  const absl::StatusOr<const DriverApi*> api = DriverApi::Open();
  int status = 0;  // CU_STREAM_CAPTURE_STATUS_NONE
  return !api.ok() || (*api)->cuStreamIsCapturing(stream, &status) != 0 || status != 0;
}

absl::Status CopyOnDevice(void* to, const void* from, size_t bytes, void* stream) {
  const absl::StatusOr<const DriverApi*> api = DriverApi::Open();
  if (!api.ok()) return api.status();
  return (*api)->Check(
      (*api)->cuMemcpyDtoDAsync_v2(reinterpret_cast<uint64_t>(to), reinterpret_cast<uint64_t>(from), bytes, stream),
      "cuMemcpyDtoDAsync");
}

absl::Status ZeroOnDevice(void* data, size_t bytes, void* stream) {
  const absl::StatusOr<const DriverApi*> api = DriverApi::Open();
  if (!api.ok()) return api.status();
  return (*api)->Check((*api)->cuMemsetD8Async(reinterpret_cast<uint64_t>(data), 0, bytes, stream), "cuMemsetD8Async");
}

Resources LoadedKernel::resources() const {
  // CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, _LOCAL_SIZE_BYTES, _NUM_REGS
  constexpr int kShared = 1, kLocal = 3, kRegisters = 4;
  Resources out;
  if (!api_.Enter(context_).ok()) return out;
  api_.cuFuncGetAttribute(&out.shared_bytes, kShared, function_);
  api_.cuFuncGetAttribute(&out.local_bytes, kLocal, function_);
  api_.cuFuncGetAttribute(&out.registers, kRegisters, function_);
  return out;
}

absl::Status LoadedKernel::Launch(int64_t blocks, int threads_x, int threads_y, void* stream, void** arguments) const {
  absl::Status status = api_.Enter(context_);
  if (!status.ok()) return status;
  return api_.Check(
      api_.cuLaunchKernel(function_, static_cast<unsigned>(blocks), 1, 1, static_cast<unsigned>(threads_x),
                          static_cast<unsigned>(threads_y), 1, 0, stream, arguments, nullptr),
      "cuLaunchKernel");
}

absl::StatusOr<const Device*> Device::Open(int index) {
  const absl::StatusOr<const DriverApi*> api = DriverApi::Open();
  if (!api.ok()) return api.status();
  static auto* mutex = new std::mutex;
  static auto* devices = new absl::flat_hash_map<int, const Device*>;
  std::lock_guard<std::mutex> lock(*mutex);
  if (const auto known = devices->find(index); known != devices->end()) return known->second;
  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
  constexpr int kMajor = 75, kMinor = 76;
  const DriverApi& driver = **api;
  int device = 0, major = 0, minor = 0;
  void* context = nullptr;
  absl::Status status = driver.Check(driver.cuDeviceGet(&device, index), "cuDeviceGet");
  if (status.ok()) status = driver.Check(driver.cuDeviceGetAttribute(&major, kMajor, device), "cuDeviceGetAttribute");
  if (status.ok()) status = driver.Check(driver.cuDeviceGetAttribute(&minor, kMinor, device), "cuDeviceGetAttribute");
  if (status.ok()) status = driver.Check(driver.cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
  if (!status.ok()) {
    return absl::UnavailableError(absl::StrCat("cuda:", index, ": ", std::string(status.message())));
  }
  return devices->emplace(index, new Device(driver, context, Architecture{major * 10 + minor})).first->second;
}

absl::StatusOr<std::unique_ptr<const LoadedKernel>> Device::Load(const std::string& cubin,
                                                                 const std::string& entry) const {
  absl::Status status = api_.Enter(context_);
  if (!status.ok()) return status;
  void *module = nullptr, *function = nullptr;
  status = api_.Check(api_.cuModuleLoadData(&module, cubin.data()), "cuModuleLoadData");
  if (!status.ok()) return status;
  status = api_.Check(api_.cuModuleGetFunction(&function, module, entry.c_str()), "cuModuleGetFunction");
  if (!status.ok()) return status;
  return std::make_unique<const LoadedKernel>(api_, context_, function);
}

}  // namespace framejit::cuda
