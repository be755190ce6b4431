// See open.h.
#include "backends/loop/open.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace framejit::loop {
namespace {

template <typename KernelType, typename Visit>
void ForEachNumber(KernelType& kernel, Visit visit) {
  for (auto& dim : kernel.dims) visit(dim.size);
  for (auto& access : kernel.accesses) {
    visit(access.offset);
    for (auto& stride : access.strides) visit(stride);
  }
}

}  // namespace

int64_t ParameterCount(const Kernel& kernel) {
  int64_t count = 0;
  ForEachNumber(kernel, [&](int64_t number) { count += IsOpen(number) ? 1 : 0; });
  return count;
}

OpenedKernel Open(const Kernel& kernel, const OpenPlaces& places) {
  OpenedKernel out{kernel, {}};
  const auto open = [&](int64_t& number, bool is_open) {
    if (!is_open) return;
    out.values.push_back(number);
    number = OpenNumber(static_cast<int64_t>(out.values.size()) - 1);
  };
  for (size_t d = 0; d < kernel.dims.size(); ++d) open(out.kernel.dims[d].size, places.dims[d].size);
  for (Access& access : out.kernel.accesses) {
    open(access.offset, places.offsets && access.offset != 0);
    for (size_t d = 0; d < kernel.dims.size(); ++d) {
      open(access.strides[d], places.dims[d].strides && access.strides[d] != 0);
    }
  }
  return out;
}

absl::StatusOr<Kernel> Close(const Kernel& open, absl::Span<const int64_t> values) {
  Kernel kernel = open;
  size_t count = 0;
  ForEachNumber(kernel, [&](int64_t& number) {
    if (!IsOpen(number)) return;
    const auto parameter = static_cast<size_t>(ParameterOf(number));
    if (parameter < values.size()) number = values[parameter];
    ++count;
  });
  if (count != values.size()) {
    return absl::InvalidArgumentError(absl::StrCat("loop IR: ", count, " parameters, ", values.size(), " values"));
  }
  if (absl::Status status = Verify(kernel); !status.ok()) return status;
  return kernel;
}

}  // namespace framejit::loop
