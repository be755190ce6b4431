// Builds kernels: nodes are hash-consed, constants folded, powers by small constants expanded as torch expands them.
// Mistakes of the caller (types, operand order) are collected and reported by Finish.
#ifndef FRAMEJIT_BACKENDS_LOOP_BUILDER_H_
#define FRAMEJIT_BACKENDS_LOOP_BUILDER_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "backends/loop/loop_ir.h"

namespace framejit::loop {

class KernelBuilder {
 public:
  // Sizes of all dimensions, the inner one last. An empty list is one element.
  explicit KernelBuilder(std::vector<int64_t> sizes);

  int32_t AddInput(DType dtype);
  int32_t AddOutput(DType dtype);

  // The value has the buffer's type; one stride (in elements) per dimension. Cast before computing on bf16, f16, i8...
  ValueId Load(int32_t buffer, std::vector<int64_t> strides, int64_t offset = 0);
  // Load, then Cast to `dtype`.
  ValueId LoadAs(DType dtype, int32_t buffer, std::vector<int64_t> strides, int64_t offset = 0);
  // Casts to the buffer's type, then stores.
  void Store(int32_t buffer, std::vector<int64_t> strides, ValueId value, int64_t offset = 0);

  ValueId Const(DType dtype, double value);  // for integers the value must be integral
  ValueId ConstInt(DType dtype, int64_t value);
  ValueId Index(int64_t dim);                // i64
  ValueId Cast(DType dtype, ValueId value);  // the value itself when it has that type already
  ValueId Unary(Op op, ValueId x);
  ValueId Binary(Op op, ValueId x, ValueId y);  // arithmetic, bits and comparisons
  ValueId Select(ValueId condition, ValueId then_value, ValueId else_value);
  // Any reduction over the inner dimension; a row value that does not depend on the inner position is accepted too.
  ValueId Reduce(Op op, ValueId x);

  // Combinations used by several lowerings.
  ValueId Mean(ValueId x);  // sum / inner size
  // Two-pass: sum((x - mean)^2) / (n - correction), the sum added up in `wide`; none: in the type of x.
  ValueId Variance(ValueId x, ValueId mean, double correction, std::optional<DType> wide = std::nullopt);
  // What `x` is at the one inner position where `here` holds, as a row value: what x is computed from is picked, and
  // the operators are applied once per row. Where `here` holds nowhere, some value.
  ValueId PickElement(ValueId x, ValueId here);

  DType dtype_of(ValueId value) const { return kernel_.nodes[value].dtype; }
  Op op_of(ValueId value) const { return kernel_.nodes[value].op; }
  int64_t inner_size() const { return kernel_.inner_size(); }

  // Verified kernel; InvalidArgument when something the caller asked for makes no sense.
  absl::StatusOr<Kernel> Finish() &&;

 private:
  ValueId Emit(Node node);
  int32_t AddAccess(int32_t buffer, std::vector<int64_t> strides, int64_t offset);
  ValueId PowByConstant(ValueId x, double exponent);
  ValueId PickElement(ValueId x, ValueId here, absl::flat_hash_map<ValueId, ValueId>& done);
  ValueId PickNew(ValueId x, ValueId here, absl::flat_hash_map<ValueId, ValueId>& done);
  void Fail(std::string message);

  // Of everything that distinguishes two values; constants by their bits, so that zeros of both signs and NaNs stay
  // apart.
  struct IdentityHash {
    size_t operator()(const Node& node) const;
  };
  struct SameIdentity {
    bool operator()(const Node& a, const Node& b) const;
  };

  Kernel kernel_;
  absl::flat_hash_map<Node, ValueId, IdentityHash, SameIdentity> known_;
  absl::Status status_;
};

}  // namespace framejit::loop

#endif  // FRAMEJIT_BACKENDS_LOOP_BUILDER_H_
