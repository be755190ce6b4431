// KernelEmitter for kernels that read transposed data, in tiles as loop/canonicalize makes them: what a load takes from
// a tile is read along the memory, turned around in registers, and kept on the stack for the rows of the tile.
#include "backends/cpu/codegen/kernel_emitter.h"

namespace framejit::cpu {
namespace {

using loop::Access;
using loop::Node;
using loop::Op;

constexpr int kTile = 16;  // rows and columns: the lanes of an AVX-512 register

}  // namespace

bool IsTransposed(const loop::Kernel& kernel, const Node& node) {
  if (node.op != Op::kLoad || Is64(node.dtype) || kernel.dims.size() < 2) return false;
  const std::vector<int64_t>& strides = kernel.accesses[node.attr].strides;
  return strides.back() != 0 && strides.back() != 1 && strides[strides.size() - 2] == 1;
}

bool HasTransposedTiles(const loop::Kernel& kernel) {
  if (kernel.has_reductions() || kernel.dims.size() < 2) return false;
  if (kernel.inner_size() != kTile || kernel.dims[kernel.dims.size() - 2].size != kTile) return false;
  for (const Node& node : kernel.nodes) {
    if (IsTransposed(kernel, node)) return true;
  }
  return false;
}

int64_t RowsOfTile() { return kTile; }

void KernelEmitter::EmitTileLoop(const Gp& begin, const Gp& end) {
  LoadBufferPointers();
  Gp row = cc_.newInt64("row"), last = cc_.newInt64("last");
  cc_.imul(row, begin, kTile);
  cc_.imul(last, end, kTile);
  SetPosition(row);
  tiles_.resize(kernel_.accesses.size());
  const Label next_tile = cc_.newLabel(), next_row = cc_.newLabel();
  cc_.bind(next_tile);
  for (const Node& node : kernel_.nodes) {
    if (IsTransposed(kernel_, node)) TransposeTile(node);
  }
  tile_row_ = cc_.newInt64("tile_row");
  cc_.xor_(tile_row_.r32(), tile_row_.r32());
  cc_.bind(next_row);
  EmitRow();
  AdvanceRow();
  cc_.add(tile_row_, simd_.vector_bytes());
  cc_.cmp(tile_row_, kTile * simd_.vector_bytes());
  cc_.jl(next_row);
  cc_.add(row, kTile);
  cc_.cmp(row, last);
  cc_.jl(next_tile);
}

// Four rounds of exchanges: pairs of elements, pairs of pairs, and blocks of four twice.
void KernelEmitter::TransposeTile(const Node& node) {
  const Access& access = kernel_.accesses[node.attr];
  Mem& tile = tiles_[node.attr];
  if (!tile.hasBase()) tile = cc_.newStack(kTile * simd_.vector_bytes(), 64);
  const int64_t step = access.strides.back() * loop::DTypeBytes(node.dtype);
  Gp line = cc_.newIntPtr();
  cc_.mov(line, pointers_[node.attr]);
  Reg v[kTile], w[kTile];
  for (int i = 0; i < kTile; ++i) {
    v[i] = memory_.LoadVector(node.dtype, Lanes{line, Gp()}, nullptr).r[0];
    if (i + 1 < kTile) Advance(line, step);
  }
  const auto exchange = [&](InstId inst, Reg to, const Reg& a, const Reg& b, int control) {
    if (control < 0)
      cc_.emit(inst, to, a, b);
    else
      cc_.emit(inst, to, a, b, Imm(control));
  };
  const auto fresh = [&](InstId inst, const Reg& a, const Reg& b, int control = -1) {
    const Reg to = simd_.New();
    exchange(inst, to, a, b, control);
    return to;
  };
  for (int i = 0; i < kTile; i += 2) {
    w[i] = fresh(Inst::kIdVunpcklps, v[i], v[i + 1]);
    w[i + 1] = fresh(Inst::kIdVunpckhps, v[i], v[i + 1]);
  }
  for (int i = 0; i < kTile; i += 4) {
    v[i] = fresh(Inst::kIdVunpcklpd, w[i], w[i + 2]);
    v[i + 1] = fresh(Inst::kIdVunpckhpd, w[i], w[i + 2]);
    v[i + 2] = fresh(Inst::kIdVunpcklpd, w[i + 1], w[i + 3]);
    v[i + 3] = fresh(Inst::kIdVunpckhpd, w[i + 1], w[i + 3]);
  }
  constexpr int kEven = 0x88, kOdd = 0xdd;  // blocks 0 and 2, or 1 and 3, of both
  for (int i = 0; i < kTile; i += 8) {
    for (int k = 0; k < 4; ++k) {
      w[i + k] = fresh(Inst::kIdVshuff32x4, v[i + k], v[i + k + 4], kEven);
      w[i + k + 4] = fresh(Inst::kIdVshuff32x4, v[i + k], v[i + k + 4], kOdd);
    }
  }
  for (int k = 0; k < 8; ++k) {
    v[k] = fresh(Inst::kIdVshuff32x4, w[k], w[k + 8], kEven);
    v[k + 8] = fresh(Inst::kIdVshuff32x4, w[k], w[k + 8], kOdd);
  }
  for (int i = 0; i < kTile; ++i) cc_.emit(Inst::kIdVmovaps, tile.cloneAdjusted(i * simd_.vector_bytes()), v[i]);
}

Value KernelEmitter::LoadFromTile(const Node& node) {
  Mem at = tiles_[node.attr];
  at.setSize(0);
  at.setIndex(tile_row_, 0);
  return Value{{simd_.Load(at)}};
}

}  // namespace framejit::cpu
