// See product_tiles.h. Written for the assembler, not the compiler: which register holds what is the whole design, and
// all of them are the callee's to use.
#include "backends/cpu/codegen/product_tiles.h"

#include <asmjit/x86.h>

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "backends/cpu/codegen/perf_map.h"
#include "backends/cpu/codegen/simd.h"

namespace framejit::cpu {
namespace {

constexpr int kBytes = 4;   // of an element
constexpr int kUnroll = 4;  // steps of k for each branch
constexpr int kDotGroup = 4;

int VectorsOf(const TileSpec& spec) {
  const int lanes = LanesOf(spec.isa);
  return (spec.columns + lanes - 1) / lanes;
}

// Registers of a column tile: the accumulators, one side of the outer product, and what the other side goes through.
int ColumnRegisters(Isa isa, int rows, int vectors) {
  const int mask = isa != Isa::kAvx2 ? 0 : 1;  // AVX-512 has registers for masks
  return rows * vectors + std::min(rows, vectors) + 1 + mask;
}

class ProductEmitter {
 public:
  ProductEmitter(x86::Assembler& a, const TileSpec& spec)
      : a_(a), spec_(spec), wide_(spec.isa != Isa::kAvx2), lanes_(LanesOf(spec.isa)), registers_(wide_ ? 32 : 16) {}

  void Emit() {
    switch (spec_.kind) {
      case TileSpec::Kind::kColumns:
        EmitColumns();
        break;
      case TileSpec::Kind::kDots:
        EmitDots();
        break;
      case TileSpec::Kind::kCopy:
        EmitCopy();
        break;
      case TileSpec::Kind::kTranspose:
        EmitTranspose();
        break;
    }
    a_.vzeroupper();
    a_.ret();
    if (wide_) return;
    a_.align(asmjit::AlignMode::kData, 32);
    a_.bind(mask_table_);
    for (int i = 0; i < 16; ++i) a_.embedInt32(i < 8 ? -1 : 0);
  }

 private:
  // The arguments (System V), and what is free.
  const Gp a_pointer_ = x86::rdi, b_pointer_ = x86::rsi, addend_ = x86::rdx, c_pointer_ = x86::rcx, depth_ = x86::r8;
  const Gp left_ = x86::r9, scratch_ = x86::r10;

  Reg V(int i) const {
    return wide_ ? static_cast<Reg>(x86::zmm(static_cast<uint32_t>(i)))
                 : static_cast<Reg>(x86::ymm(static_cast<uint32_t>(i)));
  }
  static Mem At(const Gp& base, int64_t elements) { return x86::ptr(base, static_cast<int32_t>(elements * kBytes)); }
  void Zero(const Reg& r) { a_.emit(wide_ ? Inst::kIdVpxord : Inst::kIdVpxor, r, r, r); }
  void Advance(const Gp& pointer, int64_t elements) {
    if (elements != 0) a_.add(pointer, Imm(elements * kBytes));
  }

  // --- lanes of the last vector ---

  // Lanes [0, count) are on: k1, or `mask`.
  void SetMask(int count, const Reg& mask) {
    if (wide_) {
      a_.mov(x86::eax, Imm((1u << count) - 1));
      a_.kmovw(x86::k1, x86::eax);
    } else {
      a_.vmovups(mask.ymm(), x86::ptr(mask_table_, (8 - count) * kBytes));
    }
  }
  // The same for the count in `count`, less than the lanes.
  void SetMask(const Gp& count, const Reg& mask) {
    if (wide_) {
      a_.mov(x86::eax, Imm(0xffff));
      a_.bzhi(x86::eax, x86::eax, count.r32());
      a_.kmovw(x86::k1, x86::eax);
    } else {
      a_.lea(scratch_, x86::ptr(mask_table_, 8 * kBytes));
      a_.mov(x86::rax, count);
      a_.shl(x86::rax, Imm(2));
      a_.sub(scratch_, x86::rax);
      a_.vmovups(mask.ymm(), x86::ptr(scratch_));
    }
  }
  // Zeros in the other lanes, whose memory is not touched.
  void MaskedLoad(const Reg& to, const Mem& from, const Reg& mask) {
    if (wide_) {
      a_.k(x86::k1).z().vmovups(to.zmm(), from);
    } else {
      a_.vmaskmovps(to.ymm(), mask.ymm(), from);
    }
  }
  void MaskedStore(const Mem& to, const Reg& from, const Reg& mask) {
    if (wide_) {
      a_.k(x86::k1).vmovups(to, from.zmm());
    } else {
      a_.vmaskmovps(to, mask.ymm(), from.ymm());
    }
  }

  // Calls step(u) for each value of `depth_`, by `per_step` of them; advance(n) moves the pointers by n steps. What is
  // left over is in left_.
  template <typename Step, typename Advance>
  void LoopOverDepth(int per_step, int unroll, Step step, Advance advance) {
    Label loop = a_.newLabel(), rest = a_.newLabel(), rest_loop = a_.newLabel(), done = a_.newLabel();
    a_.mov(left_, depth_);
    a_.sub(left_, Imm(unroll * per_step));
    a_.jl(rest);
    a_.align(asmjit::AlignMode::kCode, 32);
    a_.bind(loop);
    for (int u = 0; u < unroll; ++u) step(u);
    advance(unroll);
    a_.sub(left_, Imm(unroll * per_step));
    a_.jge(loop);
    a_.bind(rest);
    a_.add(left_, Imm((unroll - 1) * per_step));
    a_.jl(done);
    if (unroll > 1) {
      a_.bind(rest_loop);
      step(0);
      advance(1);
      a_.sub(left_, Imm(per_step));
      a_.jge(rest_loop);
    }
    a_.bind(done);
    a_.add(left_, Imm(per_step));
  }

  // --- outer products ---

  void EmitColumns() {
    const int rows = spec_.rows, vectors = VectorsOf(spec_), count = rows * vectors;
    const int tail = spec_.columns % lanes_;
    const bool masked_b = tail != 0 && !spec_.padded;
    const Reg mask = V(registers_ - 1);
    if (wide_ ? tail != 0 : masked_b) SetMask(tail, mask);
    for (int i = 0; i < count; ++i) Zero(V(i));

    const auto acc = [&](int r, int v) { return V(r * vectors + v); };
    const auto load_b = [&](const Reg& to, int u, int v) {
      const Mem from = At(b_pointer_, u * spec_.b_stride + v * lanes_);
      if (masked_b && v == vectors - 1) {
        MaskedLoad(to, from, mask);
      } else {
        a_.emit(Inst::kIdVmovups, to, from);
      }
    };
    const auto load_a = [&](const Reg& to, int u, int r) {
      a_.emit(Inst::kIdVbroadcastss, to, At(a_pointer_, u * spec_.a_depth + r * spec_.a_row));
    };
    const bool hold_b = vectors <= rows;
    const int held = std::min(rows, vectors), outer = std::max(rows, vectors);
    const int free = registers_ - (!wide_ && masked_b ? 1 : 0) - count - held;
    const int ways = std::min(2, free);  // registers that the other side goes through in turn
    const auto step = [&](int u) {
      for (int i = 0; i < held; ++i) hold_b ? load_b(V(count + i), u, i) : load_a(V(count + i), u, i);
      for (int o = 0; o < outer; ++o) {
        const Reg through = V(count + held + o % ways);
        hold_b ? load_a(through, u, o) : load_b(through, u, o);
        for (int i = 0; i < held; ++i) {
          a_.emit(Inst::kIdVfmadd231ps, hold_b ? acc(o, i) : acc(i, o), through, V(count + i));
        }
      }
    };
    LoopOverDepth(1, kUnroll, step, [&](int n) {
      Advance(a_pointer_, n * spec_.a_depth);
      Advance(b_pointer_, n * spec_.b_stride);
    });

    const Reg part = V(count);
    if (!wide_ && tail != 0 && !masked_b) SetMask(tail, mask);
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        const bool last = tail != 0 && v == vectors - 1;
        const Mem to = At(c_pointer_, r * spec_.c_row + v * lanes_);
        const Mem from = At(addend_, r * spec_.addend_row + v * lanes_);
        if (spec_.addend == TileSpec::Addend::kRows) {
          last ? MaskedLoad(part, from, mask) : static_cast<void>(a_.emit(Inst::kIdVmovups, part, from));
          a_.emit(Inst::kIdVaddps, acc(r, v), acc(r, v), part);
        }
        last ? MaskedStore(to, acc(r, v), mask) : static_cast<void>(a_.emit(Inst::kIdVmovups, to, acc(r, v)));
      }
    }
  }

  // --- dot products ---

  void EmitDots() {
    const int rows = spec_.rows, columns = spec_.columns, count = rows * columns;
    const Reg mask = V(registers_ - 1), b = V(count + rows);
    for (int i = 0; i < count; ++i) Zero(V(i));
    const auto acc = [&](int r, int c) { return V(r * columns + c); };
    const auto step = [&](int u, bool masked) {
      const auto load = [&](const Reg& to, const Mem& from) {
        masked ? MaskedLoad(to, from, mask) : static_cast<void>(a_.emit(Inst::kIdVmovups, to, from));
      };
      for (int r = 0; r < rows; ++r) load(V(count + r), At(a_pointer_, u * lanes_ + r * spec_.a_row));
      for (int c = 0; c < columns; ++c) {
        load(b, At(b_pointer_, u * lanes_ + c * spec_.b_stride));
        for (int r = 0; r < rows; ++r) a_.emit(Inst::kIdVfmadd231ps, acc(r, c), V(count + r), b);
      }
    };
    LoopOverDepth(
        lanes_, count <= 8 ? 2 : 1, [&](int u) { step(u, false); },
        [&](int n) {
          Advance(a_pointer_, n * lanes_);
          Advance(b_pointer_, n * lanes_);
        });
    Label whole = a_.newLabel();
    a_.test(left_, left_);
    a_.jz(whole);
    SetMask(left_, mask);
    step(0, true);
    a_.bind(whole);
    for (int r = 0; r < rows; ++r) {
      for (int first = 0; first < columns; first += kDotGroup) {
        StoreSums(r, first, std::min(kDotGroup, columns - first));
      }
    }
  }

  // Sums of the lanes of `count` neighbouring accumulators, side by side.
  void StoreSums(int row, int first, int count) {
    const int columns = spec_.columns, free = spec_.rows * columns;  // the rows of A lie there no more
    const auto acc = [&](int c) { return row * columns + first + std::min(c, count - 1); };
    if (wide_) {
      for (int c = 0; c < count; ++c) {
        const x86::Ymm half = x86::ymm(static_cast<uint32_t>(free)), low = x86::ymm(static_cast<uint32_t>(acc(c)));
        a_.vextractf64x4(half, x86::zmm(static_cast<uint32_t>(acc(c))), Imm(1));
        a_.emit(Inst::kIdVaddps, low, low, half);
      }
    }
    const auto low = [&](int i) { return x86::ymm(static_cast<uint32_t>(i)); };
    const x86::Ymm y0 = low(free), y1 = low(free + 1), y2 = low(free + 2);
    Pairs(y0, low(acc(0)), low(acc(1)), y2);
    Pairs(y1, low(acc(2)), low(acc(3)), y2);
    Pairs(y0, y0, y1, y2);
    // Both halves hold what Pairs left of four vectors, in the order 0 1 2 3.
    a_.emit(wide_ ? Inst::kIdVextractf32x4 : Inst::kIdVextractf128, y2.xmm(), y0, Imm(1));
    a_.emit(Inst::kIdVaddps, y0.xmm(), y0.xmm(), y2.xmm());
    StoreFour(row, first, count, y0.xmm(), y2.xmm());
  }

  // to = (a0+a1, a2+a3, b0+b1, b2+b3) in each half.
  void Pairs(const x86::Ymm& to, const x86::Ymm& a, const x86::Ymm& b, const x86::Ymm& free) {
    a_.emit(Inst::kIdVshufps, free, a, b, Imm(0xdd));
    a_.emit(Inst::kIdVshufps, to, a, b, Imm(0x88));
    a_.emit(Inst::kIdVaddps, to, to, free);
  }

  void StoreFour(int row, int first, int count, const x86::Xmm& sums, const x86::Xmm& free) {
    const Mem to = At(c_pointer_, row * spec_.c_row + first);
    const Mem from = At(addend_, row * spec_.addend_row + first);
    const bool adds = spec_.addend == TileSpec::Addend::kRows;
    if (count == kDotGroup) {
      if (adds) a_.emit(Inst::kIdVaddps, sums, sums, from);
      a_.emit(Inst::kIdVmovups, to, sums);
    } else if (wide_) {
      SetMask(count, V(0));
      if (adds) {
        a_.k(x86::k1).z().vmovups(free, from);
        a_.emit(Inst::kIdVaddps, sums, sums, free);
      }
      a_.k(x86::k1).vmovups(to, sums);
    } else {
      const x86::Xmm mask = x86::xmm(static_cast<uint32_t>(registers_ - 1));
      a_.vmovups(mask, x86::ptr(mask_table_, (8 - count) * kBytes));
      if (adds) {
        a_.vmaskmovps(free, mask, from);
        a_.emit(Inst::kIdVaddps, sums, sums, free);
      }
      a_.vmaskmovps(to, mask, sums);
    }
  }

  // --- packing ---

  void EmitCopy() {
    const int vectors = VectorsOf(spec_), tail = spec_.columns % lanes_;
    const Reg mask = V(registers_ - 1);
    if (tail != 0) SetMask(tail, mask);
    LoopOverDepth(
        1, 1,
        [&](int) {
          for (int v = 0; v < vectors; ++v) {
            const Mem from = At(b_pointer_, v * lanes_);
            if (tail != 0 && v == vectors - 1) {
              MaskedLoad(V(v), from, mask);
            } else {
              a_.emit(Inst::kIdVmovups, V(v), from);
            }
          }
          for (int v = 0; v < vectors; ++v) a_.emit(Inst::kIdVmovups, At(c_pointer_, v * lanes_), V(v));
        },
        [&](int) {
          Advance(b_pointer_, spec_.b_stride);
          Advance(c_pointer_, spec_.c_row);
        });
  }

  void EmitTranspose() {
    const Reg mask = V(registers_ - 1);
    LoopOverDepth(
        lanes_, 1, [&](int) { TransposeSquare(false, mask); },
        [&](int) {
          Advance(b_pointer_, lanes_);
          Advance(c_pointer_, lanes_ * spec_.c_row);
        });
    Label whole = a_.newLabel();
    a_.test(left_, left_);
    a_.jz(whole);
    SetMask(left_, mask);
    TransposeSquare(true, mask);
    a_.bind(whole);
  }

  // lanes x lanes elements; rows that b lacks repeat the last one. With AVX2 the mask lies in a register that the
  // transposition uses once all rows are loaded.
  void TransposeSquare(bool masked, const Reg& mask) {
    const int n = lanes_;
    for (int i = 0; i < n; ++i) {
      const Mem from = At(b_pointer_, std::min(i, spec_.columns - 1) * spec_.b_stride);
      masked ? MaskedLoad(V(i), from, mask) : static_cast<void>(a_.emit(Inst::kIdVmovups, V(i), from));
    }
    const auto shuffle = [&](InstId inst, int to, int x, int y) { a_.emit(inst, V(to), V(x), V(y)); };
    for (int i = 0; i < n; i += 2) {
      shuffle(Inst::kIdVunpcklps, n + i, i, i + 1);
      shuffle(Inst::kIdVunpckhps, n + i + 1, i, i + 1);
    }
    for (int g = 0; g < n; g += 4) {
      shuffle(Inst::kIdVunpcklpd, g, n + g, n + g + 2);
      shuffle(Inst::kIdVunpckhpd, g + 1, n + g, n + g + 2);
      shuffle(Inst::kIdVunpcklpd, g + 2, n + g + 1, n + g + 3);
      shuffle(Inst::kIdVunpckhpd, g + 3, n + g + 1, n + g + 3);
    }
    // Now register g + j holds, of rows g to g + 3, columns j, 4 + j, ... in its quarters (with AVX2: halves).
    for (int j = 0; j < 4; ++j) wide_ ? StoreQuarters(j) : StoreHalves(j);
  }

  void StoreHalves(int j) {
    for (int half = 0; half < 2; ++half) {
      a_.emit(Inst::kIdVperm2f128, V(8 + half), V(j), V(4 + j), Imm(half == 0 ? 0x20 : 0x31));
      a_.emit(Inst::kIdVmovups, At(c_pointer_, (4 * half + j) * spec_.c_row), V(8 + half));
    }
  }

  void StoreQuarters(int j) {
    const auto pick = [&](int to, int x, int y, int lanes) {
      a_.emit(Inst::kIdVshuff32x4, V(to), V(x), V(y), Imm(lanes));
    };
    pick(16, j, 4 + j, 0x88);
    pick(17, j, 4 + j, 0xdd);
    pick(18, 8 + j, 12 + j, 0x88);
    pick(19, 8 + j, 12 + j, 0xdd);
    for (int quarter = 0; quarter < 4; ++quarter) {
      pick(20 + quarter, 16 + quarter % 2, 18 + quarter % 2, quarter < 2 ? 0x88 : 0xdd);
      a_.emit(Inst::kIdVmovups, At(c_pointer_, (4 * quarter + j) * spec_.c_row), V(20 + quarter));
    }
  }

  x86::Assembler& a_;
  const TileSpec& spec_;
  const bool wide_;  // AVX-512
  const int lanes_, registers_;
  Label mask_table_ = a_.newLabel();  // AVX2: eight lanes on, eight off
};

class FirstError : public asmjit::ErrorHandler {
 public:
  void handleError(asmjit::Error error, const char* message, asmjit::BaseEmitter*) override {
    if (text.empty()) text = absl::StrCat(asmjit::DebugUtils::errorAsString(error), ": ", message);
  }
  std::string text;
};

class JitTile : public TileCode {
 public:
  explicit JitTile(std::shared_ptr<asmjit::JitRuntime> runtime) : runtime_(std::move(runtime)) {}
  ~JitTile() override {
    if (function_ != nullptr) runtime_->release(function_);
  }

  absl::Status Assemble(const TileSpec& spec) {
    asmjit::CodeHolder code;
    code.init(runtime_->environment());
    FirstError error;
    code.setErrorHandler(&error);
    x86::Assembler assembler(&code);
    ProductEmitter(assembler, spec).Emit();
    if (!error.text.empty()) return absl::InternalError(error.text);
    if (const asmjit::Error added = runtime_->add(&function_, &code)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("asmjit cannot place code: ", asmjit::DebugUtils::errorAsString(added)));
    }
    static constexpr const char* kNames[] = {"columns", "dots", "copy", "transpose"};
    AddToPerfMap(
        reinterpret_cast<const void*>(function_), code.codeSize(),
        absl::StrCat("framejit_product_", kNames[static_cast<int>(spec.kind)], "_", spec.rows, "x", spec.columns));
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<asmjit::JitRuntime> runtime_;
};

struct TileCache {
  const std::shared_ptr<asmjit::JitRuntime> runtime = std::make_shared<asmjit::JitRuntime>();
  absl::Mutex mutex;
  absl::flat_hash_map<TileSpec, std::weak_ptr<const TileCode>> known ABSL_GUARDED_BY(mutex);
};

}  // namespace

bool FitsRegisters(TileSpec::Kind kind, Isa isa, int rows, int columns) {
  const bool wide = isa != Isa::kAvx2;
  if (kind == TileSpec::Kind::kDots) {
    // Accumulators, rows of A, a column of B and a mask; three for the sums, which lie where the rows were.
    return rows * columns + std::max(rows + 1, 3) + (wide ? 0 : 1) <= (wide ? 32 : 16);
  }
  const int vectors = (columns + LanesOf(isa) - 1) / LanesOf(isa);
  return ColumnRegisters(isa, rows, vectors) <= (wide ? 32 : 16);
}

absl::StatusOr<std::shared_ptr<const TileCode>> CompileTile(const TileSpec& spec) {
  static auto* cache = new TileCache;
  absl::MutexLock lock(&cache->mutex);
  std::weak_ptr<const TileCode>& slot = cache->known[spec];
  if (auto code = slot.lock()) return code;
  auto tile = std::make_shared<JitTile>(cache->runtime);
  if (absl::Status status = tile->Assemble(spec); !status.ok()) return status;
  std::shared_ptr<const TileCode> code = std::move(tile);
  slot = code;
  return code;
}

}  // namespace framejit::cpu
