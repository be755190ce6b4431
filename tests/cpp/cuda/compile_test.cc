// Generated CUDA C++ compiles for each architecture, errors carry log and source, and compiled code survives on disk.
// NVRTC is the one of the package nvidia-cuda-nvrtc (requirements/test.txt): no GPU is needed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "backends/cuda/codegen/cubin_cache.h"
#include "backends/cuda/codegen/nvrtc.h"
#include "backends/cuda/codegen/source.h"
#include "tests/cpp/cuda/kernels.h"

namespace framejit::cuda {
namespace {

using testing::NamedKernel;

const Nvrtc& TheNvrtc() {
  static const Nvrtc* nvrtc = [] {
    auto opened = Nvrtc::Open({FRAMEJIT_TEST_NVRTC});
    if (!opened.ok()) {
      ADD_FAILURE() << opened.status() << "\nThe tests need the package nvidia-cuda-nvrtc (requirements/test.txt).";
      std::exit(1);
    }
    return opened->release();
  }();
  return *nvrtc;
}

// Many kernels make one program: their preludes are one.
std::string OneProgram(const std::vector<NamedKernel>& kernels, int max_vector) {
  std::string all;
  for (const NamedKernel& named : kernels) {
    const KernelSource source = GenerateSource(named.kernel, PlanLaunch(named.kernel, max_vector));
    const size_t body = source.text.find("typedef int Offset;");
    EXPECT_NE(body, std::string::npos) << named.name;
    if (all.empty()) all = source.text.substr(0, body);
    absl::StrAppend(&all, "namespace ", "k", &named - kernels.data(), " {\n", source.text.substr(body), "}\n");
  }
  return all;
}

class CompileTest : public ::testing::TestWithParam<int> {};

TEST_P(CompileTest, EveryKernel) {
  for (const int max_vector : {16, 1}) {
    for (const std::vector<NamedKernel>& kernels :
         {testing::OperatorKernels(), testing::CastKernels(), testing::LayoutKernels(), testing::LongKernels(),
          testing::ReductionKernels()}) {
      ASSERT_FALSE(kernels.empty());
      const auto cubin = TheNvrtc().Compile(OneProgram(kernels, max_vector), Architecture{GetParam()});
      ASSERT_TRUE(cubin.ok()) << cubin.status();
      EXPECT_EQ(cubin->substr(0, 4),
                "\x7f"
                "ELF");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, CompileTest, ::testing::Values(80, 90));

TEST(NvrtcTest, ErrorsCarryLogAndNumberedSource) {
  const auto broken = TheNvrtc().Compile("int x;\nint y = nowhere;\n", Architecture{90});
  EXPECT_EQ(broken.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(broken.status().message(), "\"nowhere\" is undefined")) << broken.status();
  EXPECT_TRUE(absl::StrContains(broken.status().message(), "2: int y = nowhere;")) << broken.status();
}

TEST(NvrtcTest, UnknownArchitecturesAreNamed) {
  const auto unknown = TheNvrtc().Compile("", Architecture{35});
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(absl::StrContains(unknown.status().message(), "sm_35")) << unknown.status();
}

TEST(NvrtcTest, MissingLibrariesAreNamed) {
  const auto missing = Nvrtc::Open({"libnowhere.so", "libc.so.6"});
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(missing.status().message(), "libnowhere.so")) << missing.status();
  EXPECT_TRUE(absl::StrContains(missing.status().message(), "libc.so.6 has no nvrtc")) << missing.status();
}

TEST(NvrtcTest, ThreadsCompileSideBySide) {
  std::vector<std::thread> threads;
  std::vector<bool> done(4);
  for (size_t t = 0; t < done.size(); ++t) {
    threads.emplace_back([&done, t] {
      const std::string source = absl::StrCat("extern \"C\" __global__ void f(int* x) { *x = ", t, "; }");
      done[t] = TheNvrtc().Compile(source, Architecture{90}).ok();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(done, std::vector<bool>(4, true));
}

// --- the cache ---

class CacheTest : public ::testing::Test {
 protected:
  CacheTest() : folder_(std::filesystem::temp_directory_path() / absl::StrCat("framejit-cache-", ::getpid())) {}
  ~CacheTest() override { std::filesystem::remove_all(folder_); }
  CubinCache Cache() const { return CubinCache((folder_ / "cubins").string()); }
  static std::string Read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void Write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }
  const std::filesystem::path folder_;
  const std::string code_ = std::string(
      "\x7f"
      "ELF\0code\n\n",
      10);
};

TEST_F(CacheTest, KeepsWhatWasPut) {
  EXPECT_FALSE(Cache().Get("a").has_value());
  EXPECT_TRUE(Cache().Put("a", code_).ok());
  EXPECT_TRUE(Cache().Put("b", "other").ok());
  EXPECT_EQ(Cache().Get("a"), code_);
  EXPECT_EQ(Cache().Get("b"), "other");
  EXPECT_FALSE(Cache().Get("c").has_value());
}

TEST_F(CacheTest, DamagedFilesAreNotUsedAndMadeAgain) {
  ASSERT_TRUE(Cache().Put("key", code_).ok());
  const std::string path = Cache().PathOf("key"), whole = Read(path);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    Write(path, damaged);
    EXPECT_FALSE(Cache().Get("key").has_value()) << "byte " << at;
    Write(path, whole.substr(0, at));
    EXPECT_FALSE(Cache().Get("key").has_value()) << "the first " << at << " bytes";
  }
  ASSERT_TRUE(Cache().Put("key", code_).ok());
  EXPECT_EQ(Cache().Get("key"), code_);
}

TEST_F(CacheTest, AnotherKeyInTheSamePlaceIsNotUsed) {
  ASSERT_TRUE(Cache().Put("key", code_).ok());
  std::filesystem::rename(Cache().PathOf("key"), Cache().PathOf("yek"));
  EXPECT_FALSE(Cache().Get("yek").has_value());
}

TEST_F(CacheTest, FoldersThatCannotBeWrittenAreReported) {
  std::filesystem::create_directories(folder_);
  Write((folder_ / "cubins").string(), "a file");
  EXPECT_EQ(Cache().Put("key", code_).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(Cache().Get("key").has_value());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(CacheTest, WritersDoNotDisturbReaders) {
  std::vector<std::thread> threads;
  ASSERT_TRUE(Cache().Put("key", code_).ok());
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        if (t % 2 == 0)
          ASSERT_TRUE(Cache().Put("key", code_).ok());
        else
          EXPECT_EQ(Cache().Get("key"), code_);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_ / "cubins"), {}), 1);
}

}  // namespace
}  // namespace framejit::cuda
