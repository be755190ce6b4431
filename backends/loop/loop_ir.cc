// The tables of the loop IR and questions about whole kernels.
#include "backends/loop/loop_ir.h"

#include <algorithm>

namespace framejit::loop {
namespace {

struct DTypeRow {
  const char* name;
  int64_t bytes;
  DTypeClass klass;
};

constexpr DTypeRow kDTypes[] = {
#define FRAMEJIT_LOOP_DTYPE(name, text, bytes, klass) {text, bytes, DTypeClass::k##klass},
#include "backends/loop/dtypes.def"
#undef FRAMEJIT_LOOP_DTYPE
};

struct OpRow {
  const char* name;
  int operands;
};

constexpr OpRow kOps[] = {
#define FRAMEJIT_LOOP_OP(name, text, operands, classes, result) {text, operands},
#include "backends/loop/ops.def"
#undef FRAMEJIT_LOOP_OP
};

}  // namespace

const char* DTypeName(DType dtype) { return kDTypes[static_cast<int>(dtype)].name; }
int64_t DTypeBytes(DType dtype) { return kDTypes[static_cast<int>(dtype)].bytes; }
DTypeClass ClassOf(DType dtype) { return kDTypes[static_cast<int>(dtype)].klass; }
const char* OpName(Op op) { return kOps[static_cast<int>(op)].name; }
int OperandCount(Op op) { return kOps[static_cast<int>(op)].operands; }

int64_t Kernel::row_count() const {
  int64_t rows = 1;
  for (size_t d = 0; d + 1 < dims.size(); ++d) rows *= dims[d].size;
  return rows;
}

std::vector<int64_t> BufferElements(const Kernel& kernel) {
  std::vector<int64_t> elements(kernel.buffers.size(), 0);
  for (const Access& access : kernel.accesses) {
    int64_t last = access.offset;
    for (size_t d = 0; d < kernel.dims.size(); ++d) {
      last += std::max<int64_t>(0, access.strides[d] * (kernel.dims[d].size - 1));
    }
    int64_t& spanned = elements[static_cast<size_t>(access.buffer)];
    spanned = std::max(spanned, last + 1);
  }
  return elements;
}

bool Kernel::has_reductions() const {
  for (const Node& node : nodes) {
    if (IsReduction(node.op)) return true;
  }
  return false;
}

}  // namespace framejit::loop
