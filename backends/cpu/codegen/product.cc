// See product.h: which tiles a product is cut into, and the loops around them.
#include "backends/cpu/codegen/product.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "backends/cpu/codegen/simd.h"

namespace framejit::cpu {
namespace {

// Products of neighbouring steps of the depth are added up in one register; sums of at most so many steps are then
// added to what the steps before gave. MKL cuts where its error says that it does so, too: with 256 it is half as large
// again for depths of 200 and 256, with 192 the same (tests/python/kernels/test_products.py).
constexpr int64_t kDepthBlock = 192;
// A strip of B, packed: widest strip times longest block, with the transposition's surplus.
constexpr int64_t kPackedElements = 64 * (kDepthBlock + 16);
// With as many rows as this, packing a strip of B pays (measured with benchmarks/products.py).
constexpr int64_t kPackRowsOfDots = 20;
constexpr int64_t kPackRowsOfColumns = 40;
// Rows of a matrix are divided only where there are fewer strips than this, into groups that use what they pack often
// (and of so many tiles that two heights make up any number of rows).
constexpr int64_t kFewStrips = 8;
constexpr int64_t kGroupRows = 144;
// Rough rates of one core, for deciding how many threads work.
constexpr double kFlopsPerNanosecond = 160;
constexpr double kBytesPerNanosecond = 60;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The widest strip, a multiple of the vector length, that fits the registers with so many rows.
int WidestStrip(Isa isa, int rows, int most_vectors, int most_accumulators) {
  int columns = LanesOf(isa);
  for (int v = 2; v <= most_vectors && v * rows <= most_accumulators; ++v) {
    if (FitsRegisters(TileSpec::Kind::kColumns, isa, rows, v * LanesOf(isa))) columns = v * LanesOf(isa);
  }
  return columns;
}

std::string StridesText(const Product::Strides& s) {
  return absl::StrCat("(", s.batch, ", ", s.row, ", ", s.column, ")");
}

bool InReach(const Product::Strides& s) {
  const auto ok = [](int64_t stride) { return stride >= 0 && stride <= kMaxTileStride; };
  return s.batch >= 0 && ok(s.row) && ok(s.column);
}

}  // namespace

std::string Product::ToString() const {
  std::string text = absl::StrCat("product of ", batch, " [", rows, ", ", depth, "] ", StridesText(a), " x [", depth,
                                  ", ", columns, "] ", StridesText(b));
  if (addend.has_value()) absl::StrAppend(&text, " + ", StridesText(*addend));
  return text;
}

bool HasProductForm(const Product& product) {
  const bool b_lies = product.b.column == 1 || product.b.row == 1;
  const bool d_lies = !product.addend.has_value() || (product.addend->column == 1 && InReach(*product.addend));
  return product.batch > 0 && product.rows > 0 && product.columns > 0 && product.depth > 0 && b_lies && d_lies &&
         InReach(product.a) && InReach(product.b) && product.columns <= kMaxTileStride;
}

CompiledProduct::CompiledProduct(const Product& product, Isa isa) : product_(product), isa_(isa) {}

absl::StatusOr<std::shared_ptr<const CompiledProduct>> CompiledProduct::Compile(const Product& product, Isa isa) {
  std::shared_ptr<CompiledProduct> compiled(new CompiledProduct(product, isa));
  compiled->Choose();
  const int narrow = static_cast<int>(product.columns - (compiled->strips_ - 1) * compiled->strip_columns_);
  if (compiled->strips_ > 1) {
    absl::Status status = compiled->CompileStrip(compiled->strip_columns_, compiled->whole_);
    if (!status.ok()) return status;
  }
  if (absl::Status status = compiled->CompileStrip(narrow, compiled->last_); !status.ok()) return status;
  return std::shared_ptr<const CompiledProduct>(std::move(compiled));
}

void CompiledProduct::Choose() {
  const int64_t rows = product_.rows, columns = product_.columns;
  const int lanes = LanesOf(isa_);
  const bool wide = isa_ != Isa::kAvx2;
  // The code of dot products wants A's rows contiguous.
  if (product_.b.row == 1 && product_.a.column == 1 && (product_.b.column != 1 || columns == 1) &&
      rows < kPackRowsOfDots) {
    mode_ = Mode::kDots;
  } else if (product_.b.column == 1 && rows < kPackRowsOfColumns) {
    mode_ = Mode::kDirect;
  }
  depth_block_ = CeilDiv(product_.depth, CeilDiv(product_.depth, kDepthBlock));
  if (mode_ == Mode::kDots) {
    depth_block_ = product_.depth;  // each lane has its own sum
    const int most = wide ? 6 : 2;
    tile_rows_ = static_cast<int>(CeilDiv(rows, CeilDiv(rows, most)));
    strip_columns_ = tile_rows_ <= (wide ? 3 : 1) ? 8 : 4;
  } else if (mode_ == Mode::kDirect) {
    const int most = wide ? 8 : 4;
    tile_rows_ = static_cast<int>(CeilDiv(rows, CeilDiv(rows, most)));
    // Strips read memory in pieces as long as they are wide; threads want several of them.
    const int vectors = columns >= kFewStrips * 16 * lanes ? 16 : 8;
    strip_columns_ = WidestStrip(isa_, tile_rows_, vectors, wide ? 24 : 12);
  } else {
    // Of the shapes that fill the registers, the one that wastes the fewest lanes of the last strip; on equality the
    // one with the fewest loads for each product.
    struct Shape {
      int rows, vectors;
    };
    const std::array<Shape, 3> shapes =
        wide ? std::array<Shape, 3>{{{8, 3}, {6, 4}, {12, 2}}} : std::array<Shape, 3>{{{4, 3}, {6, 2}, {6, 2}}};
    int64_t least = -1;
    for (const Shape& shape : shapes) {
      const int64_t strip = shape.vectors * lanes;
      const int64_t full = columns / strip * shape.vectors, left = CeilDiv(columns % strip, lanes);
      // A narrow last strip keeps few accumulators busy: it costs as much as one of two vectors at least.
      const int64_t cost = full + (left == 0 ? 0 : std::max<int64_t>(left, 2));
      if (least >= 0 && cost >= least) continue;
      least = cost;
      tile_rows_ = static_cast<int>(CeilDiv(rows, CeilDiv(rows, shape.rows)));
      strip_columns_ = static_cast<int>(strip);
    }
  }
  strip_columns_ = static_cast<int>(std::min<int64_t>(strip_columns_, columns));
  strips_ = CeilDiv(columns, strip_columns_);
  if (mode_ == Mode::kPacked && product_.batch * strips_ < kFewStrips) {
    row_groups_ = std::clamp<int64_t>(rows / kGroupRows, 1, CeilDiv(kFewStrips, product_.batch * strips_));
  }
  const double flops = 2.0 * static_cast<double>(product_.batch * rows * columns * product_.depth);
  const double bytes = 4.0 * static_cast<double>(product_.batch * (product_.depth * columns + rows * columns));
  nanoseconds_ =
      20 + 5 * static_cast<double>(units()) + std::max(flops / kFlopsPerNanosecond, bytes / kBytesPerNanosecond);
  static constexpr const char* kModes[] = {"dots", "columns", "packed columns"};
  schedule_ = absl::StrCat(kModes[static_cast<int>(mode_)], " of ", tile_rows_, " x ", strip_columns_, ", depth by ",
                           depth_block_, ", ", units(), " units");
}

absl::StatusOr<CompiledProduct::Tiles> CompiledProduct::CompileTiles(int rows, int columns) const {
  Tiles tiles;
  tiles.rows = rows;
  if (rows == 0) return tiles;
  TileSpec spec;
  spec.kind = mode_ == Mode::kDots ? TileSpec::Kind::kDots : TileSpec::Kind::kColumns;
  spec.isa = isa_;
  spec.rows = rows;
  spec.columns = columns;
  spec.a_row = product_.a.row;
  spec.a_depth = product_.a.column;
  spec.padded = mode_ == Mode::kPacked;
  const int lanes = LanesOf(isa_);
  spec.b_stride = mode_ == Mode::kDots     ? product_.b.column
                  : mode_ == Mode::kDirect ? product_.b.row
                                           : CeilDiv(columns, lanes) * lanes;
  spec.c_row = product_.columns;
  if (product_.addend.has_value()) {
    spec.addend = TileSpec::Addend::kRows;
    spec.addend_row = product_.addend->row;
  }
  auto first = CompileTile(spec);
  if (!first.ok()) return first.status();
  tiles.first = *std::move(first);
  if (depth_block_ == product_.depth) return tiles;
  spec.addend = TileSpec::Addend::kRows;
  spec.addend_row = spec.c_row;
  auto next = CompileTile(spec);
  if (!next.ok()) return next.status();
  tiles.next = *std::move(next);
  return tiles;
}

absl::Status CompiledProduct::CompileStrip(int columns, Strip& strip) const {
  auto most = CompileTiles(tile_rows_, columns);
  if (!most.ok()) return most.status();
  strip.most = *std::move(most);
  const bool even = row_groups_ == 1 && product_.rows % tile_rows_ == 0;
  auto rest = CompileTiles(even ? 0 : tile_rows_ - 1, columns);
  if (!rest.ok()) return rest.status();
  strip.rest = *std::move(rest);
  if (mode_ != Mode::kPacked) return absl::OkStatus();
  const int lanes = LanesOf(isa_);
  TileSpec spec;
  spec.isa = isa_;
  spec.c_row = CeilDiv(columns, lanes) * lanes;
  if (product_.b.column == 1) {
    spec.kind = TileSpec::Kind::kCopy;
    spec.columns = columns;
    spec.b_stride = product_.b.row;
    auto pack = CompileTile(spec);
    if (!pack.ok()) return pack.status();
    strip.pack = *std::move(pack);
    return absl::OkStatus();
  }
  spec.kind = TileSpec::Kind::kTranspose;
  spec.b_stride = product_.b.column;
  for (int column = 0; column < columns; column += lanes) {
    spec.columns = std::min(lanes, columns - column);
    auto transpose = CompileTile(spec);
    if (!transpose.ok()) return transpose.status();
    strip.transposes.push_back(*std::move(transpose));
  }
  return absl::OkStatus();
}

void CompiledProduct::Run(const float* a, const float* b, const float* addend, float* c, int64_t begin,
                          int64_t end) const {
  if (mode_ == Mode::kPacked) {
    alignas(64) float packed[kPackedElements];
    for (int64_t unit = begin; unit < end; ++unit) RunUnit(a, b, addend, c, unit, packed);
  } else {
    for (int64_t unit = begin; unit < end; ++unit) RunUnit(a, b, addend, c, unit, nullptr);
  }
}

void CompiledProduct::Pack(const Strip& strip, const float* b, int64_t depth, float* packed) const {
  if (strip.pack != nullptr) return strip.pack->Run(nullptr, b, nullptr, packed, depth);
  const int lanes = LanesOf(isa_);
  for (const std::shared_ptr<const TileCode>& transpose : strip.transposes) {
    transpose->Run(nullptr, b, nullptr, packed, depth);
    b += lanes * product_.b.column;
    packed += lanes;
  }
}

void CompiledProduct::RunUnit(const float* a, const float* b, const float* addend, float* c, int64_t unit,
                              float* packed) const {
  const int64_t index = unit % strips_, group = unit / strips_ % row_groups_, matrix = unit / strips_ / row_groups_;
  const Strip& strip = index == strips_ - 1 ? last_ : whole_;
  const int64_t column = index * strip_columns_;
  // Rows, as tiles of two heights: the first `tall` of them have one row more.
  const int64_t first_row = group * product_.rows / row_groups_;
  const int64_t last_row = (group + 1) * product_.rows / row_groups_;
  const Product::Strides none;
  const Product::Strides& d = product_.addend.has_value() ? *product_.addend : none;
  const int64_t rows = last_row - first_row, count = CeilDiv(rows, tile_rows_);
  for (int64_t k = 0; k < product_.depth; k += depth_block_) {
    const int64_t depth = std::min(depth_block_, product_.depth - k);
    const float* from_b = b + matrix * product_.b.batch + k * product_.b.row + column * product_.b.column;
    if (mode_ == Mode::kPacked) {
      Pack(strip, from_b, depth, packed);
      from_b = packed;
    }
    const float* from_a = a + matrix * product_.a.batch + k * product_.a.column;
    int64_t row = first_row;
    const auto run = [&](const Tiles& tiles) {
      float* to = c + (matrix * product_.rows + row) * product_.columns + column;
      const bool is_first = k == 0;
      const float* add = !is_first           ? to
                         : addend == nullptr ? nullptr
                                             : addend + matrix * d.batch + row * d.row + column;
      (is_first ? tiles.first : tiles.next)->Run(from_a + row * product_.a.row, from_b, add, to, depth);
      row += tiles.rows;
    };
    int64_t left = rows;
    for (int64_t i = 0; i < count; ++i) {
      const bool tall = left > (count - i) * (tile_rows_ - 1);
      run(tall ? strip.most : strip.rest);
      left = last_row - row;
    }
  }
}

}  // namespace framejit::cpu
