// KernelEmitter for kernels whose reductions run along a strided dimension: a vector holds neighbouring rows, each lane
// reduces its own, and a strip of several vectors is walked at once so that whole cache lines are read. Nothing is kept
// between passes.
#include <algorithm>

#include "backends/cpu/codegen/kernel_emitter.h"

namespace framejit::cpu {
namespace {

using loop::Access;
using loop::Node;
using loop::Op;
using loop::Pass;
using loop::ValueId;

bool IsMemory(const Node& node) { return node.op == Op::kLoad || node.op == Op::kStore; }

int64_t ColumnStride(const Access& access) { return access.strides[access.strides.size() - 2]; }

}  // namespace

int64_t BlockOfColumn(int64_t count) {
  int64_t block = 8;
  while (block * block < count) block *= 2;
  return block;
}

bool WalksColumns(const loop::Kernel& kernel) {
  if (!kernel.has_reductions() || kernel.dims.size() < 2 || kernel.inner_size() == 1) return false;
  bool strided = false;
  for (const Node& node : kernel.nodes) {
    if (!IsMemory(node)) continue;
    const Access& access = kernel.accesses[node.attr];
    const int64_t across = ColumnStride(access), along = access.strides.back();
    if (across != 1 && (across != 0 || node.op == Op::kStore)) return false;
    strided |= across == 1 && along != 0 && along != 1;
  }
  return strided;
}

Walk WalkOf(const loop::Kernel& kernel, Isa isa) {
  if (WalksColumns(kernel)) return Walk::kColumns;
  if (isa != Isa::kAvx2 && HasTransposedTiles(kernel)) return Walk::kTiles;
  return kernel.has_reductions() || kernel.dims.size() > 1 ? Walk::kRows : Walk::kElements;
}

int64_t ColumnVectors(const loop::Kernel& kernel, int lanes) {
  return (kernel.dims[kernel.dims.size() - 2].size + lanes - 1) / lanes;
}

// Vectors walked at once: as many as keep what each needs in registers.
int KernelEmitter::ChooseStrip() const {
  int cost = 0;
  for (const Pass& pass : schedule_.passes) {
    for (const ValueId id : pass.elements) {
      cost += IsMemory(kernel_.nodes[id]) ? 1 : loop::OpCost(kernel_, kernel_.nodes[id]);
    }
  }
  return cost <= 3 ? 8 : cost <= 10 ? 4 : cost <= 80 ? 2 : 1;
}

void KernelEmitter::EmitColumnLoop(const Gp& begin, const Gp& end) {
  LoadBufferPointers();
  SetPosition(begin);
  const int64_t rows = kernel_.dims[kernel_.dims.size() - 2].size, whole = rows / simd_.lanes;
  const int64_t rest = rows % simd_.lanes;
  const int strip = ChooseStrip();
  const Gp& column = position_.back();
  Gp unit = cc_.newInt64("unit"), after = cc_.newInt64();
  cc_.mov(unit, begin);
  const Label again = cc_.newLabel(), narrow = cc_.newLabel(), full = cc_.newLabel(), step = cc_.newLabel(),
              next = cc_.newLabel();
  cc_.bind(again);
  if (strip > 1 && whole >= strip) {
    cc_.lea(after, x86::ptr(column, strip));
    cc_.cmp(after, whole);
    cc_.jg(narrow);
    cc_.lea(after, x86::ptr(unit, strip));
    cc_.cmp(after, end);
    cc_.jg(narrow);
    EmitStrip(strip, nullptr);
    AdvanceRow(strip);
    cc_.add(unit, strip);
    cc_.jmp(next);
  }
  cc_.bind(narrow);
  if (rest != 0) {
    if (whole != 0) {
      cc_.cmp(column, whole);
      cc_.jl(full);
    }
    Gp count = cc_.newInt64();
    cc_.mov(count, rest);
    const Tail tail = memory_.MakeTail(count);
    EmitStrip(1, &tail);
    if (whole != 0) cc_.jmp(step);
  }
  cc_.bind(full);
  if (whole != 0) EmitStrip(1, nullptr);
  cc_.bind(step);
  AdvanceRow();
  cc_.inc(unit);
  cc_.bind(next);
  cc_.cmp(unit, end);
  cc_.jl(again);
}

void KernelEmitter::EmitStrip(int parts, const Tail* tail) {
  strip_.assign(parts, values_);
  for (const Pass& pass : schedule_.passes) {
    for (int part = 0; part < parts; ++part) {
      values_.swap(strip_[part]);
      EmitColumnRowNodes(pass, part, tail);
      values_.swap(strip_[part]);
    }
    if (!pass.elements.empty()) EmitColumnPass(pass, parts, tail);
  }
}

void KernelEmitter::EmitColumnPass(const Pass& pass, int parts, const Tail* tail) {
  StartReductions(pass, parts);
  moving_.assign(kernel_.accesses.size(), Gp());
  for (const ValueId id : pass.elements) {
    const Node& node = kernel_.nodes[id];
    if (!IsMemory(node) || moving_[node.attr].isValid()) continue;
    moving_[node.attr] = cc_.newIntPtr();
    cc_.mov(moving_[node.attr], pointers_[node.attr]);
  }
  const int64_t count = kernel_.inner_size(), block = column_block_;
  const bool blocked = (inner_end_.isValid() || count > block) && HasBlockedSum(pass);
  Gp left = cc_.newInt64();
  if (blocked) cc_.mov(left, block);
  index_ = cc_.newInt64();
  cc_.xor_(index_.r32(), index_.r32());
  const Label again = cc_.newLabel();
  cc_.bind(again);
  for (int part = 0; part < parts; ++part) {
    values_.swap(strip_[part]);
    for (const ValueId id : pass.elements) EmitColumnElement(id, part, tail);
    values_.swap(strip_[part]);
  }
  for (size_t a = 0; a < moving_.size(); ++a) {
    if (!moving_[a].isValid()) continue;
    const Access& access = kernel_.accesses[a];
    if (loop::IsOpen(access.strides.back()))
      cc_.add(moving_[a], Argument(layout_.Stride(a, kernel_.dims.size() - 1)));
    else
      Advance(moving_[a], access.strides.back() * BytesOf(a));
  }
  if (blocked) {
    const Label inside = cc_.newLabel();
    cc_.dec(left);
    cc_.jnz(inside);
    FlushColumnSums(pass, parts);
    cc_.mov(left, block);
    cc_.bind(inside);
  }
  cc_.inc(index_);
  if (inner_end_.isValid())
    cc_.cmp(index_, inner_end_);
  else
    cc_.cmp(index_, count);
  cc_.jl(again);
  FinishColumns(pass, parts);
}

Value KernelEmitter::LoadColumn(const Node& node, const Gp& pointer, int part, const Tail* tail) {
  if (ColumnStride(kernel_.accesses[node.attr]) == 0) return memory_.LoadScalar(node.dtype, pointer);
  return memory_.LoadVector(node.dtype, Lanes{pointer, Gp(), int64_t{part} * simd_.lanes}, tail);
}

void KernelEmitter::StoreColumn(const Node& node, const Gp& pointer, int part, const Tail* tail) {
  memory_.StoreVector(node.dtype, Lanes{pointer, Gp(), int64_t{part} * simd_.lanes}, values_[node.operands[0]], tail);
}

void KernelEmitter::EmitColumnRowNodes(const Pass& pass, int part, const Tail* tail) {
  for (const ValueId id : pass.row_nodes) {
    const Node& node = kernel_.nodes[id];
    if (node.op == Op::kConst) continue;
    Annotate(id);
    if (node.op == Op::kIndex && node.attr + 2 == static_cast<int64_t>(kernel_.dims.size())) {
      Gp first = cc_.newInt64();
      cc_.imul(first, position_[node.attr], simd_.lanes);
      values_[id] = LaneIndex(first, int64_t{part} * simd_.lanes);
    } else if (node.op == Op::kIndex) {
      values_[id] = Broadcast(position_[node.attr]);
    } else if (node.op == Op::kLoad) {
      values_[id] = LoadColumn(node, pointers_[node.attr], part, tail);
    } else if (node.op == Op::kStore) {
      StoreColumn(node, pointers_[node.attr], part, tail);
    } else {
      values_[id] = Compute(id);
    }
  }
}

void KernelEmitter::EmitColumnElement(ValueId id, int part, const Tail* tail) {
  const Node& node = kernel_.nodes[id];
  Annotate(id);
  if (loop::IsReduction(node.op)) {
    SetAccumulator(id, part,
                   operators_.Combine(node.op, node.dtype, values_[node.operands[0]], accumulators_[id][part]));
  } else if (node.op == Op::kIndex) {
    values_[id] = Broadcast(index_);
  } else if (node.op == Op::kLoad) {
    values_[id] = LoadColumn(node, moving_[node.attr], part, tail);
  } else if (node.op == Op::kStore) {
    StoreColumn(node, moving_[node.attr], part, tail);
  } else {
    values_[id] = Compute(id);
  }
}

void KernelEmitter::FlushColumnSums(const Pass& pass, int parts) {
  for (const ValueId id : ReductionsOf(pass)) {
    const Node& node = kernel_.nodes[id];
    if (!IsBlocked(node)) continue;
    for (int part = 0; part < parts; ++part) {
      Value& total = totals_[id][part];
      const Value sum = operators_.Combine(node.op, node.dtype, accumulators_[id][part], total);
      for (int i = 0; i < RegisterCount(node.dtype); ++i) cc_.emit(Inst::kIdVmovaps, total.r[i], sum.r[i]);
      SetAccumulator(id, part, operators_.Identity(node.op, node.dtype));
    }
  }
}

void KernelEmitter::FinishColumns(const Pass& pass, int parts) {
  for (const ValueId id : ReductionsOf(pass)) {
    const Node& node = kernel_.nodes[id];
    for (int part = 0; part < parts; ++part) {
      Value& result = strip_[part][id];
      result = accumulators_[id][part];
      if (IsBlocked(node)) result = operators_.Combine(node.op, node.dtype, result, totals_[id][part]);
    }
  }
}

}  // namespace framejit::cpu
