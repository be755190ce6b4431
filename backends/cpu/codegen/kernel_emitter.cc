// See kernel_emitter.h.
#include "backends/cpu/codegen/kernel_emitter.h"

#include <algorithm>

namespace framejit::cpu {
namespace {

using loop::Node;
using loop::Op;
using loop::Pass;
using loop::ValueId;

bool FitsImmediate(int64_t value) { return value == static_cast<int32_t>(value); }

// Units along a row dimension, and what an access moves from one to the next.
struct RowUnits {
  bool IsVector(size_t d) const { return walk == Walk::kColumns && d + 2 == kernel.dims.size(); }
  int64_t Size(size_t d) const { return IsVector(d) ? ColumnVectors(kernel, lanes) : kernel.dims[d].size; }
  int64_t Stride(size_t access, size_t d) const {
    return kernel.accesses[access].strides[d] * (IsVector(d) ? lanes : 1);
  }
  // Stepping along d after the dimension inside wrapped also takes back that dimension's way.
  int64_t Undo(size_t access, size_t d) const {
    return d + 2 < kernel.dims.size() ? Stride(access, d + 1) * Size(d + 1) : 0;
  }
  bool IsStepOpen(size_t access, size_t d) const {
    const std::vector<int64_t>& strides = kernel.accesses[access].strides;
    if (loop::IsOpen(strides[d])) return true;
    if (d + 2 >= kernel.dims.size() || strides[d + 1] == 0) return false;
    return loop::IsOpen(strides[d + 1]) || loop::IsOpen(kernel.dims[d + 1].size);
  }

  const loop::Kernel& kernel;
  const Walk walk;
  const int lanes;
};

}  // namespace

std::vector<int64_t> ArgumentsOf(const loop::Kernel& kernel, Walk walk, Isa isa) {
  const RowUnits units{kernel, walk, LanesOf(isa)};
  const size_t dims = kernel.dims.size();
  const Arguments layout(dims);
  std::vector<int64_t> words(layout.Offset(kernel.accesses.size()));
  for (size_t d = 0; d < dims; ++d) words[layout.Size(d)] = units.Size(d);
  for (size_t a = 0; a < kernel.accesses.size(); ++a) {
    const int64_t bytes = loop::DTypeBytes(kernel.buffers[kernel.accesses[a].buffer].dtype);
    words[layout.Offset(a)] = kernel.accesses[a].offset * bytes;
    for (size_t d = 0; d < dims; ++d) words[layout.Stride(a, d)] = units.Stride(a, d) * bytes;
    for (size_t d = 0; d + 1 < dims; ++d) {
      words[layout.Step(a, d)] = (units.Stride(a, d) - units.Undo(a, d)) * bytes;
    }
  }
  return words;
}

bool KernelEmitter::IsBlocked(const Node& node) { return node.op == Op::kReduceSum && loop::IsFloat(node.dtype); }

KernelEmitter::KernelEmitter(x86::Compiler& cc, Isa isa, const loop::Kernel& kernel, const Emission& emission)
    : cc_(cc),
      simd_(cc, isa),
      operators_(simd_),
      memory_(simd_),
      kernel_(kernel),
      schedule_(emission.schedule),
      walk_(emission.walk),
      column_block_(emission.column_block),
      layout_(kernel.dims.size()) {}

void KernelEmitter::Emit() {
  using asmjit::FuncSignatureT;
  asmjit::FuncNode* function =
      cc_.addFunc(FuncSignatureT<void, void* const*, int64_t, int64_t, const int64_t*>(asmjit::CallConvId::kCDecl));
  function->frame().setAvxEnabled();
  function->frame().setAvxCleanup();
  if (simd_.wide) function->frame().setAvx512Enabled();
  buffers_ = cc_.newIntPtr("buffers");
  Gp begin = cc_.newInt64("begin"), end = cc_.newInt64("end");
  function->setArg(0, buffers_);
  function->setArg(1, begin);
  function->setArg(2, end);
  arguments_ = cc_.newIntPtr("arguments");
  function->setArg(3, arguments_);
  values_.resize(kernel_.nodes.size());
  accumulators_.resize(kernel_.nodes.size());
  totals_.resize(kernel_.nodes.size());
  row_buffers_.resize(kernel_.nodes.size());
  roundings_ = FindRoundings(kernel_);
  read_as_bfloat16_ = FindReadAsBFloat16(kernel_);
  FindNarrowIndices();
  for (size_t id = 0; id < kernel_.nodes.size(); ++id) {
    if (kernel_.nodes[id].op == Op::kConst) values_[id] = operators_.Constant(kernel_.nodes[id]);
  }
  for (const ValueId id : schedule_.kept) row_buffers_[id] = NewRowBuffer(id);
  const Label done = cc_.newLabel();
  cc_.cmp(begin, end);
  cc_.jge(done);
  if (walk_ != Walk::kElements && loop::IsOpen(kernel_.inner_size())) {
    inner_end_ = cc_.newInt64("inner_end");
    cc_.mov(inner_end_, Argument(layout_.Size(kernel_.dims.size() - 1)));
  }
  switch (walk_) {
    case Walk::kElements:
      EmitElementRange(begin, end);
      break;
    case Walk::kRows:
      EmitRowLoop(begin, end);
      break;
    case Walk::kColumns:
      EmitColumnLoop(begin, end);
      break;
    case Walk::kTiles:
      EmitTileLoop(begin, end);
      break;
  }
  cc_.bind(done);
  cc_.endFunc();
}

// Where the inner dimension is open, all that are kept together fit for each length with which they were chosen.
Mem KernelEmitter::NewRowBuffer(ValueId id) {
  const auto width = [&](ValueId kept) { return RegisterCount(RegisterType(kernel_.nodes[kept].dtype)); };
  int64_t longest = kernel_.inner_size();
  if (loop::IsOpen(longest)) {
    int64_t words = 0;
    for (const ValueId kept : schedule_.kept) words += width(kept);
    longest = kRowBufferBytes / (4 * words);
  }
  const int64_t vectors = (longest + simd_.lanes - 1) / simd_.lanes;
  return cc_.newStack(static_cast<uint32_t>(vectors * simd_.vector_bytes() * width(id)), 64);
}

void KernelEmitter::LoadBufferPointers() {
  for (size_t a = 0; a < kernel_.accesses.size(); ++a) {
    const loop::Access& access = kernel_.accesses[a];
    Gp pointer = cc_.newIntPtr();
    cc_.mov(pointer, x86::qword_ptr(buffers_, access.buffer * 8));
    pointers_.push_back(pointer);
    if (loop::IsOpen(access.offset))
      cc_.add(pointer, Argument(layout_.Offset(a)));
    else
      Advance(pointer, access.offset * BytesOf(a));
  }
}

int64_t KernelEmitter::BytesOf(size_t access) const {
  return loop::DTypeBytes(kernel_.buffers[kernel_.accesses[access].buffer].dtype);
}

void KernelEmitter::Advance(const Gp& pointer, int64_t bytes) {
  if (bytes == 0) return;
  if (FitsImmediate(bytes)) {
    cc_.add(pointer, bytes);
    return;
  }
  Gp amount = cc_.newInt64();
  cc_.mov(amount, bytes);
  cc_.add(pointer, amount);
}

void KernelEmitter::EmitElementRange(const Gp& begin, const Gp& end) {
  LoadBufferPointers();
  for (const Pass& pass : schedule_.passes) {
    EmitRowNodes(pass);
    if (!pass.elements.empty()) EmitPass(pass, Range{begin, end, 0});
  }
}

void KernelEmitter::LoadRowSize(const Gp& size, size_t d) {
  if (loop::IsOpen(kernel_.dims[d].size))
    cc_.mov(size, Argument(layout_.Size(d)));
  else
    cc_.mov(size, RowUnits{kernel_, walk_, simd_.lanes}.Size(d));
}

// The row's position by division once, by counting afterwards.
void KernelEmitter::SetPosition(const Gp& first_row) {
  const size_t row_dims = kernel_.dims.size() - 1;
  position_.resize(row_dims);
  Gp rest = cc_.newInt64();
  cc_.mov(rest, first_row);
  for (size_t d = row_dims; d-- > 0;) {
    position_[d] = cc_.newInt64();
    if (d == 0) {
      cc_.mov(position_[d], rest);
      continue;
    }
    Gp size = cc_.newInt64();
    LoadRowSize(size, d);
    cc_.xor_(position_[d].r32(), position_[d].r32());
    cc_.div(position_[d], rest, size);
  }
  for (size_t a = 0; a < kernel_.accesses.size(); ++a) {
    for (size_t d = 0; d < row_dims; ++d) {
      const int64_t stride = kernel_.accesses[a].strides[d];
      if (stride == 0) continue;
      Gp distance = cc_.newInt64();
      if (loop::IsOpen(stride))
        cc_.mov(distance, Argument(layout_.Stride(a, d)));
      else
        cc_.mov(distance, RowUnits{kernel_, walk_, simd_.lanes}.Stride(a, d) * BytesOf(a));
      cc_.imul(distance, position_[d]);
      cc_.add(pointers_[a], distance);
    }
  }
}

// `units` is one for open dimensions.
void KernelEmitter::AdvanceAlong(size_t access, size_t d, int64_t units) {
  const RowUnits rows{kernel_, walk_, simd_.lanes};
  if (rows.IsStepOpen(access, d))
    cc_.add(pointers_[access], Argument(layout_.Step(access, d)));
  else
    Advance(pointers_[access], (rows.Stride(access, d) * units - rows.Undo(access, d)) * BytesOf(access));
}

// By `units` along the last row dimension, whose end they do not pass.
void KernelEmitter::AdvanceRow(int64_t units) {
  const size_t row_dims = kernel_.dims.size() - 1;
  const Label done = cc_.newLabel();
  for (size_t d = row_dims; d-- > 0;) {
    const int64_t steps = d + 1 == row_dims ? units : 1;
    for (size_t a = 0; a < kernel_.accesses.size(); ++a) AdvanceAlong(a, d, steps);
    cc_.add(position_[d], steps);
    if (d == 0) break;
    Gp size = cc_.newInt64();
    LoadRowSize(size, d);
    cc_.cmp(position_[d], size);
    cc_.jl(done);
    cc_.xor_(position_[d].r32(), position_[d].r32());
  }
  cc_.bind(done);
}

void KernelEmitter::EmitRowLoop(const Gp& begin, const Gp& end) {
  LoadBufferPointers();
  SetPosition(begin);
  Gp row = cc_.newInt64("row");
  cc_.mov(row, begin);
  const Label again = cc_.newLabel();
  cc_.bind(again);
  EmitRow();
  AdvanceRow();
  cc_.inc(row);
  cc_.cmp(row, end);
  cc_.jl(again);
}

void KernelEmitter::EmitRow() {
  for (const Pass& pass : schedule_.passes) {
    EmitRowNodes(pass);
    if (pass.elements.empty()) continue;
    Gp zero = cc_.newInt64();
    cc_.xor_(zero.r32(), zero.r32());
    EmitPass(pass, inner_end_.isValid() ? Range{zero, inner_end_, 0} : Range{zero, Gp(), kernel_.inner_size()});
  }
}

Value KernelEmitter::Broadcast(const Gp& value) {
  Reg r = simd_.New();
  cc_.vmovq(r.xmm(), value);
  cc_.emit(Inst::kIdVpbroadcastq, r, r.xmm());
  return Value{{r, r}};
}

void KernelEmitter::Annotate(ValueId id) {
  if (cc_.code()->logger() != nullptr) cc_.comment(("; " + loop::PrintNode(kernel_, id)).c_str());
}

Value KernelEmitter::Compute(ValueId id) {
  const Node& node = kernel_.nodes[id];
  Value operands[3];
  for (int i = 0; i < loop::OperandCount(node.op); ++i) operands[i] = values_[node.operands[i]];
  if (node.op == Op::kCast) {
    return operators_.Cast(kernel_.nodes[node.operands[0]].dtype, node.dtype, operands[0], roundings_[id]);
  }
  if (node.op == Op::kGelu && node.dtype == loop::DType::kFloat32 && read_as_bfloat16_[id]) {
    return operators_.ShortGelu(operands[0]);
  }
  const int typed = node.op == Op::kSelect ? 1 : 0;
  return operators_.Apply(node.op, kernel_.nodes[node.operands[typed]].dtype, operands);
}

void KernelEmitter::EmitRowNodes(const Pass& pass) {
  for (const ValueId id : pass.row_nodes) {
    const Node& node = kernel_.nodes[id];
    if (node.op == Op::kConst) continue;
    Annotate(id);
    if (node.op == Op::kIndex)
      values_[id] = Broadcast(position_[node.attr]);
    else if (node.op == Op::kLoad)
      values_[id] = memory_.LoadScalar(node.dtype, pointers_[node.attr]);
    else if (node.op == Op::kStore)
      memory_.StoreScalar(node.dtype, pointers_[node.attr], values_[node.operands[0]]);
    else
      values_[id] = Compute(id);
  }
}

std::vector<ValueId> KernelEmitter::ReductionsOf(const Pass& pass) const {
  std::vector<ValueId> out;
  for (const ValueId id : pass.elements) {
    if (loop::IsReduction(kernel_.nodes[id].op)) out.push_back(id);
  }
  return out;
}

bool KernelEmitter::HasBlockedSum(const Pass& pass) const {
  const std::vector<ValueId> reductions = ReductionsOf(pass);
  return std::any_of(reductions.begin(), reductions.end(), [&](ValueId id) { return IsBlocked(kernel_.nodes[id]); });
}

int KernelEmitter::ChooseUnroll(const Pass& pass, const Range& range) const {
  int cost = 0;
  for (const ValueId id : pass.elements) cost += loop::OpCost(kernel_, kernel_.nodes[id]);
  int unroll = cost <= 10 ? 4 : cost <= 40 ? 2 : 1;
  // Enough independent accumulators to hide the latency of an addition.
  while (range.is_static() && unroll > 1 && range.end < unroll * simd_.lanes) unroll /= 2;
  return unroll;
}

void KernelEmitter::EmitPass(const Pass& pass, const Range& range) {
  index_ = cc_.newInt64();
  cc_.mov(index_, range.begin);
  const int unroll = ChooseUnroll(pass, range);
  StartReductions(pass, unroll);
  const int64_t step = int64_t{unroll} * simd_.lanes;
  int64_t done = 0;
  bool blocked = false;
  if (!range.is_static() || range.end >= step) {
    blocked = range.is_static() && range.end > kBlockElements && HasBlockedSum(pass);
    if (range.is_static()) done = range.end / step * step;
    if (blocked)
      EmitBlockedLoop(pass, done, unroll);
    else
      EmitUnrolledLoop(pass, range.is_static() ? Range{range.begin, Gp(), done} : range, unroll);
  }
  MergeParts(pass, unroll);
  if (unroll > 1) EmitVectorLoop(pass, range, done);
  EmitTail(pass, range);
  if (blocked) FlushBlockSums(pass, 1);
  FinishReductions(pass);
}

void KernelEmitter::EmitUnrolledLoop(const Pass& pass, const Range& range, int unroll) {
  const int64_t step = int64_t{unroll} * simd_.lanes;
  const Label again = cc_.newLabel(), done = cc_.newLabel();
  Gp last = cc_.newInt64();
  if (!range.is_static()) {
    cc_.mov(last, range.end_register);
    cc_.sub(last, step);
    cc_.cmp(index_, last);
    cc_.jg(done);
  }
  cc_.bind(again);
  for (int part = 0; part < unroll; ++part) EmitGroup(pass, part, nullptr);
  cc_.add(index_, step);
  if (!range.is_static()) {
    cc_.cmp(index_, last);
    cc_.jle(again);
  } else if (range.end > step) {
    cc_.cmp(index_, range.end);
    cc_.jl(again);
  }
  cc_.bind(done);
}

// The unrolled loop in blocks, after each of which sums move to their totals.
void KernelEmitter::EmitBlockedLoop(const Pass& pass, int64_t end, int unroll) {
  const int64_t step = int64_t{unroll} * simd_.lanes;
  const Label next_block = cc_.newLabel(), again = cc_.newLabel();
  Gp block_end = cc_.newInt64(), limit = cc_.newInt64();
  cc_.mov(limit, end);
  cc_.bind(next_block);
  cc_.lea(block_end, x86::ptr(index_, static_cast<int32_t>(kBlockElements)));
  cc_.cmp(block_end, limit);
  cc_.cmovg(block_end, limit);
  cc_.bind(again);
  for (int part = 0; part < unroll; ++part) EmitGroup(pass, part, nullptr);
  cc_.add(index_, step);
  cc_.cmp(index_, block_end);
  cc_.jl(again);
  FlushBlockSums(pass, unroll);
  cc_.cmp(index_, limit);
  cc_.jl(next_block);
}

// What the unrolled loop left in whole vectors.
void KernelEmitter::EmitVectorLoop(const Pass& pass, const Range& range, int64_t already) {
  if (range.is_static() && range.end - already < simd_.lanes) return;
  const int64_t end = range.end / simd_.lanes * simd_.lanes;
  EmitUnrolledLoop(pass, range.is_static() ? Range{range.begin, Gp(), end} : range, 1);
}

void KernelEmitter::EmitTail(const Pass& pass, const Range& range) {
  if (range.is_static() && range.end % simd_.lanes == 0) return;
  const Label done = cc_.newLabel();
  Gp count = cc_.newInt64();
  if (range.is_static()) {
    cc_.mov(count, range.end % simd_.lanes);
  } else {
    cc_.mov(count, range.end_register);
    cc_.sub(count, index_);
    cc_.jle(done);
  }
  const Tail tail = memory_.MakeTail(count);
  EmitGroup(pass, 0, &tail);
  cc_.bind(done);
}

Mem KernelEmitter::RowBuffer(ValueId id, int64_t displacement, int register_index) {
  const int shift = Is64(RegisterType(kernel_.nodes[id].dtype)) ? 3 : 2;
  Mem m = row_buffers_[id];
  m.setSize(0);
  m.setIndex(index_, shift);
  m.addOffset((displacement << shift) + register_index * simd_.vector_bytes());
  return m;
}

bool KernelEmitter::IsGather(ValueId id) const {
  const Node& node = kernel_.nodes[id];
  if (walk_ == Walk::kTiles && IsTransposed(kernel_, node)) return false;
  return node.op == Op::kLoad && schedule_.is_element[id] && kernel_.accesses[node.attr].strides.back() != 1;
}

void KernelEmitter::EmitGroup(const Pass& pass, int part, const Tail* tail) {
  const int64_t displacement = int64_t{part} * simd_.lanes;
  for (const ValueId id : pass.reloaded) {
    Value value;
    for (int i = 0; i < RegisterCount(RegisterType(kernel_.nodes[id].dtype)); ++i) {
      value.r[i] = simd_.Load(RowBuffer(id, displacement, i));
    }
    values_[id] = value;
  }
  // Loads that gather go first: their misses overlap with each other and with what is computed.
  for (const ValueId id : pass.elements) {
    if (IsGather(id)) EmitElement(id, part, tail);
  }
  for (const ValueId id : pass.elements) {
    if (!IsGather(id)) EmitElement(id, part, tail);
    if (!std::binary_search(pass.kept.begin(), pass.kept.end(), id)) continue;
    for (int i = 0; i < RegisterCount(RegisterType(kernel_.nodes[id].dtype)); ++i) {
      cc_.emit(Inst::kIdVmovups, RowBuffer(id, displacement, i), values_[id].r[i]);
    }
  }
}

// first + displacement + lane, as i64.
Value KernelEmitter::LaneIndex(const Gp& first, int64_t displacement) {
  const Value start = Broadcast(first);
  Value out;
  for (int i = 0; i < 2; ++i) {
    int64_t lanes[8];
    for (int lane = 0; lane < 8; ++lane) lanes[lane] = displacement + i * (simd_.lanes / 2) + lane;
    Mem m = cc_.newConst(asmjit::ConstPoolScope::kLocal, lanes, simd_.vector_bytes());
    m.setSize(simd_.vector_bytes());
    out.r[i] = simd_.Op2(Inst::kIdVpaddq, start.r[0], m);
  }
  return out;
}

// The low 32 bits of the same.
Value KernelEmitter::LaneIndex32(const Gp& first, int64_t displacement) {
  Reg start = simd_.New();
  cc_.vmovd(start.xmm(), first.r32());
  cc_.emit(Inst::kIdVpbroadcastd, start, start.xmm());
  int32_t lanes[16];
  for (int lane = 0; lane < 16; ++lane) lanes[lane] = static_cast<int32_t>(displacement) + lane;
  Mem m = cc_.newConst(asmjit::ConstPoolScope::kLocal, lanes, simd_.vector_bytes());
  m.setSize(simd_.vector_bytes());
  return Value{{simd_.Op2(Inst::kIdVpaddd, start, m)}};
}

void KernelEmitter::FindNarrowIndices() {
  narrow_index_.assign(kernel_.nodes.size(), false);
  if (walk_ == Walk::kColumns) return;
  for (size_t id = 0; id < kernel_.nodes.size(); ++id) {
    const Node& node = kernel_.nodes[id];
    narrow_index_[id] = node.op == Op::kIndex && schedule_.is_element[id];
    for (int i = 0; i < loop::OperandCount(node.op); ++i) {
      if (node.op != Op::kCast || node.dtype != loop::DType::kInt32) narrow_index_[node.operands[i]] = false;
    }
  }
}

void KernelEmitter::EmitElement(ValueId id, int part, const Tail* tail) {
  const Node& node = kernel_.nodes[id];
  const int64_t displacement = int64_t{part} * simd_.lanes;
  if (narrow_index_[id]) return;
  Annotate(id);
  if (node.op == Op::kCast && narrow_index_[node.operands[0]]) {
    values_[id] = LaneIndex32(index_, displacement);
    return;
  }
  if (loop::IsReduction(node.op)) {
    EmitReductionStep(id, part, tail);
  } else if (node.op == Op::kIndex) {
    values_[id] = LaneIndex(index_, displacement);
  } else if (node.op == Op::kLoad || node.op == Op::kStore) {
    if (walk_ == Walk::kTiles && IsTransposed(kernel_, node)) {
      values_[id] = LoadFromTile(node);
      return;
    }
    const Lanes lanes{pointers_[node.attr], index_, displacement, kernel_.accesses[node.attr].strides.back()};
    if (node.op == Op::kLoad)
      values_[id] = memory_.LoadVector(node.dtype, lanes, tail);
    else
      memory_.StoreVector(node.dtype, lanes, values_[node.operands[0]], tail);
  } else {
    values_[id] = Compute(id);
  }
}

void KernelEmitter::EmitReductionStep(ValueId id, int part, const Tail* tail) {
  const Node& node = kernel_.nodes[id];
  Value element = values_[node.operands[0]];
  if (tail != nullptr) {
    const Value mask{{tail->mask32, tail->mask32}};
    element = operators_.Select(node.dtype, mask, element, operators_.Identity(node.op, node.dtype));
  }
  SetAccumulator(id, part, operators_.Combine(node.op, node.dtype, element, accumulators_[id][part]));
}

// Accumulators live across loop iterations, so they are the registers that are written more than once.
void KernelEmitter::SetAccumulator(ValueId id, int part, const Value& value) {
  for (int i = 0; i < RegisterCount(kernel_.nodes[id].dtype); ++i) {
    cc_.emit(Inst::kIdVmovaps, accumulators_[id][part].r[i], value.Source(i));
  }
}

void KernelEmitter::StartReductions(const Pass& pass, int parts) {
  for (const ValueId id : ReductionsOf(pass)) {
    const Node& node = kernel_.nodes[id];
    accumulators_[id].assign(parts, Value{});
    for (int part = 0; part < parts; ++part) {
      for (int i = 0; i < RegisterCount(node.dtype); ++i) accumulators_[id][part].r[i] = simd_.New();
      SetAccumulator(id, part, operators_.Identity(node.op, node.dtype));
    }
    if (!IsBlocked(node)) continue;
    totals_[id].assign(parts, Value{});
    for (Value& total : totals_[id]) {
      for (int i = 0; i < RegisterCount(node.dtype); ++i) total.r[i] = simd_.Zero();
    }
  }
}

// Pairwise into part 0.
void KernelEmitter::MergeParts(const Pass& pass, int parts) {
  for (const ValueId id : ReductionsOf(pass)) {
    const Node& node = kernel_.nodes[id];
    for (int distance = parts / 2; distance > 0; distance /= 2) {
      for (int part = 0; part < distance; ++part) {
        SetAccumulator(
            id, part,
            operators_.Combine(node.op, node.dtype, accumulators_[id][part + distance], accumulators_[id][part]));
      }
    }
  }
}

void KernelEmitter::FlushBlockSums(const Pass& pass, int parts) {
  MergeParts(pass, parts);
  for (const ValueId id : ReductionsOf(pass)) {
    const Node& node = kernel_.nodes[id];
    if (!IsBlocked(node)) continue;
    const Value sum = operators_.Combine(node.op, node.dtype, accumulators_[id][0], totals_[id][0]);
    for (int i = 0; i < RegisterCount(node.dtype); ++i) cc_.emit(Inst::kIdVmovaps, totals_[id][0].r[i], sum.r[i]);
    for (int part = 0; part < parts; ++part) SetAccumulator(id, part, operators_.Identity(node.op, node.dtype));
  }
  // Other reductions of the pass were merged into part 0; the rest starts afresh so that nothing counts twice.
  for (const ValueId id : ReductionsOf(pass)) {
    const Node& node = kernel_.nodes[id];
    if (IsBlocked(node)) continue;
    for (int part = 1; part < parts; ++part) SetAccumulator(id, part, operators_.Identity(node.op, node.dtype));
  }
}

void KernelEmitter::FinishReductions(const Pass& pass) {
  const std::vector<ValueId> reductions = ReductionsOf(pass);
  for (const ValueId id : reductions) {
    const Node& node = kernel_.nodes[id];
    Value lanes = accumulators_[id][0];
    if (IsBlocked(node)) lanes = operators_.Combine(node.op, node.dtype, lanes, totals_[id][0]);
    values_[id] = operators_.CombineLanes(node.op, node.dtype, lanes);
  }
}

}  // namespace framejit::cpu
