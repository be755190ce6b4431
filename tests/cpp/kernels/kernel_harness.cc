// See kernel_harness.h.
#include "kernel_harness.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"

namespace framejit::testing {
namespace {

constexpr int64_t kPage = 4096;

double Special(int which) {
  constexpr double kSpecials[] = {0.0, -0.0, INFINITY, -INFINITY, NAN, 1e-40, -1e-40, 1.0, -1.0, 88.5, -100.0, 3e38};
  return kSpecials[which % std::size(kSpecials)];
}

double RandomFloat(std::mt19937_64& random, bool specials) {
  const uint64_t choice = random() % 32;
  if (specials && choice < 4) return Special(static_cast<int>(random() % 12));
  std::normal_distribution<double> normal(0, choice < 16 ? 1.0 : 8.0);
  return normal(random);
}

double ReadFloat(DType dtype, const char* at) {
  uint16_t half;
  float single;
  double wide;
  std::memcpy(&half, at, 2);
  if (dtype == DType::kFloat16) return loop::Float16ToFloat(half);
  if (dtype == DType::kBFloat16) return loop::BFloat16ToFloat(half);
  if (dtype == DType::kFloat32) return std::memcpy(&single, at, 4), single;
  return std::memcpy(&wide, at, 8), wide;
}

bool HoldsFloat(DType dtype) { return loop::IsFloat(dtype) || loop::ClassOf(dtype) == loop::DTypeClass::kNarrowFloat; }

bool Agrees(DType dtype, const char* got, const char* expected, const CheckOptions& options) {
  const int64_t bytes = loop::DTypeBytes(dtype);
  if (std::memcmp(got, expected, bytes) == 0) return true;
  if (!HoldsFloat(dtype)) return false;
  const double a = ReadFloat(dtype, got), b = ReadFloat(dtype, expected);
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  if (options.ulps == 0) return false;
  if (std::fabs(a - b) <= options.absolute) return true;
  return UlpError(dtype, a, b) <= options.ulps + 0.5;  // the expectation itself is rounded
}

using Buffers = std::vector<std::unique_ptr<GuardedBuffer>>;

Buffers Allocate(const Kernel& kernel, GuardedBuffer::Flush flush, const CheckOptions& options) {
  const std::vector<int64_t> elements = loop::BufferElements(kernel);
  Buffers buffers;
  for (size_t b = 0; b < kernel.buffers.size(); ++b) {
    const DType dtype = kernel.buffers[b].dtype;
    buffers.push_back(std::make_unique<GuardedBuffer>(elements[b] * loop::DTypeBytes(dtype), flush));
    if (kernel.buffers[b].written)
      std::memset(buffers[b]->data(), 0x5a, buffers[b]->bytes());
    else
      FillRandom(dtype, buffers[b]->data(), elements[b], options.seed + b, options.specials, options.scale);
  }
  return buffers;
}

std::vector<void*> Pointers(const Buffers& buffers) {
  std::vector<void*> out;
  for (const auto& buffer : buffers) out.push_back(buffer->data());
  return out;
}

void Compare(const Kernel& kernel, const Buffers& got, const Buffers& expected, const CheckOptions& options,
             const std::string& what) {
  for (size_t b = 0; b < kernel.buffers.size(); ++b) {
    const DType dtype = kernel.buffers[b].dtype;
    const int64_t bytes = loop::DTypeBytes(dtype);
    for (int64_t i = 0; i * bytes < got[b]->bytes(); ++i) {
      const char* a = static_cast<const char*>(got[b]->data()) + i * bytes;
      const char* e = static_cast<const char*>(expected[b]->data()) + i * bytes;
      if (Agrees(dtype, a, e, options)) continue;
      int64_t integers[2] = {};
      std::memcpy(&integers[0], a, bytes);
      std::memcpy(&integers[1], e, bytes);
      ADD_FAILURE() << what << ": b" << b << "[" << i << "] is " << (HoldsFloat(dtype) ? ReadFloat(dtype, a) : 0)
                    << " (" << integers[0] << "), expected " << (HoldsFloat(dtype) ? ReadFloat(dtype, e) : 0) << " ("
                    << integers[1] << ")\n"
                    << loop::Print(kernel);
      return;
    }
  }
}

void RunInPieces(const cpu::CompiledKernel& compiled, void* const* buffers, int pieces) {
  int64_t begin = 0;
  for (int piece = 1; piece <= pieces; ++piece) {
    const int64_t end = compiled.units() * piece / pieces;
    compiled.Run(buffers, begin, end);
    begin = end;
  }
}

void CheckCompiled(KernelCompiler& compiler, cpu::Sizes sizes, const Kernel& kernel, const Buffers& expected,
                   const CheckOptions& options, const std::string& what) {
  const auto compiled = compiler.Compile(kernel, sizes);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  for (const auto flush : {GuardedBuffer::Flush::kAtEnd, GuardedBuffer::Flush::kAtStart}) {
    for (const int pieces : {1, 3}) {
      const Buffers got = Allocate(kernel, flush, options);
      RunInPieces(**compiled, Pointers(got).data(), pieces);
      Compare(kernel, got, expected, options, what);
    }
  }
}

// So that the inner size is one of several to the compiler, which makes code for any then. Some kernels make sense for
// one element alone.
void CompileLonger(KernelCompiler& compiler, Kernel kernel) {
  for (int i = 0; i < 3; ++i) {
    ++kernel.dims.back().size;
    if (!loop::Verify(kernel).ok()) return;
    EXPECT_TRUE(compiler.Compile(kernel, cpu::Sizes::kOpen).ok());
  }
}

}  // namespace

void CheckOpenKernel(KernelCompiler& compiler, const Kernel& kernel, const CheckOptions& options) {
  const auto precision = options.ulps > 0 ? loop::Precision::kExact : loop::Precision::kAsTyped;
  const Buffers expected = Allocate(kernel, GuardedBuffer::Flush::kAtEnd, options);
  loop::Interpret(kernel, Pointers(expected).data(), precision);
  CheckCompiled(compiler, cpu::Sizes::kOpen, kernel, expected, options, "open");
}

GuardedBuffer::GuardedBuffer(int64_t bytes, Flush flush) : bytes_(bytes) {
  const int64_t inside = (bytes + kPage - 1) / kPage * kPage + kPage;
  map_bytes_ = inside + 2 * kPage;
  map_ = mmap(nullptr, map_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* start = static_cast<char*>(map_) + kPage;
  if (map_ == MAP_FAILED || mprotect(start, inside, PROT_READ | PROT_WRITE) != 0) std::abort();
  data_ = flush == Flush::kAtStart ? start : start + inside - bytes;
}

GuardedBuffer::~GuardedBuffer() { munmap(map_, map_bytes_); }

void FillRandom(DType dtype, void* data, int64_t count, uint64_t seed, bool specials, double scale) {
  std::mt19937_64 random(seed);
  char* at = static_cast<char*>(data);
  const int64_t bytes = loop::DTypeBytes(dtype);
  for (int64_t i = 0; i < count; ++i, at += bytes) {
    if (dtype == DType::kBool) {
      *at = static_cast<char>(random() & 1);
    } else if (HoldsFloat(dtype)) {
      const double value = RandomFloat(random, specials) * scale;
      const float single = static_cast<float>(value);
      const uint16_t half = dtype == DType::kFloat16 ? loop::FloatToFloat16(single) : loop::FloatToBFloat16(single);
      std::memcpy(at,
                  bytes == 2   ? static_cast<const void*>(&half)
                  : bytes == 4 ? &single
                               : static_cast<const void*>(&value),
                  bytes);
    } else {
      const uint64_t bits = random();
      const int64_t value = bits & 1 ? static_cast<int64_t>(random()) : static_cast<int64_t>(random() % 21) - 10;
      std::memcpy(at, &value, bytes);
    }
  }
}

std::vector<CodegenOptions::IsaChoice> RunnableIsas() {
  std::vector<CodegenOptions::IsaChoice> out = {CodegenOptions::IsaChoice::kAvx2};
  const auto best = cpu::DetectIsa();
  if (best.ok() && *best != cpu::Isa::kAvx2) out.push_back(CodegenOptions::IsaChoice::kAvx512);
  if (best.ok() && *best == cpu::Isa::kAvx512Vnni) out.push_back(CodegenOptions::IsaChoice::kAvx512Vnni);
  return out;
}

const char* NameOf(CodegenOptions::IsaChoice isa) {
  switch (isa) {
    case CodegenOptions::IsaChoice::kDetect:
      return "detected";
    case CodegenOptions::IsaChoice::kAvx2:
      return "avx2";
    case CodegenOptions::IsaChoice::kAvx512:
      return "avx512";
    case CodegenOptions::IsaChoice::kAvx512Vnni:
      return "avx512_vnni";
  }
  return "";
}

void CheckKernel(const Kernel& kernel, const CheckOptions& options) {
  const auto precision = options.ulps > 0 ? loop::Precision::kExact : loop::Precision::kAsTyped;
  const Buffers expected = Allocate(kernel, GuardedBuffer::Flush::kAtEnd, options);
  loop::Interpret(kernel, Pointers(expected).data(), precision);
  for (const CodegenOptions::IsaChoice isa : RunnableIsas()) {
    CodegenOptions codegen;
    codegen.isa = isa;
    KernelCompiler compiler(codegen);
    CheckCompiled(compiler, cpu::Sizes::kClosed, kernel, expected, options, NameOf(isa));
    CompileLonger(compiler, kernel);
    CheckCompiled(compiler, cpu::Sizes::kOpen, kernel, expected, options, absl::StrCat(NameOf(isa), ", open"));
    if (::testing::Test::HasFailure()) return;
  }
}

Kernel MustFinish(KernelBuilder builder) {
  absl::StatusOr<Kernel> kernel = std::move(builder).Finish();
  if (kernel.ok()) return *std::move(kernel);
  ADD_FAILURE() << kernel.status();
  return Kernel{{{1}}, {}, {}, {}};
}

std::vector<int64_t> Contiguous(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * sizes[d];
  return strides;
}

double UlpError(DType dtype, double got, long double exact) {
  const int digits = dtype == DType::kFloat64 ? 53 : dtype == DType::kFloat16 ? 11 : dtype == DType::kBFloat16 ? 8 : 24;
  const int least = dtype == DType::kFloat64    ? -1074
                    : dtype == DType::kFloat16  ? -24
                    : dtype == DType::kBFloat16 ? -133
                                                : -149;
  if (std::isnan(got) && std::isnan(exact)) return 0;
  if (std::isinf(got)) {
    // An infinity is as far off as the next power of two beyond the largest number would be.
    const double largest =
        dtype == DType::kFloat64 ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
    if (std::isinf(exact)) return (got > 0) == (exact > 0) ? 0 : INFINITY;
    return std::fabs(exact) > static_cast<long double>(largest) ? 0 : INFINITY;
  }
  if (std::isinf(exact)) return INFINITY;
  int exponent = 0;
  std::frexp(exact, &exponent);
  const long double ulp = std::ldexp(1.0L, std::max(exponent - digits, least));
  return static_cast<double>(std::fabs(static_cast<long double>(got) - exact) / ulp);
}

}  // namespace framejit::testing
