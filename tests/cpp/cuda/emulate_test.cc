// Generated kernels against the interpreter of the loop IR, without a GPU: a C++ compiler builds them behind
// emulation.h, which runs the threads of a block in turn. That their types and barriers are right for a GPU as well is
// compile_test.cc's matter; how exact CUDA's functions are shows on a GPU alone.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "backends/cuda/codegen/prelude.h"
#include "backends/cuda/codegen/source.h"
#include "backends/loop/builder.h"
#include "backends/loop/interpret.h"
#include "backends/loop/open.h"
#include "backends/loop/schedule.h"
#include "tests/cpp/cuda/kernels.h"
#include "tests/cpp/kernels/kernel_harness.h"

namespace framejit::cuda {
namespace {

using loop::DType;
using loop::Kernel;
using testing::NamedKernel;

struct Emulated {
  std::string name;
  Kernel kernel;  // closed
  LaunchPlan plan;
  KernelSource source;
  std::vector<int64_t> values;  // of the open numbers of the source
};

using Bytes = std::vector<char>;

constexpr size_t kMostArguments = 40;  // as emulation.h

enum class Opened : uint8_t { kNot, kOuter, kAll };

Emulated Make(const NamedKernel& named, int max_vector, Opened opened, PlanChange change = {}) {
  Emulated emulated{named.name, named.kernel, PlanLaunch(named.kernel, max_vector, change), {}, {}};
  const loop::OpenedKernel open =
      opened == Opened::kNot ? loop::OpenedKernel{named.kernel, {}}
                             : loop::Open(named.kernel, PlacesOf(named.kernel, emulated.plan, opened == Opened::kAll));
  emulated.source = GenerateSource(open.kernel, emulated.plan);
  emulated.values = open.values;
  return emulated;
}

// With vectors, and without where that makes a difference.
std::vector<Emulated> Plan(const std::vector<NamedKernel>& kernels, Opened opened = Opened::kNot) {
  std::vector<Emulated> out;
  absl::flat_hash_set<std::string> made;
  for (const NamedKernel& named : kernels) {
    for (const int max_vector : {16, 1}) {
      Emulated emulated = Make(named, max_vector, opened);
      if (made.insert(loop::Print(named.kernel) + emulated.source.entry).second) out.push_back(std::move(emulated));
    }
  }
  return out;
}

// All of them in one library. Misaligned vectors end the program.
void* Build(const std::vector<Emulated>& kernels) {
  static int count = 0;  // a library that is loaded twice is the first one
  const std::string name = absl::StrCat("framejit-emulation-", getpid(), "-", count++);
  const std::string stem = (std::filesystem::temp_directory_path() / name).string();
  std::ofstream file(stem + ".cc");
  file << "#include \"tests/cpp/cuda/emulation.h\"\n" << kPrelude;
  absl::flat_hash_set<std::string> entries;
  for (size_t k = 0; k < kernels.size(); ++k) {
    if (!entries.insert(kernels[k].source.entry).second) continue;
    const std::string& text = kernels[k].source.text;
    file << "namespace k" << k << " {\n" << text.substr(text.find(" Offset;") - 11) << "}\n";
  }
  file.close();
  const std::string command = absl::StrCat(
      FRAMEJIT_CXX, " -std=c++20 -O1 -ffp-contract=off -fsanitize=alignment -fsanitize-undefined-trap-on-error",
      " -w -fPIC -shared -I" FRAMEJIT_SOURCE_DIR " ", stem, ".cc -o ", stem, ".so");
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  void* library = dlopen((stem + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
  EXPECT_NE(library, nullptr) << dlerror();
  std::filesystem::remove(stem + ".cc");
  std::filesystem::remove(stem + ".so");
  return library;
}

std::vector<Bytes> MakeBuffers(const Kernel& kernel) {
  const std::vector<int64_t> elements = loop::BufferElements(kernel);
  std::vector<Bytes> buffers;
  for (size_t b = 0; b < kernel.buffers.size(); ++b) {
    const DType dtype = kernel.buffers[b].dtype;
    buffers.emplace_back(static_cast<size_t>(elements[b] * loop::DTypeBytes(dtype)), char{0x5a});
    if (!kernel.buffers[b].written) {
      testing::FillRandom(dtype, buffers[b].data(), elements[b], b + 1, /*specials=*/!kernel.has_reductions());
    }
  }
  return buffers;
}

// The buffers of a launch: aligned as torch's allocator aligns, or one element off.
struct Memory {
  Memory(const Kernel& kernel, const std::vector<Bytes>& content, bool aligned) {
    for (size_t b = 0; b < content.size(); ++b) {
      const size_t off = aligned ? 0 : static_cast<size_t>(loop::DTypeBytes(kernel.buffers[b].dtype));
      blocks.emplace_back(content[b].size() + 64);
      char* start = blocks[b].data();
      start += (64 - reinterpret_cast<uintptr_t>(start) % 64) % 64 + off;
      if (start + content[b].size() > blocks[b].data() + blocks[b].size()) start -= 64;
      std::memcpy(start, content[b].data(), content[b].size());
      pointers.push_back(start);
    }
    pointers.resize(kMostArguments, nullptr);
  }
  // Behind the buffers.
  void Add(const std::vector<int64_t>& values) {
    for (size_t i = 0; i < values.size(); ++i) pointers[blocks.size() + i] = reinterpret_cast<void*>(values[i]);
  }
  std::vector<Bytes> blocks;
  std::vector<void*> pointers;
};

double Read(DType dtype, const char* at) {
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

// Of a result of `magnitude` that differs: sums are added in another order, functions are the C library's.
bool IsClose(DType dtype, double got, double expected, double magnitude) {
  if (!HoldsFloat(dtype)) return false;
  if (std::isnan(got) || std::isnan(expected)) return std::isnan(got) && std::isnan(expected);
  const double relative = dtype == DType::kBFloat16  ? 1.0 / 128
                          : dtype == DType::kFloat16 ? 1.0 / 1024
                          : dtype == DType::kFloat32 ? 2e-6
                                                     : 1e-14;
  return got == expected || std::fabs(got - expected) <= relative * magnitude;
}

double LargestOf(DType dtype, const Bytes& values) {
  double largest = 0;
  for (size_t at = 0; at < values.size(); at += static_cast<size_t>(loop::DTypeBytes(dtype))) {
    const double value = std::fabs(Read(dtype, &values[at]));
    if (std::isfinite(value)) largest = std::max(largest, value);
  }
  return largest;
}

void Compare(const Emulated& emulated, const Memory& got, const std::vector<Bytes>& expected) {
  for (size_t b = 0; b < expected.size(); ++b) {
    const DType dtype = emulated.kernel.buffers[b].dtype;
    const size_t bytes = static_cast<size_t>(loop::DTypeBytes(dtype));
    const char* actual = static_cast<const char*>(got.pointers[b]);
    const bool reduces = emulated.kernel.has_reductions();
    const double largest = reduces && HoldsFloat(dtype) ? LargestOf(dtype, expected[b]) : 0;
    for (size_t at = 0; at < expected[b].size(); at += bytes) {
      if (std::memcmp(actual + at, &expected[b][at], bytes) == 0) continue;
      const double value = Read(dtype, actual + at), wanted = Read(dtype, &expected[b][at]);
      if (IsClose(dtype, value, wanted, reduces ? largest : std::max(1e-3, std::fabs(wanted)))) continue;
      ADD_FAILURE() << emulated.name << ": b" << b << "[" << at / bytes << "] is " << value << ", expected " << wanted
                    << "\n"
                    << Print(emulated.plan) << "\n"
                    << loop::Print(emulated.kernel);
      return;
    }
  }
}

void CheckAll(const std::vector<Emulated>& kernels) {
  using Emulate = void (*)(void*, void**, long long, unsigned, unsigned);
  void* library = Build(kernels);
  ASSERT_NE(library, nullptr);
  const auto emulate = reinterpret_cast<Emulate>(dlsym(library, "Emulate"));
  for (const Emulated& e : kernels) {
    void* function = dlsym(library, e.source.entry.c_str());
    ASSERT_NE(function, nullptr) << e.name;
    ASSERT_LE(e.kernel.buffers.size() + e.values.size(), kMostArguments) << e.name;
    std::vector<Bytes> content = MakeBuffers(e.kernel);
    Memory memory(e.kernel, content, /*aligned=*/e.plan.vector > 1);
    memory.Add(e.values);
    std::vector<void*> pointers;
    for (Bytes& buffer : content) pointers.push_back(buffer.data());
    const auto precision = e.kernel.has_reductions() ? loop::Precision::kExact : loop::Precision::kAsTyped;
    loop::Interpret(e.kernel, pointers.data(), precision);
    const int above = e.plan.spread == Spread::kColumns ? e.plan.lanes : e.plan.rows_per_block;
    emulate(function, memory.pointers.data(), e.plan.blocks, static_cast<unsigned>(e.plan.threads / above),
            static_cast<unsigned>(above));
    Compare(e, memory, content);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(EmulateTest, Operators) { CheckAll(Plan(testing::OperatorKernels())); }
TEST(EmulateTest, Casts) { CheckAll(Plan(testing::CastKernels())); }
TEST(EmulateTest, Layouts) { CheckAll(Plan(testing::LayoutKernels())); }
TEST(EmulateTest, Reductions) { CheckAll(Plan(testing::ReductionKernels())); }
TEST(EmulateTest, LongKernels) { CheckAll(Plan(testing::LongKernels())); }
// Every plan that may be measured, but the cost model's own.
TEST(EmulateTest, ChangedPlans) {
  std::vector<Emulated> changed;
  for (const std::vector<NamedKernel>& kernels :
       {testing::LayoutKernels(), testing::ReductionKernels(), testing::LongKernels()}) {
    for (const NamedKernel& named : kernels) {
      const std::vector<PlanChange> changes = ChangesToTry(named.kernel);
      for (size_t c = 1; c < changes.size(); ++c) {
        changed.push_back(Make(named, 16, Opened::kNot, changes[c]));
      }
    }
  }
  EXPECT_GT(changed.size(), 100u);
  CheckAll(changed);
}

TEST(EmulateTest, OpenLongKernels) { CheckAll(Plan(testing::LongKernels(), Opened::kAll)); }
TEST(EmulateTest, OpenLayouts) { CheckAll(Plan(testing::LayoutKernels(), Opened::kAll)); }
TEST(EmulateTest, OpenRows) { CheckAll(Plan(testing::ReductionKernels(), Opened::kOuter)); }
TEST(EmulateTest, OpenReductions) { CheckAll(Plan(testing::ReductionKernels(), Opened::kAll)); }

// `make`, of 50 sizes: 1, what is around vectors and warps, primes and others. Sources that are not the same text
// differ in how they are launched.
void CheckSizes(const std::string& name, loop::Kernel (*make)(int64_t), size_t most) {
  std::vector<Emulated> kernels;
  absl::flat_hash_set<std::string> texts;
  for (int64_t i = 1; i <= 50; ++i) {
    const int64_t size = i <= 34 ? i : i * i * i / 125;
    Kernel kernel = make(size);
    Canonicalize(kernel);
    kernels.push_back(Make({absl::StrCat(name, size), std::move(kernel)}, 16, Opened::kAll));
    texts.insert(kernels.back().source.text);
  }
  EXPECT_LE(texts.size(), most) << name;
  CheckAll(kernels);
}

TEST(EmulateTest, OneSourceForManySizes) {
  const auto bias = [](int64_t rows) {
    loop::KernelBuilder b({2, rows, 48});
    const loop::ValueId x = b.Load(b.AddInput(DType::kFloat32), {(rows + 1) * 48, 48, 1});
    const loop::ValueId y = b.Load(b.AddInput(DType::kFloat32), {0, 0, 1});
    b.Store(b.AddOutput(DType::kFloat32), {48, 96, 1}, b.Binary(loop::Op::kAdd, x, y));
    return testing::MustFinish(std::move(b));
  };
  CheckSizes("rows", bias, 2);
  const auto softmax = [](int64_t columns) {
    loop::KernelBuilder b({6, columns});
    const loop::ValueId x = b.Load(b.AddInput(DType::kFloat32), {columns, 1});
    const loop::ValueId rest = b.Binary(loop::Op::kSub, x, b.Reduce(loop::Op::kReduceMax, x));
    const loop::ValueId power = b.Unary(loop::Op::kExpNonPositive, rest);
    b.Store(b.AddOutput(DType::kFloat32), {columns, 1},
            b.Binary(loop::Op::kDiv, power, b.Reduce(loop::Op::kReduceSum, power)));
    return testing::MustFinish(std::move(b));
  };
  CheckSizes("softmax", softmax, 30);
}

// The logarithm of the sum of exponentials of rows too long for registers, whose sum is scaled where a larger value
// comes: rows that rise and fall, and with numbers that are not finite.
TEST(EmulateTest, SumsOfExponentialsInOnePass) {
  constexpr int64_t kRows = 6, kWidth = 40960;
  loop::KernelBuilder b({kRows, kWidth});
  const loop::ValueId x = b.Load(b.AddInput(DType::kFloat32), {kWidth, 1});
  const loop::ValueId rest = b.Binary(loop::Op::kSub, x, b.Reduce(loop::Op::kReduceMax, x));
  const loop::ValueId sum = b.Reduce(loop::Op::kReduceSum, b.Unary(loop::Op::kExpNonPositive, rest));
  const loop::ValueId position = b.Cast(DType::kInt32, b.Index(1));
  const loop::ValueId here = b.Binary(loop::Op::kEq, position, b.ConstInt(DType::kInt32, 4321));
  const loop::ValueId result = b.Binary(loop::Op::kSub, rest, b.Unary(loop::Op::kLog, sum));
  b.Store(b.AddOutput(DType::kFloat32), {1, 0}, b.PickElement(result, here));
  absl::StatusOr<Kernel> kernel = std::move(b).Finish();
  ASSERT_TRUE(kernel.ok()) << kernel.status();
  EXPECT_EQ(loop::MakeSchedule(*kernel, 0).passes.size(), 3u);  // the last has row values alone
  const std::vector<Emulated> planned = Plan({{"log_softmax", *kernel}});
  void* library = Build(planned);
  ASSERT_NE(library, nullptr);
  std::vector<float> values(kRows * kWidth);
  for (int64_t i = 0; i < kWidth; ++i) {
    const auto at = [&](int64_t row) -> float& { return values[static_cast<size_t>(row * kWidth + i)]; };
    at(0) = static_cast<float>(i) * 1e-2f;
    at(1) = static_cast<float>(kWidth - i) * 1e-2f;
    at(2) = i == 4321 || i == 40000 ? 1.0f : -INFINITY;
    at(3) = -INFINITY;
    at(4) = i == 77 ? INFINITY : std::sin(static_cast<float>(i));
    at(5) = i == 77 ? NAN : 1.0f;
  }
  const double expected[kRows] = {(4321 - (kWidth - 1)) * 1e-2 - std::log(1 / (1 - std::exp(-1e-2))),
                                  -4321e-2 - std::log(1 / (1 - std::exp(-1e-2))),
                                  -std::log(2.0),
                                  NAN,
                                  NAN,
                                  NAN};
  for (const Emulated& e : planned) {
    EXPECT_FALSE(e.plan.resident);
    EXPECT_TRUE(absl::StrContains(e.source.text, "Finite(most)"));
    std::vector<float> got(kRows);
    std::vector<void*> buffers(kMostArguments, nullptr);
    buffers[0] = values.data(), buffers[1] = got.data();
    const auto emulate =
        reinterpret_cast<void (*)(void*, void**, long long, unsigned, unsigned)>(dlsym(library, "Emulate"));
    emulate(dlsym(library, e.source.entry.c_str()), buffers.data(), e.plan.blocks,
            static_cast<unsigned>(e.plan.threads / e.plan.rows_per_block),
            static_cast<unsigned>(e.plan.rows_per_block));
    for (int64_t row = 0; row < kRows; ++row) {
      const double value = static_cast<double>(got[static_cast<size_t>(row)]);
      EXPECT_TRUE(IsClose(DType::kFloat32, value, expected[row], 512)) << row << ": " << value;
    }
  }
}

}  // namespace
}  // namespace framejit::cuda
