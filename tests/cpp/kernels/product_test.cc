// Matrix products against sums in double precision, behind guard pages, for both instruction sets, in one piece and
// unit by unit.
#include "backends/cpu/codegen/product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>
#include <string>

#include "backends/cpu/codegen/kernel_compiler.h"
#include "tests/cpp/kernels/kernel_harness.h"

namespace framejit::testing {
namespace {

using cpu::CompiledProduct;
using cpu::Isa;
using cpu::Product;

enum class Layout : uint8_t { kRows, kColumns, kSliced };  // row-major, column-major, rows that are apart

// Strides of a batch of matrices that lie behind one another, and the elements they span.
Product::Strides Lay(Layout layout, int64_t batch, int64_t rows, int64_t columns, int64_t& elements) {
  Product::Strides s;
  s.row = layout == Layout::kColumns ? 1 : columns + (layout == Layout::kSliced ? 3 : 0);
  s.column = layout == Layout::kColumns ? rows : 1;
  s.batch = layout == Layout::kColumns ? rows * columns : rows * s.row;
  elements = (batch - 1) * s.batch + (rows - 1) * s.row + (columns - 1) * s.column + 1;
  return s;
}

struct Case {
  int64_t batch, rows, columns, depth;
  Layout a, b;
  int addend = 0;  // 0: none, 1: a row, 2: a matrix
};

void Fill(GuardedBuffer& buffer, uint64_t seed, double special) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  auto* at = static_cast<float*>(buffer.data());
  const int64_t count = buffer.bytes() / 4;
  for (int64_t i = 0; i < count; ++i) at[i] = normal(random);
  if (special != 0) at[random() % static_cast<uint64_t>(count)] = static_cast<float>(special);
}

// `special`: put once into A and B.
void Check(const Case& c, double special = 0) {
  Product p;
  p.batch = c.batch, p.rows = c.rows, p.columns = c.columns, p.depth = c.depth;
  int64_t a_size = 0, b_size = 0, d_size = 1;
  p.a = Lay(c.a, c.batch, c.rows, c.depth, a_size);
  p.b = Lay(c.b, c.batch, c.depth, c.columns, b_size);
  if (c.addend == 1) {
    p.addend = Product::Strides{0, 0, 1};
    d_size = c.columns;
  } else if (c.addend == 2) {
    p.addend = Lay(Layout::kSliced, c.batch, c.rows, c.columns, d_size);
  }
  SCOPED_TRACE(p.ToString());
  ASSERT_TRUE(cpu::HasProductForm(p));
  for (CodegenOptions::IsaChoice choice : RunnableIsas()) {
    const Isa isa = choice == CodegenOptions::IsaChoice::kAvx2 ? Isa::kAvx2 : Isa::kAvx512;
    auto compiled = CompiledProduct::Compile(p, isa);
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    SCOPED_TRACE((*compiled)->schedule());
    for (auto flush : {GuardedBuffer::Flush::kAtEnd, GuardedBuffer::Flush::kAtStart}) {
      GuardedBuffer a(a_size * 4, flush), b(b_size * 4, flush), d(d_size * 4, flush);
      GuardedBuffer out(p.batch * p.rows * p.columns * 4, flush), again(out.bytes(), flush);
      Fill(a, 1, special), Fill(b, 2, special), Fill(d, 3, 0);
      const auto* pa = static_cast<const float*>(a.data());
      const auto* pb = static_cast<const float*>(b.data());
      const auto* pd = c.addend != 0 ? static_cast<const float*>(d.data()) : nullptr;
      auto* po = static_cast<float*>(out.data());
      const int64_t units = (*compiled)->units();
      (*compiled)->Run(pa, pb, pd, po, 0, units);
      for (int64_t u = units; u-- > 0;) (*compiled)->Run(pa, pb, pd, static_cast<float*>(again.data()), u, u + 1);
      EXPECT_EQ(std::memcmp(out.data(), again.data(), static_cast<size_t>(out.bytes())), 0);
      for (int64_t m = 0; m < p.batch; ++m) {
        for (int64_t i = 0; i < p.rows; ++i) {
          for (int64_t j = 0; j < p.columns; ++j) {
            double sum = 0, magnitude = 0;
            for (int64_t k = 0; k < p.depth; ++k) {
              const double term = static_cast<double>(pa[m * p.a.batch + i * p.a.row + k * p.a.column]) *
                                  pb[m * p.b.batch + k * p.b.row + j * p.b.column];
              sum += term;
              magnitude += std::abs(term);
            }
            if (pd != nullptr) sum += pd[m * p.addend->batch + i * p.addend->row + j];
            const float got = po[(m * p.rows + i) * p.columns + j];
            if (std::isfinite(sum)) {
              // Rounding errors of a sum that is cut into blocks: well below that of one chain.
              const double steps = 4 + std::min<double>(static_cast<double>(p.depth), 260);
              EXPECT_LE(std::abs(got - sum), steps * 0x1p-25 * (magnitude + std::abs(sum)) + 1e-6)
                  << m << " " << i << " " << j;
            } else {
              EXPECT_TRUE(std::isnan(sum) ? std::isnan(got) : got == static_cast<float>(sum))
                  << got << " for " << sum << " at " << m << " " << i << " " << j;
            }
          }
        }
      }
    }
  }
}

TEST(Product, FewRows) {
  for (int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 13, 16}) {
    for (int64_t columns : {1, 3, 8, 15, 16, 50, 137}) {
      for (int64_t depth : {1, 5, 16, 33, 300}) {
        for (Layout b : {Layout::kRows, Layout::kColumns, Layout::kSliced}) {
          Check({1, rows, columns, depth, Layout::kRows, b, static_cast<int>((rows + columns + depth) % 3)});
        }
      }
    }
  }
}

TEST(Product, ManyRows) {
  for (int64_t rows : {20, 41, 64, 97}) {
    for (int64_t columns : {1, 31, 64, 100, 145}) {
      for (int64_t depth : {3, 64, 257, 513}) {
        const auto layout = rows % 2 == 0 ? Layout::kColumns : Layout::kSliced;
        Check({1, rows, columns, depth, layout, Layout::kColumns, static_cast<int>(rows % 3)});
        Check({1, rows, columns, depth, Layout::kRows, Layout::kSliced, static_cast<int>(columns % 3)});
      }
    }
  }
}

TEST(Product, RowsInGroups) {
  for (int64_t rows : {288, 299, 433}) Check({1, rows, 20, 270, Layout::kRows, Layout::kColumns, 1});
  Check({2, 300, 17, 9, Layout::kColumns, Layout::kRows, 2});
}

TEST(Product, Batches) {
  for (int64_t rows : {1, 4, 8, 32, 50}) {
    for (Layout b : {Layout::kRows, Layout::kColumns}) {
      Check({3, rows, 20, 33, Layout::kRows, b, 2});
      Check({5, rows, 5, 8, Layout::kSliced, b, 1});
    }
  }
}

// 0 * inf is NaN, and lanes outside the matrices bring nothing in.
TEST(Product, SpecialValues) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (double special : {infinity, -infinity, std::numeric_limits<double>::quiet_NaN()}) {
    for (int64_t rows : {1, 4, 50}) {
      for (Layout b : {Layout::kRows, Layout::kColumns}) Check({1, rows, 21, 35, Layout::kRows, b, 1}, special);
    }
  }
}

TEST(Product, FormsThatThereAre) {
  Product p;
  p.rows = p.columns = p.depth = 4;
  p.a = {0, 4, 1};
  p.b = {0, 8, 2};
  EXPECT_FALSE(cpu::HasProductForm(p));  // neither side of B lies together
  p.b = {0, cpu::kMaxTileStride + 1, 1};
  EXPECT_FALSE(cpu::HasProductForm(p));
  p.b = {0, 4, 1};
  EXPECT_TRUE(cpu::HasProductForm(p));
  p.addend = Product::Strides{0, 1, 4};
  EXPECT_FALSE(cpu::HasProductForm(p));
  p.addend.reset();
  p.depth = 0;
  EXPECT_FALSE(cpu::HasProductForm(p));
}

// Which library computes large products goes by the vendor, as Linux names it.
TEST(Product, KnowsTheVendor) {
  std::ifstream info("/proc/cpuinfo");
  std::string line, vendor;
  while (vendor.empty() && std::getline(info, line)) {
    if (line.starts_with("vendor_id")) vendor = line.substr(line.find(':') + 2);
  }
  ASSERT_NE(vendor, "");
  EXPECT_EQ(cpu::IsIntelCpu(), vendor == "GenuineIntel");
}

}  // namespace
}  // namespace framejit::testing
