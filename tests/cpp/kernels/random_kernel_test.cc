// Random kernels of exact operators: random shapes, layouts, types, several reductions and passes, compiled against
// interpreted. A failure prints the kernel; FRAMEJIT_LONG_TESTS=1 tries many more.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>

#include "backends/loop/canonicalize.h"
#include "backends/loop/split.h"
#include "kernel_harness.h"

namespace framejit::testing {
namespace {

constexpr DType kTypes[] = {DType::kBool,  DType::kUInt8,   DType::kInt8,     DType::kInt16,   DType::kInt32,
                            DType::kInt64, DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64};
constexpr DType kComputeTypes[] = {DType::kBool, DType::kInt32, DType::kInt64, DType::kFloat32, DType::kFloat64};

class RandomKernel {
 public:
  explicit RandomKernel(uint64_t seed) : random_(seed), sizes_(RandomSizes()), b_(sizes_) {}

  Kernel Make() {
    for (int i = 0; i < 3; ++i) AddLoad();
    const int count = 4 + Below(14);
    for (int i = 0; i < count; ++i) AddValue();
    for (int i = 0; i < 3; ++i) AddStore();
    return MustFinish(std::move(b_));
  }

 private:
  struct Known {
    ValueId id;
    bool element;
  };

  int Below(int limit) { return static_cast<int>(random_() % limit); }

  std::vector<int64_t> RandomSizes() {
    std::vector<int64_t> sizes(1 + Below(4));
    for (int64_t& size : sizes) size = 1 + Below(5);
    sizes.back() = 1 + Below(45);
    columns_ = sizes.size() > 1 && Below(3) == 0;
    if (!columns_) return sizes;
    sizes[sizes.size() - 2] = 1 + Below(80);
    sizes.back() = 1 + Below(Below(4) ? 6 : 300);
    return sizes;
  }

  // A dense layout of the dimensions in random order, some broadcast, some spread out.
  std::vector<int64_t> RandomStrides(bool may_broadcast) {
    std::vector<size_t> order(sizes_.size());
    for (size_t d = 0; d < order.size(); ++d) order[d] = order.size() - 1 - d;
    if (Below(2)) std::shuffle(order.begin(), order.end(), random_);
    if (columns_) {  // the last row dimension is the contiguous one
      order.erase(std::find(order.begin(), order.end(), sizes_.size() - 2));
      order.insert(order.begin(), sizes_.size() - 2);
    }
    int64_t step = columns_ || Below(4) ? 1 : 1 + Below(3);
    std::vector<int64_t> strides(sizes_.size());
    for (const size_t d : order) {
      if (may_broadcast && Below(4) == 0) continue;
      strides[d] = step;
      step *= sizes_[d];
    }
    return strides;
  }

  void AddLoad() {
    const DType dtype = kTypes[Below(std::size(kTypes))];
    const std::vector<int64_t> strides = RandomStrides(true);
    const ValueId raw = b_.Load(b_.AddInput(dtype), strides, Below(3));
    const bool element = strides.back() != 0 && sizes_.back() != 1;
    known_.push_back({b_.Cast(kComputeTypes[Below(std::size(kComputeTypes))], raw), element});
  }

  Known Any() { return known_[Below(static_cast<int>(known_.size()))]; }
  // A known value, cast to `dtype` where needed.
  Known AnyOf(DType dtype) {
    const Known any = Any();
    return {b_.Cast(dtype, any.id), any.element};
  }

  void AddValue() {
    const DType dtype = kComputeTypes[Below(std::size(kComputeTypes))];
    switch (Below(7)) {
      case 0:
        return AddLoad();
      case 1:
        return AddReduction();
      case 2:
        return AddSelect(dtype);
      case 3:
        return AddIndexOrConstant();
      default:
        return dtype == DType::kBool ? AddBits() : AddArithmetic(dtype);
    }
  }

  void AddReduction() {
    const Known x = Any();
    const DType dtype = b_.dtype_of(x.id) == DType::kBool ? DType::kInt32 : b_.dtype_of(x.id);
    const bool exact_sum = !loop::IsFloat(dtype);
    constexpr Op kOps[] = {Op::kReduceMax, Op::kReduceMin, Op::kReduceSum, Op::kReduceProd};
    ValueId value = b_.Cast(dtype, x.id);
    // Which of two zeros a reduction meets first is nobody's promise: adding zero leaves the positive one only.
    if (!exact_sum) value = b_.Binary(Op::kAdd, value, b_.Const(dtype, 0));
    known_.push_back({b_.Reduce(kOps[Below(exact_sum ? 4 : 2)], value), false});
  }

  void AddSelect(DType dtype) {
    const Known condition = AnyOf(DType::kBool), x = AnyOf(dtype), y = AnyOf(dtype);
    known_.push_back({b_.Select(condition.id, x.id, y.id), condition.element || x.element || y.element});
  }

  void AddIndexOrConstant() {
    const int dim = Below(static_cast<int>(sizes_.size()));
    const bool inner = dim + 1 == static_cast<int>(sizes_.size()) && sizes_.back() != 1;
    if (Below(2))
      known_.push_back({b_.Index(dim), inner});
    else
      known_.push_back({b_.Const(kComputeTypes[1 + Below(4)], Below(9) - 4), false});
  }

  void AddBits() {
    constexpr Op kOps[] = {Op::kAnd, Op::kOr, Op::kXor};
    constexpr DType kBitTypes[] = {DType::kBool, DType::kInt32, DType::kInt64};
    const DType dtype = kBitTypes[Below(3)];
    const Known x = AnyOf(dtype), y = AnyOf(dtype);
    known_.push_back({b_.Binary(kOps[Below(3)], x.id, y.id), x.element || y.element});
    known_.push_back({b_.Unary(Op::kNot, x.id), x.element});
  }

  void AddArithmetic(DType dtype) {
    constexpr Op kBinary[] = {Op::kAdd, Op::kSub, Op::kMul, Op::kMin, Op::kMax, Op::kEq,
                              Op::kNe,  Op::kLt,  Op::kLe,  Op::kGt,  Op::kGe};
    const Known x = AnyOf(dtype), y = AnyOf(dtype);
    known_.push_back({b_.Binary(kBinary[Below(std::size(kBinary))], x.id, y.id), x.element || y.element});
    known_.push_back({b_.Unary(Below(2) ? Op::kNeg : Op::kAbs, x.id), x.element});
    if (loop::IsFloat(dtype)) known_.push_back({b_.Binary(Op::kDiv, x.id, y.id), x.element || y.element});
  }

  void AddStore() {
    const Known x = known_[known_.size() - 1 - Below(std::min<int>(8, static_cast<int>(known_.size())))];
    std::vector<int64_t> strides = RandomStrides(false);
    if (!x.element && Below(2)) {
      // One value per row, densely.
      int64_t step = 1;
      strides.back() = 0;
      for (size_t d = sizes_.size() - 1; d-- > 0; step *= sizes_[d]) strides[d] = step;
    }
    b_.Store(b_.AddOutput(kTypes[Below(std::size(kTypes))]), strides, x.id);
  }

  std::mt19937_64 random_;
  bool columns_ = false;
  std::vector<int64_t> sizes_;
  KernelBuilder b_;
  std::vector<Known> known_;
};

TEST(RandomKernelTest, CompiledAgreesWithInterpreted) {
  const int count = std::getenv("FRAMEJIT_LONG_TESTS") != nullptr ? 20000 : 400;
  for (int seed = 1; seed <= count; ++seed) {
    CheckKernel(RandomKernel(seed).Make(), {.seed = static_cast<uint64_t>(seed)});
    if (HasFailure()) FAIL() << "seed " << seed;
  }
}

using Memory = std::vector<std::vector<char>>;

Memory RandomBuffers(const Kernel& kernel, uint64_t seed) {
  Memory memory;
  const std::vector<int64_t> elements = loop::BufferElements(kernel);
  for (size_t b = 0; b < elements.size(); ++b) {
    const DType dtype = kernel.buffers[b].dtype;
    memory.emplace_back(static_cast<size_t>(elements[b] * loop::DTypeBytes(dtype)));
    if (!kernel.buffers[b].written) FillRandom(dtype, memory.back().data(), elements[b], seed + b, /*specials=*/true);
  }
  return memory;
}

void InterpretParts(const loop::SplitKernel& split, Memory& memory) {
  for (const auto& temporary : split.temporaries) {
    memory.emplace_back(static_cast<size_t>(temporary.elements * loop::DTypeBytes(temporary.dtype)));
  }
  for (const loop::SplitKernel::Part& part : split.parts) {
    std::vector<void*> buffers;
    for (const int32_t buffer : part.buffers) buffers.push_back(memory[static_cast<size_t>(buffer)].data());
    loop::Interpret(part.kernel, buffers.data());
  }
}

TEST(RandomKernelTest, PartsAgreeWithTheWhole) {
  const int count = std::getenv("FRAMEJIT_LONG_TESTS") != nullptr ? 20000 : 1000;
  int cut = 0;
  for (int seed = 1; seed <= count; ++seed) {
    Kernel kernel = RandomKernel(seed).Make();
    loop::Canonicalize(kernel);
    const int64_t inner = kernel.inner_size();
    const int64_t pieces = seed % 2 == 0 ? 1 : inner % 3 == 0 ? 3 : inner % 2 == 0 ? 2 : inner;
    if (!kernel.has_reductions()) continue;
    const absl::StatusOr<loop::SplitKernel> split = loop::Split(kernel, pieces);
    ASSERT_TRUE(split.ok()) << "seed " << seed << ": " << split.status();
    cut += split->parts.size() > 1;
    Memory whole = RandomBuffers(kernel, seed), parts = whole;
    std::vector<void*> buffers;
    for (std::vector<char>& buffer : whole) buffers.push_back(buffer.data());
    loop::Interpret(kernel, buffers.data());
    InterpretParts(*split, parts);
    parts.resize(whole.size());
    ASSERT_TRUE(whole == parts) << "seed " << seed << ", " << pieces << " pieces\n" << loop::Print(kernel);
  }
  EXPECT_GT(cut, count / 10);
}

}  // namespace
}  // namespace framejit::testing
