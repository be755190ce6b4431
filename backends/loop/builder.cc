// See builder.h.
#include "backends/loop/builder.h"

#include <bit>
#include <cmath>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"

namespace framejit::loop {
namespace {

constexpr size_t kRoom = 16;  // for nodes: more than one operator takes, mostly

double RoundToType(DType dtype, double value) {
  return dtype == DType::kFloat32 ? static_cast<double>(static_cast<float>(value)) : value;
}

int64_t WrapToType(DType dtype, int64_t value) { return dtype == DType::kInt32 ? static_cast<int32_t>(value) : value; }

}  // namespace

KernelBuilder::KernelBuilder(std::vector<int64_t> sizes) {
  if (sizes.empty()) sizes.push_back(1);
  for (const int64_t size : sizes) kernel_.dims.push_back({size});
  kernel_.nodes.reserve(kRoom);
  known_.reserve(kRoom);
}

size_t KernelBuilder::IdentityHash::operator()(const Node& node) const {
  return absl::HashOf(node.op, node.dtype, node.operands, node.attr, node.int_value,
                      std::bit_cast<uint64_t>(node.float_value));
}

bool KernelBuilder::SameIdentity::operator()(const Node& a, const Node& b) const {
  return a.op == b.op && a.dtype == b.dtype && a.operands == b.operands && a.attr == b.attr &&
         a.int_value == b.int_value && std::bit_cast<uint64_t>(a.float_value) == std::bit_cast<uint64_t>(b.float_value);
}

void KernelBuilder::Fail(std::string message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("loop builder: ", message));
}

int32_t KernelBuilder::AddInput(DType dtype) {
  kernel_.buffers.push_back({dtype, false});
  return static_cast<int32_t>(kernel_.buffers.size()) - 1;
}

int32_t KernelBuilder::AddOutput(DType dtype) {
  kernel_.buffers.push_back({dtype, true});
  return static_cast<int32_t>(kernel_.buffers.size()) - 1;
}

int32_t KernelBuilder::AddAccess(int32_t buffer, std::vector<int64_t> strides, int64_t offset) {
  if (strides.empty() && kernel_.dims.size() == 1 && kernel_.dims[0].size == 1) strides.push_back(0);
  // A stride along a dimension of one element means nothing; zero makes equal accesses equal.
  for (size_t d = 0; d < strides.size() && d < kernel_.dims.size(); ++d) {
    if (kernel_.dims[d].size == 1) strides[d] = 0;
  }
  Access access{buffer, offset, std::move(strides)};
  for (size_t i = 0; i < kernel_.accesses.size(); ++i) {
    if (kernel_.accesses[i] == access) return static_cast<int32_t>(i);
  }
  kernel_.accesses.push_back(std::move(access));
  return static_cast<int32_t>(kernel_.accesses.size()) - 1;
}

ValueId KernelBuilder::Emit(Node node) {
  for (int i = 0; i < OperandCount(node.op); ++i) {
    if (node.operands[i] < 0 || node.operands[i] >= static_cast<ValueId>(kernel_.nodes.size())) {
      Fail(absl::StrCat("operand ", i, " of ", OpName(node.op), " is not a value"));
      node.operands[i] = 0;
    }
  }
  const auto [known, inserted] = known_.try_emplace(node, static_cast<ValueId>(kernel_.nodes.size()));
  if (inserted) kernel_.nodes.push_back(node);
  return known->second;
}

ValueId KernelBuilder::Load(int32_t buffer, std::vector<int64_t> strides, int64_t offset) {
  if (buffer < 0 || buffer >= static_cast<int32_t>(kernel_.buffers.size())) {
    Fail("load from an unknown buffer");
    return ConstInt(DType::kInt32, 0);
  }
  Node node{Op::kLoad, kernel_.buffers[buffer].dtype};
  node.attr = AddAccess(buffer, std::move(strides), offset);
  return Emit(node);
}

ValueId KernelBuilder::LoadAs(DType dtype, int32_t buffer, std::vector<int64_t> strides, int64_t offset) {
  return Cast(dtype, Load(buffer, std::move(strides), offset));
}

void KernelBuilder::Store(int32_t buffer, std::vector<int64_t> strides, ValueId value, int64_t offset) {
  if (buffer < 0 || buffer >= static_cast<int32_t>(kernel_.buffers.size())) return Fail("store to an unknown buffer");
  Node node{Op::kStore, kernel_.buffers[buffer].dtype};
  node.operands[0] = Cast(node.dtype, value);
  node.attr = AddAccess(buffer, std::move(strides), offset);
  Emit(node);
}

ValueId KernelBuilder::Const(DType dtype, double value) {
  if (!IsFloat(dtype)) {
    if (value != std::trunc(value)) Fail("fractional constant of an integer type");
    return ConstInt(dtype, static_cast<int64_t>(value));
  }
  Node node{Op::kConst, dtype};
  node.float_value = RoundToType(dtype, value);
  return Emit(node);
}

ValueId KernelBuilder::ConstInt(DType dtype, int64_t value) {
  if (IsFloat(dtype)) return Const(dtype, static_cast<double>(value));
  if (!IsComputeType(dtype)) return Cast(dtype, ConstInt(DType::kInt32, value));
  Node node{Op::kConst, dtype};
  node.int_value = dtype == DType::kBool ? value != 0 : WrapToType(dtype, value);
  return Emit(node);
}

ValueId KernelBuilder::Index(int64_t dim) {
  Node node{Op::kIndex, DType::kInt64};
  node.attr = dim;
  return Emit(node);
}

ValueId KernelBuilder::Cast(DType dtype, ValueId value) {
  if (value < 0 || value >= static_cast<ValueId>(kernel_.nodes.size())) {
    Fail("cast of something that is not a value");
    return ConstInt(DType::kInt32, 0);
  }
  const Node& source = kernel_.nodes[value];
  if (source.dtype == dtype) return value;
  // There and back again: floats of all types have the values of the narrow ones.
  if (source.op == Op::kCast && IsFloat(source.dtype) && ClassOf(dtype) == DTypeClass::kNarrowFloat &&
      dtype_of(source.operands[0]) == dtype) {
    return source.operands[0];
  }
  if (source.op == Op::kConst && IsComputeType(dtype)) {
    const bool from_float = IsFloat(source.dtype);
    if (dtype == DType::kBool) return ConstInt(dtype, from_float ? source.float_value != 0 : source.int_value != 0);
    if (IsFloat(dtype) && (from_float || dtype == DType::kFloat64 || std::abs(source.int_value) < (1 << 24))) {
      return Const(dtype, from_float ? source.float_value : static_cast<double>(source.int_value));
    }
    if (!IsFloat(dtype) && !from_float) return ConstInt(dtype, source.int_value);
  }
  Node node{Op::kCast, dtype};
  node.operands[0] = value;
  return Emit(node);
}

ValueId KernelBuilder::Unary(Op op, ValueId x) {
  if (OperandCount(op) != 1 || op == Op::kCast || op == Op::kStore) Fail(absl::StrCat(OpName(op), " is not unary"));
  Node node{op, x >= 0 && x < static_cast<ValueId>(kernel_.nodes.size()) ? dtype_of(x) : DType::kFloat32};
  node.operands[0] = x;
  return Emit(node);
}

// As aten::pow: 2, 3 are products; 0.5, -0.5, -1 and -2 the exact operators.
ValueId KernelBuilder::PowByConstant(ValueId x, double exponent) {
  if (exponent == 1) return x;
  if (exponent == 2) return Binary(Op::kMul, x, x);
  if (exponent == 3) return Binary(Op::kMul, Binary(Op::kMul, x, x), x);
  if (exponent == 0.5) return Unary(Op::kSqrt, x);
  if (exponent == -0.5) return Unary(Op::kRsqrt, x);
  if (exponent == -1) return Unary(Op::kReciprocal, x);
  if (exponent == -2) return Unary(Op::kReciprocal, Binary(Op::kMul, x, x));
  return kNoValue;
}

ValueId KernelBuilder::Binary(Op op, ValueId x, ValueId y) {
  const ValueId count = static_cast<ValueId>(kernel_.nodes.size());
  if (OperandCount(op) != 2 || x < 0 || y < 0 || x >= count || y >= count) {
    Fail(absl::StrCat("bad operands of ", OpName(op)));
    return ConstInt(DType::kInt32, 0);
  }
  const Node& right = kernel_.nodes[y];
  if (right.op == Op::kConst && IsFloat(right.dtype)) {
    if (op == Op::kPow) {
      if (const ValueId product = PowByConstant(x, right.float_value); product != kNoValue) return product;
    }
    if ((op == Op::kMul || op == Op::kDiv) && right.float_value == 1) return x;
  }
  Node node{op, IsComparison(op) ? DType::kBool : dtype_of(x)};
  node.operands = {x, y, kNoValue};
  return Emit(node);
}

ValueId KernelBuilder::Select(ValueId condition, ValueId then_value, ValueId else_value) {
  const bool known = then_value >= 0 && then_value < static_cast<ValueId>(kernel_.nodes.size());
  Node node{Op::kSelect, known ? dtype_of(then_value) : DType::kFloat32};
  node.operands = {condition, then_value, else_value};
  return Emit(node);
}

ValueId KernelBuilder::Reduce(Op op, ValueId x) {
  if (!IsReduction(op)) Fail(absl::StrCat(OpName(op), " is not a reduction"));
  return Unary(op, x);
}

ValueId KernelBuilder::Mean(ValueId x) {
  const ValueId sum = Reduce(Op::kReduceSum, x);
  return Binary(Op::kDiv, sum, Const(dtype_of(sum), static_cast<double>(inner_size())));
}

ValueId KernelBuilder::Variance(ValueId x, ValueId mean, double correction, std::optional<DType> wide) {
  const ValueId deviation = Binary(Op::kSub, x, mean);
  const DType type = wide.value_or(dtype_of(x));
  const ValueId sum = Reduce(Op::kReduceSum, Cast(type, Binary(Op::kMul, deviation, deviation)));
  const double divisor = std::max(0.0, static_cast<double>(inner_size()) - correction);
  return Cast(dtype_of(x), Binary(Op::kDiv, sum, Const(type, divisor)));
}

ValueId KernelBuilder::PickElement(ValueId x, ValueId here) {
  absl::flat_hash_map<ValueId, ValueId> done;
  return PickElement(x, here, done);
}

ValueId KernelBuilder::PickElement(ValueId x, ValueId here, absl::flat_hash_map<ValueId, ValueId>& done) {
  if (const auto found = done.find(x); found != done.end()) return found->second;
  const ValueId picked = PickNew(x, here, done);
  done.emplace(x, picked);
  return picked;
}

ValueId KernelBuilder::PickNew(ValueId x, ValueId here, absl::flat_hash_map<ValueId, ValueId>& done) {
  const Node node = kernel_.nodes[x];  // a copy: nodes are added
  const auto is_inner_load = [&](ValueId id) {
    const Node& load = kernel_.nodes[id];
    return load.op == Op::kLoad && kernel_.accesses[load.attr].strides.back() != 0;
  };
  if (node.op == Op::kConst || IsReduction(node.op)) return x;
  const bool is_index = node.op == Op::kIndex && node.attr + 1 == static_cast<int64_t>(kernel_.dims.size());
  // Of memory in a type that nothing is computed in, the cast is what is picked.
  if (is_index || is_inner_load(x) || (node.op == Op::kCast && is_inner_load(node.operands[0]))) {
    if (IsComputeType(node.dtype) && node.dtype != DType::kBool)
      return Reduce(Op::kReduceSum, Select(here, x, ConstInt(node.dtype, 0)));
    const ValueId number = Select(here, Cast(DType::kFloat32, x), Const(DType::kFloat32, 0));
    return Cast(node.dtype, Reduce(Op::kReduceSum, number));
  }
  Node picked = node;
  for (int i = 0; i < OperandCount(node.op); ++i) picked.operands[i] = PickElement(node.operands[i], here, done);
  return picked.operands == node.operands ? x : Emit(picked);
}

absl::StatusOr<Kernel> KernelBuilder::Finish() && {
  if (!status_.ok()) return status_;
  if (absl::Status status = Verify(kernel_); !status.ok()) return status;
  return std::move(kernel_);
}

}  // namespace framejit::loop
