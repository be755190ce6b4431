#include "backends/cpu/product_calls.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/cpu/codegen/product.h"
#include "backends/cpu/parallel.h"
#include "base/log.h"
#include "graph/number_operand.h"

namespace framejit::cpu {
namespace {

class ProductCode : public native::KernelCode {
 public:
  explicit ProductCode(std::shared_ptr<const CompiledProduct> product)
      : product_(std::move(product)),
        grain_(std::max<int64_t>(1, static_cast<int64_t>(kThreadNanoseconds / product_->nanoseconds() *
                                                         static_cast<double>(product_->units())))),
        name_(absl::StrCat("framejit_product_", product_->product().rows, "x", product_->product().depth, "x",
                           product_->product().columns)) {}

  // buffers: A, B, D where there is one, C.
  void Run(void* const* buffers, void* /*queue*/) const override {
    const auto* a = static_cast<const float*>(buffers[0]);
    const auto* b = static_cast<const float*>(buffers[1]);
    const bool adds = product_->product().addend.has_value();
    const auto* d = adds ? static_cast<const float*>(buffers[2]) : nullptr;
    auto* c = static_cast<float*>(buffers[adds ? 3 : 2]);
    const int64_t units = product_->units();
    if (units <= grain_) return product_->Run(a, b, d, c, 0, units);
    ParallelFor(units, grain_, [&](int64_t begin, int64_t end) { product_->Run(a, b, d, c, begin, end); });
  }
  double nanoseconds() const override { return product_->nanoseconds(); }
  const std::string& name() const override { return name_; }
  const std::string& text() const override { return product_->schedule(); }

 private:
  const std::shared_ptr<const CompiledProduct> product_;
  const int64_t grain_;
  const std::string name_;
};

// Of a matrix, or of a batch of them. Strides along one element mean nothing; they are 1.
Product::Strides StridesOf(const TensorMeta& meta) {
  const size_t rank = meta.sizes.size();
  const auto stride = [&](size_t dim) { return meta.sizes[dim] == 1 ? 1 : meta.strides[dim]; };
  return {rank == 3 ? stride(0) : 0, stride(rank - 2), stride(rank - 1)};
}

// Of D as it is broadcast to the product's shape; nullopt where its columns are not side by side.
std::optional<Product::Strides> AddendStrides(const TensorMeta& meta, const TensorMeta& out) {
  std::array<int64_t, 3> strides = {0, 0, 0};  // batch, row, column
  const size_t rank = meta.sizes.size(), out_rank = out.sizes.size();
  if (rank > out_rank) return std::nullopt;
  for (size_t i = 0; i < rank; ++i) {
    const int64_t size = meta.sizes[rank - 1 - i], wanted = out.sizes[out_rank - 1 - i];
    if (size != wanted && size != 1) return std::nullopt;
    if (size != 1) strides[2 - i] = meta.strides[rank - 1 - i];
  }
  if (out.sizes.back() == 1) strides[2] = 1;
  if (strides[2] != 1) return std::nullopt;
  return Product::Strides{strides[0], strides[1], strides[2]};
}

double NumberOf(const Operand& operand) { return operand.constant.toScalar().toDouble(); }

// MKL has code for AVX-512 that it runs on Intel's CPUs alone. On others ours is about twice as fast from 2 rows on;
// one row takes from half to 1.3 times the library's time (benchmarks/products.py, on an AMD EPYC of family 26).
// Elsewhere it was not measured; there it is used for products so small that the library's own calls and decisions cost
// more than the work.
bool IsWorthwhile(const Product& product, Isa isa) {
  constexpr double kSmall = 32 * 32 * 32;
  if (isa != Isa::kAvx2 && !IsIntelCpu()) return true;
  return static_cast<double>(product.batch) * static_cast<double>(product.rows) * static_cast<double>(product.columns) *
             static_cast<double>(product.depth) <=
         kSmall;
}

}  // namespace

native::DirectCall FindProduct(const Graph& graph, const Node& node) {
  const std::string name = OperatorName(node.op);
  const bool adds = name == "aten::addmm" || name == "aten::baddbmm";
  if (!adds && name != "aten::mm" && name != "aten::bmm") return {};
  if (adds && (IsNumberOperand(node, 3) || IsNumberOperand(node, 4))) return {};
  static const absl::StatusOr<Isa> isa = DetectIsa();
  if (!isa.ok()) return {};
  const size_t first = adds ? 1 : 0;
  const ValueId a = node.operands[first].value, b = node.operands[first + 1].value;
  const TensorMeta &left = graph.meta(a), &right = graph.meta(b), &out = graph.meta(node.outputs[0]);
  if (left.dtype != at::kFloat || right.dtype != at::kFloat || out.dtype != at::kFloat) return {};
  if (out.numel() == 0) return {};
  Product product;
  product.batch = out.sizes.size() == 3 ? out.sizes[0] : 1;
  product.rows = out.sizes[out.sizes.size() - 2];
  product.columns = out.sizes.back();
  product.depth = left.sizes.back();
  product.a = StridesOf(left);
  product.b = StridesOf(right);
  native::DirectCall call;
  call.operands = {a, b};
  if (adds) {
    const double beta = NumberOf(node.operands[3]), alpha = NumberOf(node.operands[4]);
    if (alpha != 1 || (beta != 0 && beta != 1)) return {};
    const TensorMeta& addend = graph.meta(node.operands[0].value);
    if (beta == 1) {  // 0: it is not read, whatever it holds
      product.addend = AddendStrides(addend, out);
      if (addend.dtype != at::kFloat || !product.addend.has_value()) return {};
      call.operands.push_back(node.operands[0].value);
    }
  }
  if (!HasProductForm(product) || !IsWorthwhile(product, *isa)) return {};
  absl::StatusOr<std::shared_ptr<const CompiledProduct>> compiled = CompiledProduct::Compile(product, *isa);
  if (!compiled.ok()) {
    Log(LogArtifact::k_loops, absl::StrCat("left to ATen: ", std::string(compiled.status().message())));
    return {};
  }
  call.code = std::make_shared<ProductCode>(*std::move(compiled));
  return call;
}

}  // namespace framejit::cpu
