// The tables of the loop IR and questions about whole kernels.
#include "backends/loop/loop_ir.h"

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

bool Kernel::has_reductions() const {
  for (const Node& node : nodes) {
    if (IsReduction(node.op)) return true;
  }
  return false;
}

}  // namespace framejit::loop
