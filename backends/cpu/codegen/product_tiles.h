// Machine code of the inner loops of matrix products of float32: a tile of C from a strip of A and a strip of B, and
// the packing of B into strips. What is called for which part of a product, and where blocks of the depth begin, is the
// caller's (product.h).
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_PRODUCT_TILES_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_PRODUCT_TILES_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "backends/cpu/codegen/kernel_compiler.h"

namespace framejit::cpu {

// Largest stride of a tile, in elements: displacements of 32 bits reach every row of it.
inline constexpr int64_t kMaxTileStride = int64_t{1} << 24;

// What a piece of code does; strides are in elements.
struct TileSpec {
  enum class Kind : uint8_t {
    kColumns,    // C[r, 0 : columns] = sum over k of A[r, k] * B[k, 0 : columns]; B contiguous along the columns
    kDots,       // the same, B contiguous along k: b_stride is that of its columns
    kCopy,       // c[k, 0 : padded] = b[k, 0 : columns]
    kTranspose,  // c[k, 0 : lanes] = b[0 : columns, k]; b_stride is that of b's rows. A multiple of `lanes` rows of c
                 // is written.
  };
  enum class Addend : uint8_t { kNone, kRows };  // kRows: C = product + addend[r, 0 : columns]
  Kind kind = Kind::kColumns;
  Isa isa = Isa::kAvx2;
  int rows = 1;
  int columns = 1;
  Addend addend = Addend::kNone;
  int64_t a_row = 0;
  int64_t a_depth = 1;  // kDots: 1
  int64_t b_stride = 0;
  int64_t c_row = 0;  // kCopy, kTranspose: a multiple of the lanes
  int64_t addend_row = 0;
  bool padded = false;  // kColumns: rows of B are whole vectors, zeros or not behind `columns`
  bool operator==(const TileSpec&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const TileSpec& s) {
    return H::combine(std::move(h), s.kind, s.isa, s.rows, s.columns, s.addend, s.a_row, s.a_depth, s.b_stride, s.c_row,
                      s.addend_row, s.padded);
  }
};

// Whether a tile of so many rows and columns fits the registers.
bool FitsRegisters(TileSpec::Kind kind, Isa isa, int rows, int columns);

// Machine code for one spec. Immutable; lives as long as someone holds it.
class TileCode {
 public:
  virtual ~TileCode() = default;
  // kCopy and kTranspose use b, c and depth alone.
  void Run(const float* a, const float* b, const float* addend, float* c, int64_t depth) const {
    function_(a, b, addend, c, depth);
  }

 protected:
  using Function = void (*)(const float* a, const float* b, const float* addend, float* c, int64_t depth);
  Function function_ = nullptr;
};

// Thread-safe; equal specs share their code.
absl::StatusOr<std::shared_ptr<const TileCode>> CompileTile(const TileSpec& spec);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_PRODUCT_TILES_H_
