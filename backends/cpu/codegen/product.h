// Matrix products of float32 whose shapes and strides are known when they are compiled: C = A B, or C = A B + D, for a
// batch of matrices. Scheduling over threads is the caller's.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_PRODUCT_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_PRODUCT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backends/cpu/codegen/product_tiles.h"

namespace framejit::cpu {

struct Product {
  // Elements from one matrix, row and column to the next.
  struct Strides {
    int64_t batch = 0, row = 0, column = 0;
  };
  int64_t batch = 1;
  int64_t rows = 1, columns = 1, depth = 1;  // A: rows x depth, B: depth x columns
  Strides a, b;
  std::optional<Strides> addend;  // D, whose columns are contiguous; 0 broadcasts a matrix or a row
  std::string ToString() const;   // "product of 12 [128, 64] x [64, 128], ..."
};
// C is contiguous.

// Whether the code generator has a form for these strides: B contiguous along a row or a column, all of a size that
// displacements reach.
bool HasProductForm(const Product& product);

// Immutable, safe to run from several threads at once.
class CompiledProduct {
 public:
  // `isa`: forced by tests. Requires HasProductForm.
  static absl::StatusOr<std::shared_ptr<const CompiledProduct>> Compile(const Product& product, Isa isa);

  // Work is divided in units, strips of columns of some rows of a matrix; any partition of [0, units()) gives the same
  // result.
  int64_t units() const { return product_.batch * row_groups_ * strips_; }
  // On one thread.
  double nanoseconds() const { return nanoseconds_; }
  void Run(const float* a, const float* b, const float* addend, float* c, int64_t begin, int64_t end) const;
  const Product& product() const { return product_; }
  const std::string& schedule() const { return schedule_; }  // for readers

 private:
  enum class Mode : uint8_t {
    kDots,    // B contiguous along its columns, few rows: each element of C is a dot product
    kDirect,  // B contiguous along its rows, few rows: tiles read B where it lies
    kPacked,  // strips of B are packed once for all rows
  };
  // A tile for so many rows, for the first block of the depth (which adds D) and for the others (which add C).
  struct Tiles {
    int rows = 0;
    std::shared_ptr<const TileCode> first, next;
  };
  struct Strip {
    Tiles most, rest;  // rows are cut into tiles of two heights that differ by one
    std::shared_ptr<const TileCode> pack;
    std::vector<std::shared_ptr<const TileCode>> transposes;  // by vector of the strip
  };

  explicit CompiledProduct(const Product& product, Isa isa);
  void Choose();
  absl::Status CompileStrip(int columns, Strip& strip) const;
  absl::StatusOr<Tiles> CompileTiles(int rows, int columns) const;
  void RunUnit(const float* a, const float* b, const float* addend, float* c, int64_t unit, float* packed) const;
  void Pack(const Strip& strip, const float* b, int64_t depth, float* packed) const;

  const Product product_;
  const Isa isa_;
  Mode mode_ = Mode::kPacked;
  int tile_rows_ = 1;  // at most
  int strip_columns_ = 1;
  int64_t strips_ = 1;
  int64_t row_groups_ = 1;
  int64_t depth_block_ = 1;
  double nanoseconds_ = 0;
  std::string schedule_;
  Strip whole_, last_;  // the last strip may be narrower
};

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_PRODUCT_H_
