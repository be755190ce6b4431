// The verifier of the loop IR: what builders must keep and code generators may rely on.
#include "absl/strings/str_cat.h"
#include "backends/loop/loop_ir.h"
#include "backends/loop/schedule.h"

namespace framejit::loop {
namespace {

// Columns of ops.def.
enum class Operands : uint8_t { kNone, kA, kIF, kF, kBI, kBIF };
enum class Result : uint8_t { kSame, kBool, kI64, kOwn };
struct OpTypes {
  Operands operands;
  Result result;
};
constexpr OpTypes kOpTypes[] = {
#define FRAMEJIT_LOOP_OP(name, text, operands, classes, result) {Operands::k##classes, Result::k##result},
#include "backends/loop/ops.def"
#undef FRAMEJIT_LOOP_OP
};

bool Accepts(Operands operands, DType dtype) {
  const DTypeClass klass = ClassOf(dtype);
  switch (operands) {
    case Operands::kNone:
      return false;
    case Operands::kA:
      return true;
    case Operands::kIF:
      return klass == DTypeClass::kInt || klass == DTypeClass::kFloat;
    case Operands::kF:
      return klass == DTypeClass::kFloat;
    case Operands::kBI:
      return klass == DTypeClass::kBool || klass == DTypeClass::kInt;
    case Operands::kBIF:
      return IsComputeType(dtype);
  }
  return false;
}

class Verifier {
 public:
  explicit Verifier(const Kernel& kernel) : kernel_(kernel) {}

  std::string Run() {
    if (kernel_.dims.empty()) return "a kernel has at least one dimension";
    for (const Dim& dim : kernel_.dims) {
      if (dim.size < 0 && !IsOpen(dim.size)) return "negative size";
    }
    for (const Access& access : kernel_.accesses) {
      if (std::string error = CheckAccess(access); !error.empty()) return error;
    }
    if (std::string error = CheckParameters(); !error.empty()) return error;
    for (size_t id = 0; id < kernel_.nodes.size(); ++id) {
      std::string error = CheckNode(static_cast<ValueId>(id));
      if (!error.empty()) return absl::StrCat("v", id, " (", OpName(kernel_.nodes[id].op), "): ", error);
    }
    return CheckRanks();
  }

 private:
  std::string CheckAccess(const Access& access) const {
    if (access.buffer < 0 || access.buffer >= static_cast<int64_t>(kernel_.buffers.size())) return "unknown buffer";
    if (access.strides.size() != kernel_.dims.size()) return "an access has one stride per dimension";
    return "";
  }

  // Each stands in one place, in order.
  std::string CheckParameters() const {
    int64_t next = 0;
    bool in_order = true;
    const auto check = [&](int64_t number) {
      if (IsOpen(number)) in_order = in_order && ParameterOf(number) == next++;
    };
    for (const Dim& dim : kernel_.dims) check(dim.size);
    for (const Access& access : kernel_.accesses) {
      check(access.offset);
      for (const int64_t stride : access.strides) check(stride);
    }
    return in_order ? "" : "parameters are numbered as they stand, each in one place";
  }

  std::string CheckNode(ValueId id) const {
    const Node& node = kernel_.nodes[id];
    for (int i = 0; i < OperandCount(node.op); ++i) {
      const ValueId operand = node.operands[i];
      if (operand < 0 || operand >= id) return "an operand precedes its user";
      if (kernel_.nodes[operand].op == Op::kStore) return "a store is not a value";
    }
    if (node.op == Op::kLoad || node.op == Op::kStore) return CheckMemory(node);
    if (node.op == Op::kIndex && (node.attr < 0 || node.attr >= static_cast<int64_t>(kernel_.dims.size()))) {
      return "unknown dimension";
    }
    if (node.op == Op::kConst && !IsComputeType(node.dtype)) return "constants have a compute type";
    return CheckTypes(node);
  }

  std::string CheckMemory(const Node& node) const {
    if (node.attr < 0 || node.attr >= static_cast<int64_t>(kernel_.accesses.size())) return "unknown access";
    const Buffer& buffer = kernel_.buffers[kernel_.accesses[node.attr].buffer];
    if (node.dtype != buffer.dtype) return "the type is not the buffer's";
    if (node.op == Op::kLoad) return buffer.written ? "loads from an output" : "";
    if (!buffer.written) return "stores to an input";
    if (kernel_.nodes[node.operands[0]].dtype != buffer.dtype) return "the value's type is not the buffer's";
    return "";
  }

  std::string CheckTypes(const Node& node) const {
    const OpTypes& types = kOpTypes[static_cast<int>(node.op)];
    const int first = node.op == Op::kSelect ? 1 : 0;
    if (first == 1 && kernel_.nodes[node.operands[0]].dtype != DType::kBool) return "the condition is bool";
    const int count = OperandCount(node.op);
    for (int i = first; i < count; ++i) {
      const DType dtype = kernel_.nodes[node.operands[i]].dtype;
      if (!Accepts(types.operands, dtype)) return absl::StrCat("not for ", DTypeName(dtype));
      if (dtype != kernel_.nodes[node.operands[first]].dtype) return "operands of different types";
    }
    if (types.result == Result::kSame && node.dtype != kernel_.nodes[node.operands[first]].dtype) {
      return "the result has the operands' type";
    }
    if (types.result == Result::kBool && node.dtype != DType::kBool) return "the result is bool";
    if (types.result == Result::kI64 && node.dtype != DType::kInt64) return "the result is i64";
    return "";
  }

  std::string CheckRanks() const {
    const Schedule schedule = MakeSchedule(kernel_, 0);
    const bool has_neighbours = IsOpen(kernel_.inner_size()) || kernel_.inner_size() > 1;
    for (const Node& node : kernel_.nodes) {
      if (node.op == Op::kStore && schedule.is_element[node.operands[0]] && has_neighbours &&
          kernel_.accesses[node.attr].strides.back() == 0) {
        return "a store with inner stride 0 needs a row value";
      }
      if ((node.op == Op::kReduceMax || node.op == Op::kReduceMin) && kernel_.inner_size() == 0) {
        return "maximum of no elements";
      }
    }
    return "";
  }

  const Kernel& kernel_;
};

}  // namespace

absl::Status Verify(const Kernel& kernel) {
  const std::string error = Verifier(kernel).Run();
  if (error.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("loop IR: ", error, "\n", kernel.dims.empty() ? "" : Print(kernel)));
}

}  // namespace framejit::loop
