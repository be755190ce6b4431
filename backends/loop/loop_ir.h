// The loop IR shared by the code generators: one kernel = one perfectly nested loop over dimensions, with affine loads,
// scalar SSA, reductions over the last dimension, and stores. Data structures only; build kernels with builder.h.
//
// Meaning. All dimensions but the last are the *rows* (they run in any order, in parallel); the last is the *inner*
// dimension. Values that depend on the inner position are *element* values, others *row* values. A reduction turns an
// element value into a row value, which later nodes may use for the same row as often as they like (softmax, layer
// norm): the order of passes over a row, and what is kept or recomputed between them, is the schedule's business
// (schedule.h), not the IR's. Within a row everything a load reads is as before the kernel, except that a store to a
// buffer is visible to nobody: a buffer is either read or written by a kernel, and memory of two buffers may overlap
// only when at least one is written by a kernel without reductions and both use the same element at the same position.
#ifndef FRAMEJIT_BACKENDS_LOOP_LOOP_IR_H_
#define FRAMEJIT_BACKENDS_LOOP_LOOP_IR_H_

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace framejit::loop {

enum class DType : uint8_t {
#define FRAMEJIT_LOOP_DTYPE(name, text, bytes, klass) k##name,
#include "backends/loop/dtypes.def"
#undef FRAMEJIT_LOOP_DTYPE
};

enum class DTypeClass : uint8_t { kBool, kInt, kFloat, kNarrowInt, kNarrowFloat };

enum class Op : uint8_t {
#define FRAMEJIT_LOOP_OP(name, text, operands, classes, result) k##name,
#include "backends/loop/ops.def"
#undef FRAMEJIT_LOOP_OP
};

const char* DTypeName(DType dtype);
int64_t DTypeBytes(DType dtype);
DTypeClass ClassOf(DType dtype);
inline bool IsFloat(DType dtype) { return ClassOf(dtype) == DTypeClass::kFloat; }
// Scalar operators other than casts, loads and stores accept these only: bool, i32, i64, f32, f64.
inline bool IsComputeType(DType dtype) {
  return ClassOf(dtype) != DTypeClass::kNarrowInt && ClassOf(dtype) != DTypeClass::kNarrowFloat;
}
const char* OpName(Op op);
int OperandCount(Op op);
inline bool IsReduction(Op op) { return op >= Op::kReduceSum && op <= Op::kReduceMin; }
inline bool IsComparison(Op op) { return op >= Op::kEq && op <= Op::kGe; }

// Index of a node in Kernel::nodes.
using ValueId = int32_t;
inline constexpr ValueId kNoValue = -1;

// An open number: a size, stride or offset that each call gives, as a parameter of the kernel, where others are part of
// its text. Parameters are numbered as they stand: the dimensions' first, then access by access, the offset before the
// strides. An open stride lets a load or store stay what it is: no row value, no element value becomes the other by
// what it is worth. open.h opens and closes kernels; what is not said to take open kernels takes closed ones.
inline constexpr int64_t kFirstOpen = std::numeric_limits<int64_t>::min();
inline constexpr int64_t kMaxParameters = 4096;
constexpr int64_t OpenNumber(int64_t parameter) { return kFirstOpen + parameter; }
constexpr bool IsOpen(int64_t number) { return number < kFirstOpen + kMaxParameters; }
constexpr int64_t ParameterOf(int64_t open) { return open - kFirstOpen; }

// A dimension of the iteration domain.
struct Dim {
  int64_t size = 1;
};

// A parameter of the kernel: a pointer to elements of `dtype`. Any alignment is accepted.
struct Buffer {
  DType dtype = DType::kFloat32;
  bool written = false;
};

// Element offset + sum of strides[d] * index[d], in elements. One stride per dimension; 0 broadcasts. Strides of loads
// may be negative. A load with inner stride 0 is a row value. A store with inner stride 0 needs a row value.
struct Access {
  int32_t buffer = 0;
  int64_t offset = 0;
  std::vector<int64_t> strides;
  bool operator==(const Access&) const = default;
};

struct Node {
  Op op = Op::kConst;
  DType dtype = DType::kFloat32;  // of the result; of a store, the buffer's
  std::array<ValueId, 3> operands = {kNoValue, kNoValue, kNoValue};
  int64_t attr = 0;        // Index: dimension; Load, Store: index into Kernel::accesses
  int64_t int_value = 0;   // Const of a bool or integer type
  double float_value = 0;  // Const of a floating type
};

struct Kernel {
  std::vector<Dim> dims;  // at least one; the last is the inner dimension
  std::vector<Buffer> buffers;
  std::vector<Access> accesses;
  std::vector<Node> nodes;  // in SSA order; operands precede their users

  int64_t inner_size() const { return dims.back().size; }
  int64_t row_count() const;
  bool has_reductions() const;
};

// Types, ranks, operand order, accesses; what every consumer relies on. The message carries the kernel's text.
absl::Status Verify(const Kernel& kernel);

// By buffer: the elements that the kernel's accesses span, from the buffer's start on.
std::vector<int64_t> BufferElements(const Kernel& kernel);

// The text form; Parse(Print(k)) gives k again. The text is also a kernel's identity (cache key). Open numbers are p0,
// p1, ...:
//   kernel [4, 128] {
//     b0: f32
//     b1: f32 out
//     v0: f32 = load b0[0; 128, 1]     # offset; one stride per dimension
//     v1: f32 = reduce_max v0
//     v2: f32 = sub v0, v1
//     store b1[0; 128, 1] v2           # takes number 3
//   }
std::string NumberText(int64_t number);  // of a size, stride or offset
std::string Print(const Kernel& kernel);
std::string PrintNode(const Kernel& kernel, ValueId id);  // one line of it
absl::StatusOr<Kernel> Parse(std::string_view text);

}  // namespace framejit::loop

#endif  // FRAMEJIT_BACKENDS_LOOP_LOOP_IR_H_
