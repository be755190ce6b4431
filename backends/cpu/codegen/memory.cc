// See memory.h.
#include "backends/cpu/codegen/memory.h"

#include <bit>
#include <limits>

namespace framejit::cpu {
namespace {

using loop::DType;

// lanes [0, count) of a vector loaded at kTailMasks + 16 - count are all ones.
alignas(64) constexpr int32_t kTailMasks[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

uint32_t ShiftOf(int64_t bytes) { return static_cast<uint32_t>(std::countr_zero(static_cast<uint64_t>(bytes))); }

InstId NarrowMove(int64_t bytes) { return bytes == 2 ? Inst::kIdVmovdqu16 : Inst::kIdVmovdqu8; }

bool FitsDisplacement(int64_t value) { return value > -(int64_t{1} << 30) && value < (int64_t{1} << 30); }

}  // namespace

Mem Memory::Scratch() {
  if (!has_scratch_) scratch_ = s.cc.newStack(2 * s.vector_bytes(), 64);
  has_scratch_ = true;
  return scratch_;
}

Mem Memory::Address(const Lanes& lanes, int64_t bytes, int register_index) const {
  const int64_t displacement = lanes.displacement * bytes + register_index * s.vector_bytes();
  if (!lanes.index.isValid()) return x86::ptr(lanes.base, static_cast<int32_t>(displacement));
  return x86::ptr(lanes.base, lanes.index, ShiftOf(bytes), static_cast<int32_t>(displacement));
}

Tail Memory::MakeTail(const Gp& count) {
  Gp table = s.cc.newIntPtr(), offset = s.cc.newInt64();
  s.cc.mov(table, reinterpret_cast<uint64_t>(kTailMasks + 16));
  s.cc.mov(offset, count);
  s.cc.neg(offset);
  Tail tail;
  tail.count = count;
  tail.mask32 = s.Load(x86::ptr(table, offset, 2));
  s.Widen(tail.mask32, tail.mask64);
  return tail;
}

// From contiguous storage at `at` to registers, all lanes.
Value Memory::Unpack(DType dtype, const Mem& at) {
  if (loop::DTypeBytes(dtype) < 4) return Value{{UnpackNarrow(dtype, at)}};
  Value out;
  for (int i = 0; i < RegisterCount(dtype); ++i) out.r[i] = s.Load(at.cloneAdjusted(i * s.vector_bytes()));
  return out;
}

// The same of elements of one or two bytes, which may also lie side by side in the low part of a register.
Reg Memory::UnpackNarrow(DType dtype, const Operand& from) {
  switch (dtype) {
    case DType::kUInt8:
      return s.Op1(Inst::kIdVpmovzxbd, from);
    case DType::kInt8:
      return s.Op1(Inst::kIdVpmovsxbd, from);
    case DType::kInt16:
      return s.Op1(Inst::kIdVpmovsxwd, from);
    case DType::kBFloat16:
      return s.Shift(Inst::kIdVpslld, s.Op1(Inst::kIdVpmovzxwd, from), 16);
    case DType::kFloat16:
      return s.Op1(Inst::kIdVcvtph2ps, from);
    default:
      return s.CompareI32(s.Op1(Inst::kIdVpmovzxbd, from), s.Zero(), kGreater);  // bool
  }
}

// The low bits of each 32-bit lane as they are stored; upper bits clear (AVX2 packs with saturation).
Reg Memory::StorageBits(DType dtype, const Reg& value) {
  switch (dtype) {
    case DType::kBool:
      return s.And(value, s.Splat32(1));
    case DType::kUInt8:
    case DType::kInt8:
      return s.And(value, s.Splat32(0xff));
    case DType::kInt16:
      return s.And(value, s.Splat32(0xffff));
    case DType::kBFloat16:
      return s.Shift(Inst::kIdVpsrld, value, 16);
    case DType::kInt32:
    case DType::kInt64:
    case DType::kFloat16:
    case DType::kFloat32:
    case DType::kFloat64:
      break;
  }
  return value;
}

// Low 16 bits of each lane, in the lower half of a register.
Reg Memory::PackBytes16(const Reg& value) {
  Reg d = s.New();
  if (s.wide) {
    s.cc.emit(Inst::kIdVpmovdw, s.Half(d), value);
    return d;
  }
  const Reg pairs = s.Op2(Inst::kIdVpackusdw, value, value);
  s.cc.emit(Inst::kIdVpermq, d, pairs, Imm(0x08));
  return d;
}

// Low 8 bits of each lane, in the lowest quarter of a register.
Reg Memory::PackBytes8(const Reg& value) {
  Reg d = s.New();
  if (s.wide) {
    s.cc.emit(Inst::kIdVpmovdb, d.xmm(), value);
    return d;
  }
  const Reg words = PackBytes16(value);
  s.cc.emit(Inst::kIdVpackuswb, d.xmm(), words.xmm(), words.xmm());
  return d;
}

// Elements of one or two bytes side by side in the low part of a register.
Reg Memory::PackNarrow(DType dtype, const Value& value) {
  const Reg r = value.is_constant ? s.Load(value.constant) : value.r[0];
  if (dtype == DType::kFloat16) {
    const Reg d = s.New();
    s.cc.emit(Inst::kIdVcvtps2ph, s.Half(d), r, Imm(0));
    return s.Half(d);
  }
  const Reg bits = StorageBits(dtype, r);
  return loop::DTypeBytes(dtype) == 2 ? s.Half(PackBytes16(bits)) : PackBytes8(bits).xmm();
}

void Memory::Pack(DType dtype, const Mem& at, const Value& value) {
  const int64_t bytes = loop::DTypeBytes(dtype);
  if (bytes == 1) {
    s.cc.emit(s.wide ? Inst::kIdVmovups : Inst::kIdVmovq, at, PackNarrow(dtype, value));
    return;
  }
  if (bytes == 2) {
    s.cc.emit(Inst::kIdVmovups, at, PackNarrow(dtype, value));
    return;
  }
  for (int i = 0; i < RegisterCount(dtype); ++i) {
    const Reg r = value.is_constant ? s.Load(value.constant) : value.r[i];
    s.cc.emit(Inst::kIdVmovups, at.cloneAdjusted(i * s.vector_bytes()), r);
  }
}

void Memory::UnpackMaskedWide(DType dtype, const Mem& at, const Tail& tail, Value& out) {
  const bool doubles = Is64(dtype);
  for (int i = 0; i < RegisterCount(dtype); ++i) {
    const Mem from = at.cloneAdjusted(i * s.vector_bytes());
    out.r[i] = s.New();
    if (!s.wide) {
      s.cc.emit(doubles ? Inst::kIdVmaskmovpd : Inst::kIdVmaskmovps, out.r[i], doubles ? tail.mask64[i] : tail.mask32,
                from);
      continue;
    }
    x86::KReg k = s.cc.newKw();
    if (doubles)
      s.cc.vpmovq2m(k, tail.mask64[i]);
    else
      s.cc.vpmovd2m(k, tail.mask32);
    s.cc.k(k).z().emit(doubles ? Inst::kIdVmovupd : Inst::kIdVmovups, out.r[i], from);
  }
}

void Memory::PackMaskedWide(DType dtype, const Mem& at, const Value& value, const Tail& tail) {
  const bool doubles = Is64(dtype);
  for (int i = 0; i < RegisterCount(dtype); ++i) {
    const Mem to = at.cloneAdjusted(i * s.vector_bytes());
    const Reg r = value.is_constant ? s.Load(value.constant) : value.r[i];
    if (!s.wide) {
      s.cc.emit(doubles ? Inst::kIdVmaskmovpd : Inst::kIdVmaskmovps, to, doubles ? tail.mask64[i] : tail.mask32, r);
      continue;
    }
    x86::KReg k = s.cc.newKw();
    if (doubles)
      s.cc.vpmovq2m(k, tail.mask64[i]);
    else
      s.cc.vpmovd2m(k, tail.mask32);
    s.cc.k(k).emit(doubles ? Inst::kIdVmovupd : Inst::kIdVmovups, to, r);
  }
}

void Memory::CopyElement(int64_t bytes, const Mem& from, const Mem& to) {
  Gp value = s.cc.newInt64();
  Mem source = from, target = to;
  source.setSize(static_cast<uint32_t>(bytes));
  target.setSize(static_cast<uint32_t>(bytes));
  if (bytes == 8)
    s.cc.mov(value, source);
  else if (bytes == 4)
    s.cc.mov(value.r32(), source);
  else
    s.cc.movzx(value.r32(), source);
  if (bytes == 8)
    s.cc.mov(target, value);
  else if (bytes == 4)
    s.cc.mov(target, value.r32());
  else if (bytes == 2)
    s.cc.mov(target, value.r16());
  else
    s.cc.mov(target, value.r8());
}

// Address of lane 0.
Gp Memory::FirstElement(const Lanes& lanes, int64_t bytes) {
  Gp element = s.cc.newInt64();
  if (lanes.index.isValid())
    s.cc.mov(element, lanes.index);
  else
    s.cc.xor_(element.r32(), element.r32());
  if (lanes.displacement != 0) s.cc.add(element, lanes.displacement);
  Gp step = s.cc.newInt64();
  s.cc.mov(step, lanes.stride * bytes);
  s.cc.imul(element, step);
  s.cc.add(element, lanes.base);
  return element;
}

void Memory::CopyLanes(DType dtype, const Lanes& lanes, const Tail* tail, bool to_scratch) {
  const int64_t bytes = loop::DTypeBytes(dtype);
  const int64_t step = lanes.stride * bytes;
  const Gp element = FirstElement(lanes, bytes);
  Gp step_register = s.cc.newInt64();
  s.cc.mov(step_register, step);
  const Mem scratch = Scratch();
  if (tail == nullptr && FitsDisplacement(step * s.lanes)) {
    for (int lane = 0; lane < s.lanes; ++lane) {
      const Mem outside = x86::ptr(element, static_cast<int32_t>(lane * step));
      const Mem inside = scratch.cloneAdjusted(lane * bytes);
      CopyElement(bytes, to_scratch ? outside : inside, to_scratch ? inside : outside);
    }
    return;
  }
  Gp lane = s.cc.newInt64();
  s.cc.xor_(lane.r32(), lane.r32());
  const Label again = s.cc.newLabel();
  s.cc.bind(again);
  Mem inside = scratch;
  inside.setIndex(lane, ShiftOf(bytes));
  const Mem outside = x86::ptr(element);
  CopyElement(bytes, to_scratch ? outside : inside, to_scratch ? inside : outside);
  s.cc.add(element, step_register);
  s.cc.inc(lane);
  if (tail == nullptr)
    s.cc.cmp(lane, s.lanes);
  else
    s.cc.cmp(lane, tail->count);
  s.cc.jl(again);
}

Value Memory::LoadMasked(DType dtype, const Lanes& lanes, const Tail& tail) {
  const int64_t bytes = loop::DTypeBytes(dtype);
  Value out;
  if (bytes >= 4) {
    UnpackMaskedWide(dtype, Address(lanes, bytes, 0), tail, out);
    return out;
  }
  if (s.wide) {
    const Reg d = s.New();
    const Reg part = bytes == 2 ? s.Half(d) : static_cast<Reg>(d.xmm());
    s.cc.k(s.MaskBits(tail.mask32)).z().emit(NarrowMove(bytes), part, Address(lanes, bytes, 0));
    out.r[0] = UnpackNarrow(dtype, part);
    return out;
  }
  CopyLanes(dtype, lanes, &tail, true);
  return Unpack(dtype, Scratch());
}

void Memory::StoreMasked(DType dtype, const Lanes& lanes, const Value& value, const Tail& tail) {
  const int64_t bytes = loop::DTypeBytes(dtype);
  if (bytes >= 4) return PackMaskedWide(dtype, Address(lanes, bytes, 0), value, tail);
  if (s.wide) {
    const Reg packed = PackNarrow(dtype, value);
    s.cc.k(s.MaskBits(tail.mask32)).emit(NarrowMove(bytes), Address(lanes, bytes, 0), packed);
    return;
  }
  Pack(dtype, Scratch(), value);
  CopyLanes(dtype, lanes, &tail, false);
}

// Elements lane, lane + 1, ... a step apart, side by side in the low 16 bytes of a register.
Reg Memory::GatherQuarter(const Gp& first, int64_t step, int64_t bytes, int lane) {
  Reg d = s.New();
  const auto at = [&](int i) { return x86::ptr(first, static_cast<int32_t>((lane + i) * step)); };
  if (bytes == 8) {
    s.cc.vmovsd(d.xmm(), at(0));
    s.cc.vmovhps(d.xmm(), d.xmm(), at(1));
    return d;
  }
  s.cc.vmovss(d.xmm(), at(0));
  for (int i = 1; i < 4; ++i) s.cc.vinsertps(d.xmm(), d.xmm(), at(i), i << 4);
  return d;
}

Reg Memory::GatherRegister(const Gp& first, int64_t step, int64_t bytes, int lane) {
  const int in_quarter = static_cast<int>(16 / bytes);
  const auto half = [&](int from) {
    const Reg low = GatherQuarter(first, step, bytes, from);
    const Reg high = GatherQuarter(first, step, bytes, from + in_quarter);
    Reg d = s.New();
    s.cc.emit(Inst::kIdVinserti128, d.ymm(), low.ymm(), high.xmm(), Imm(1));
    return d;
  };
  if (!s.wide) return half(lane);
  const Reg low = half(lane), high = half(lane + 2 * in_quarter);
  return s.Join(s.Half(low), s.Half(high));
}

Value Memory::LoadVector(DType dtype, const Lanes& lanes, const Tail* tail) {
  const int64_t bytes = loop::DTypeBytes(dtype), step = lanes.stride * bytes;
  if (lanes.stride != 1 && bytes >= 4 && tail == nullptr && FitsDisplacement(step * s.lanes)) {
    const Gp first = FirstElement(lanes, bytes);
    Value out;
    for (int i = 0; i < RegisterCount(dtype); ++i) {
      out.r[i] = GatherRegister(first, step, bytes, i * static_cast<int>(s.vector_bytes() / bytes));
    }
    return out;
  }
  if (lanes.stride != 1) {
    CopyLanes(dtype, lanes, tail, true);
    return Unpack(dtype, Scratch());
  }
  if (tail != nullptr) return LoadMasked(dtype, lanes, *tail);
  return Unpack(dtype, Address(lanes, loop::DTypeBytes(dtype), 0));
}

void Memory::StoreVector(DType dtype, const Lanes& lanes, const Value& value, const Tail* tail) {
  if (lanes.stride != 1) {
    Pack(dtype, Scratch(), value);
    CopyLanes(dtype, lanes, tail, false);
  } else if (tail != nullptr) {
    StoreMasked(dtype, lanes, value, *tail);
  } else {
    Pack(dtype, Address(lanes, loop::DTypeBytes(dtype), 0), value);
  }
}

Value Memory::LoadScalar(DType dtype, const Gp& pointer) {
  Reg r = s.New();
  Gp bits = s.cc.newInt32();
  const auto broadcast_bits = [&] {
    s.cc.vmovd(r.xmm(), bits);
    s.cc.emit(Inst::kIdVpbroadcastd, r, r.xmm());
  };
  switch (dtype) {
    case DType::kFloat32:
    case DType::kInt32:
      s.cc.emit(Inst::kIdVbroadcastss, r, x86::dword_ptr(pointer));
      break;
    case DType::kFloat64:
    case DType::kInt64:
      s.cc.emit(Inst::kIdVbroadcastsd, r, x86::qword_ptr(pointer));
      break;
    case DType::kUInt8:
      s.cc.movzx(bits, x86::byte_ptr(pointer));
      broadcast_bits();
      break;
    case DType::kInt8:
      s.cc.movsx(bits, x86::byte_ptr(pointer));
      broadcast_bits();
      break;
    case DType::kInt16:
      s.cc.movsx(bits, x86::word_ptr(pointer));
      broadcast_bits();
      break;
    case DType::kBFloat16:
      s.cc.movzx(bits, x86::word_ptr(pointer));
      s.cc.shl(bits, 16);
      broadcast_bits();
      break;
    case DType::kFloat16:
      s.cc.movzx(bits, x86::word_ptr(pointer));
      s.cc.vmovd(r.xmm(), bits);
      s.cc.vcvtph2ps(r.xmm(), r.xmm());
      s.cc.emit(Inst::kIdVbroadcastss, r, r.xmm());
      break;
    case DType::kBool:
      s.cc.movzx(bits, x86::byte_ptr(pointer));
      s.cc.neg(bits);        // carry: not zero
      s.cc.sbb(bits, bits);  // all ones then
      broadcast_bits();
      break;
  }
  return Value{{r, r}};
}

void Memory::StoreScalar(DType dtype, const Gp& pointer, const Value& value) {
  // A fresh copy: asmjit's register allocator would replace a spilled source of vmovd by its stack slot, and "vmovd
  // r32, m32" is encoded as a load into the vector register of that number.
  const Reg r = value.is_constant ? s.Load(value.constant) : s.Copy(value.r[0]);
  Gp bits = s.cc.newInt32();
  switch (dtype) {
    case DType::kFloat32:
    case DType::kInt32:
      s.cc.vmovss(x86::dword_ptr(pointer), r.xmm());
      return;
    case DType::kFloat64:
    case DType::kInt64:
      s.cc.vmovsd(x86::qword_ptr(pointer), r.xmm());
      return;
    case DType::kFloat16: {
      Reg half = s.New();
      s.cc.vcvtps2ph(half.xmm(), r.xmm(), 0);
      s.cc.vmovd(bits, half.xmm());
      break;
    }
    case DType::kBool:
    case DType::kUInt8:
    case DType::kInt8:
    case DType::kInt16:
    case DType::kBFloat16:
      s.cc.vmovd(bits, r.xmm());
      if (dtype == DType::kBool) s.cc.and_(bits, 1);
      if (dtype == DType::kBFloat16) s.cc.shr(bits, 16);
      break;
  }
  if (loop::DTypeBytes(dtype) == 2)
    s.cc.mov(x86::word_ptr(pointer), bits.r16());
  else
    s.cc.mov(x86::byte_ptr(pointer), bits.r8());
}

}  // namespace framejit::cpu
