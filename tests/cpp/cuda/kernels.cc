#include "tests/cpp/cuda/kernels.h"

#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backends/cuda/codegen/launch_plan.h"
#include "backends/loop/builder.h"

namespace framejit::testing {
namespace {

using loop::DType;
using loop::Kernel;
using loop::KernelBuilder;
using loop::Op;
using loop::ValueId;

constexpr DType kTypes[] = {
#define FRAMEJIT_LOOP_DTYPE(name, text, bytes, klass) DType::k##name,
#include "backends/loop/dtypes.def"
#undef FRAMEJIT_LOOP_DTYPE
};

NamedKernel Finish(std::string name, KernelBuilder builder) {
  absl::StatusOr<Kernel> kernel = std::move(builder).Finish();
  if (!kernel.ok()) {
    ADD_FAILURE() << name << ": " << kernel.status();
    return {std::move(name), Kernel{{{0}}, {}, {}, {}}};
  }
  cuda::Canonicalize(*kernel);
  return {std::move(name), *std::move(kernel)};
}

std::vector<int64_t> Contiguous(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * sizes[d];
  return strides;
}

// Whether ops.def lets the operator have operands of the type.
bool Takes(std::string_view classes, DType dtype) {
  const loop::DTypeClass klass = loop::ClassOf(dtype);
  if (klass == loop::DTypeClass::kBool) return classes.find('B') != std::string_view::npos;
  if (klass == loop::DTypeClass::kInt) return classes.find('I') != std::string_view::npos;
  return klass == loop::DTypeClass::kFloat && classes.find('F') != std::string_view::npos;
}

void AddOperator(Op op, std::string_view classes, std::vector<NamedKernel>& out) {
  for (const DType dtype : kTypes) {
    if (!loop::IsComputeType(dtype) || !Takes(classes, dtype)) continue;
    KernelBuilder b({103});
    const auto input = [&](DType type) { return b.Load(b.AddInput(type), {1}); };
    ValueId value;
    if (op == Op::kSelect) {
      const ValueId condition = input(DType::kBool), then_value = input(dtype);
      value = b.Select(condition, then_value, input(dtype));
    } else if (loop::OperandCount(op) == 1) {
      value = b.Unary(op, input(dtype));
    } else {
      const ValueId x = input(dtype);
      value = b.Binary(op, x, input(dtype));
    }
    b.Store(b.AddOutput(b.dtype_of(value)), {1}, value);
    out.push_back(Finish(absl::StrCat(loop::OpName(op), "_", loop::DTypeName(dtype)), std::move(b)));
  }
}

Kernel Softmax(DType dtype, int64_t rows, int64_t width) {
  KernelBuilder b({rows, width});
  const ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(dtype), {width, 1});
  const ValueId e = b.Unary(Op::kExp, b.Binary(Op::kSub, x, b.Reduce(Op::kReduceMax, x)));
  b.Store(b.AddOutput(dtype), {width, 1}, b.Binary(Op::kDiv, e, b.Reduce(Op::kReduceSum, e)));
  return Finish("softmax", std::move(b)).kernel;
}

Kernel LayerNorm(DType dtype, int64_t rows, int64_t width) {
  KernelBuilder b({rows, width});
  const ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(dtype), {width, 1});
  const ValueId weight = b.LoadAs(DType::kFloat32, b.AddInput(dtype), {0, 1});
  const ValueId mean = b.Mean(x), variance = b.Variance(x, mean, 0);
  const ValueId rstd = b.Unary(Op::kRsqrt, b.Binary(Op::kAdd, variance, b.Const(DType::kFloat32, 1e-5)));
  const ValueId normal = b.Binary(Op::kMul, b.Binary(Op::kSub, x, mean), rstd);
  b.Store(b.AddOutput(dtype), {width, 1}, b.Binary(Op::kMul, normal, weight));
  b.Store(b.AddOutput(DType::kFloat32), {1, 0}, mean);
  b.Store(b.AddOutput(DType::kFloat32), {1, 0}, rstd);
  return Finish("layer_norm", std::move(b)).kernel;
}

// One reduction of x, and x minus it: two passes.
Kernel Centred(Op op, DType dtype, std::vector<int64_t> sizes, std::vector<int64_t> strides) {
  KernelBuilder b(sizes);
  const ValueId x = b.Load(b.AddInput(dtype), strides);
  const ValueId total = b.Reduce(op, x);
  std::vector<int64_t> rows = Contiguous(std::vector<int64_t>(sizes.begin(), sizes.end() - 1));
  rows.push_back(0);
  b.Store(b.AddOutput(dtype), rows, total);
  b.Store(b.AddOutput(dtype), strides, b.Binary(Op::kSub, x, total));
  return Finish("centred", std::move(b)).kernel;
}

}  // namespace

std::vector<NamedKernel> OperatorKernels() {
  std::vector<NamedKernel> out;
#define FRAMEJIT_LOOP_OP(name, text, operands, classes, result)                                           \
  if (operands > 0 && !IsReduction(Op::k##name) && Op::k##name != Op::kCast && Op::k##name != Op::kStore) \
    AddOperator(Op::k##name, #classes, out);
#include "backends/loop/ops.def"
#undef FRAMEJIT_LOOP_OP
  for (const double value : {0.1, -0.0, 1e30, 1e300, HUGE_VAL, -HUGE_VAL, std::nan("")}) {
    KernelBuilder b({5});
    const ValueId x = b.Load(b.AddInput(DType::kFloat64), {1});
    const ValueId narrow = b.Cast(DType::kFloat32, x);
    b.Store(b.AddOutput(DType::kFloat64), {1}, b.Binary(Op::kAdd, x, b.Const(DType::kFloat64, value)));
    b.Store(b.AddOutput(DType::kFloat32), {1}, b.Binary(Op::kMul, narrow, b.Const(DType::kFloat32, value)));
    out.push_back(Finish(absl::StrCat("const_", value), std::move(b)));
  }
  for (const int64_t value : {int64_t{0}, int64_t{-1}, int64_t{INT64_MIN}, int64_t{INT64_MAX}}) {
    KernelBuilder b({3, 5});
    const ValueId index = b.Binary(Op::kAdd, b.Index(0), b.Binary(Op::kMul, b.Index(1), b.ConstInt(DType::kInt64, 7)));
    b.Store(b.AddOutput(DType::kInt64), {5, 1}, b.Binary(Op::kSub, index, b.ConstInt(DType::kInt64, value)));
    out.push_back(Finish(absl::StrCat("index_", value), std::move(b)));
  }
  return out;
}

std::vector<NamedKernel> CastKernels() {
  std::vector<NamedKernel> out;
  for (const DType from : kTypes) {
    KernelBuilder b({21});
    const ValueId x = b.Load(b.AddInput(from), {1});
    for (const DType to : kTypes) b.Store(b.AddOutput(to), {1}, b.Cast(to, x));
    out.push_back(Finish(absl::StrCat("cast_", loop::DTypeName(from)), std::move(b)));
  }
  return out;
}

std::vector<NamedKernel> LayoutKernels() {
  struct Case {
    const char* name;
    std::vector<int64_t> sizes, left, right, result;
    int64_t offset;
  };
  const Case cases[] = {
      {"contiguous", {4, 64}, {64, 1}, {64, 1}, {64, 1}, 0},
      {"row_broadcast", {4, 64}, {64, 1}, {0, 1}, {64, 1}, 0},
      {"column_broadcast", {4, 64}, {64, 1}, {1, 0}, {64, 1}, 0},
      {"scalar_broadcast", {4, 64}, {64, 1}, {0, 0}, {64, 1}, 0},
      {"padded_rows", {4, 64}, {67, 1}, {72, 1}, {64, 1}, 3},
      {"every_other", {4, 64}, {128, 2}, {64, 1}, {64, 1}, 1},
      {"backwards", {4, 64}, {-64, -1}, {64, 1}, {64, 1}, 255},
      {"transposed", {48, 40}, {1, 48}, {40, 1}, {40, 1}, 0},
      {"large_transposed", {300, 257}, {1, 300}, {257, 1}, {257, 1}, 0},
      {"both_transposed", {192, 256}, {1, 192}, {1, 192}, {256, 1}, 0},
      {"transposed_matrices", {3, 100, 128}, {12800, 1, 100}, {0, 0, 1}, {12800, 128, 1}, 2},
      {"permuted", {3, 5, 16}, {80, 1, 5}, {80, 16, 1}, {16, 48, 1}, 0},
      {"odd", {7, 9}, {9, 1}, {0, 1}, {9, 1}, 0},
      {"one", {1}, {1}, {0}, {1}, 0},
  };
  std::vector<NamedKernel> out;
  for (const Case& c : cases) {
    for (const auto& [left, right] : {std::pair(DType::kFloat32, DType::kFloat32),
                                      {DType::kBFloat16, DType::kFloat32},
                                      {DType::kFloat16, DType::kUInt8}}) {
      KernelBuilder b(c.sizes);
      const ValueId x = b.LoadAs(DType::kFloat32, b.AddInput(left), c.left, c.offset);
      const ValueId y = b.LoadAs(DType::kFloat32, b.AddInput(right), c.right);
      b.Store(b.AddOutput(left), c.result, b.Binary(Op::kAdd, b.Binary(Op::kMul, x, y), x));
      out.push_back(Finish(absl::StrCat(c.name, "_", loop::DTypeName(left)), std::move(b)));
    }
  }
  return out;
}

std::vector<NamedKernel> ReductionKernels() {
  std::vector<NamedKernel> out;
  for (const int64_t width : {1, 3, 8, 31, 64, 100, 256, 1000, 1024, 4096, 5000, 20000}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const std::string of = absl::StrCat("_", loop::DTypeName(dtype), "_", width);
      out.push_back({"softmax" + of, Softmax(dtype, width > 1000 ? 3 : 37, width)});
      out.push_back({"layer_norm" + of, LayerNorm(dtype, 5, width)});
    }
  }
  for (const Op op : {Op::kReduceSum, Op::kReduceProd, Op::kReduceMax, Op::kReduceMin}) {
    for (const DType dtype : {DType::kInt32, DType::kInt64, DType::kFloat32, DType::kFloat64}) {
      const std::string of = absl::StrCat(loop::OpName(op), "_", loop::DTypeName(dtype));
      out.push_back({of + "_rows", Centred(op, dtype, {9, 77}, {77, 1})});
      out.push_back({of + "_strided", Centred(op, dtype, {4, 77}, {154, 2})});
      out.push_back({of + "_all", Centred(op, dtype, {3000}, {1})});
      out.push_back({of + "_columns", Centred(op, dtype, {45, 77}, {1, 45})});
      out.push_back({of + "_long_columns", Centred(op, dtype, {2, 40, 700}, {28000, 1, 40})});
    }
  }
  return out;
}

std::vector<NamedKernel> LongKernels() {
  std::vector<NamedKernel> out;
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{1 << 21}, {(1 << 21) + 5}, {3, (1 << 19) + 5}}) {
    KernelBuilder b(sizes);
    std::vector<int64_t> strides = Contiguous(sizes);
    if (sizes.size() > 1) ++strides[0];  // rows that stay apart
    const ValueId x = b.Load(b.AddInput(DType::kFloat64), strides);
    b.Store(b.AddOutput(DType::kFloat64), Contiguous(sizes), b.Binary(Op::kMul, x, x));
    out.push_back(Finish(absl::StrCat("long_", absl::StrJoin(sizes, "x")), std::move(b)));
    EXPECT_EQ(cuda::PlanLaunch(out.back().kernel).steps, 2) << out.back().name;
  }
  return out;
}

}  // namespace framejit::testing
