// What generated kernels are written in terms of: storage types, accesses of several elements, operators whose meaning
// differs from C++'s, and reductions over lanes.
#ifndef FRAMEJIT_BACKENDS_CUDA_CODEGEN_PRELUDE_H_
#define FRAMEJIT_BACKENDS_CUDA_CODEGEN_PRELUDE_H_

namespace framejit::cuda {

// Storage types and their conversions, in the machine's own instructions.
inline constexpr char kTypesPrelude[] = R"cuda(
#define FJ __device__ __forceinline__
typedef unsigned char u8;
typedef signed char i8;
typedef short i16;
typedef long long i64;
typedef unsigned long long u64;
struct f16 { unsigned short bits; };
struct bf16 { unsigned short bits; };


FJ float Float(f16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
FJ float Float(bf16 x) { return __int_as_float((int)((unsigned)x.bits << 16)); }
// Rounded beside a zero: the conversion of two numbers is an instruction of the fast pipe, that of one is not. (A chain
// of gelu and sigmoid in bfloat16 reads and writes 0.98 of what a copy does on an H100, and 0.85 otherwise.)
FJ f16 Half(float x) {
  unsigned y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(0.0f), "f"(x));
  f16 z;
  z.bits = (unsigned short)y;
  return z;
}
FJ bf16 BFloat(float x) {
  unsigned y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(0.0f), "f"(x));
  bf16 z;
  z.bits = (unsigned short)y;
  return z;
}
// Within two units in the last place; denormal results of Exp2 are zero.
FJ float ApproximateExp2(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
// Of 1 and more: within a unit in the last place; zero where it would be denormal.
FJ float ApproximateReciprocal(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
FJ float ApproximateDiv(float x, float y) {
  float z;
  asm("div.full.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}

)cuda";

// The rest, which any C++ compiler takes.
inline constexpr char kPrelude[] = R"cuda(
template <int kBytes> struct Raw;
template <> struct Raw<16> { typedef uint4 type; };
template <> struct Raw<8> { typedef uint2 type; };
template <> struct Raw<4> { typedef unsigned type; };
template <> struct Raw<2> { typedef unsigned short type; };
template <> struct Raw<1> { typedef u8 type; };

template <class T, int N> struct Vec {
  static constexpr int kBytes = sizeof(T) * N, kChunk = kBytes < 16 ? kBytes : 16;
  typedef typename Raw<kChunk>::type Chunk;
  union { T at[N]; Chunk chunks[kBytes / kChunk]; };
  FJ Vec() {}
};
template <int N, class T> FJ Vec<T, N> Load(const T* from) {
  typedef Vec<T, N> V;
  V x;
#pragma unroll
  for (int c = 0; c < V::kBytes / V::kChunk; ++c) x.chunks[c] = ((const typename V::Chunk*)from)[c];
  return x;
}
template <int N, class T> FJ Vec<T, N> Gather(const T* from, i64 stride) {
  Vec<T, N> x;
#pragma unroll
  for (int w = 0; w < N; ++w) x.at[w] = from[w * stride];
  return x;
}
template <int N, class T> FJ void Store(T* to, const Vec<T, N>& x) {
  typedef Vec<T, N> V;
#pragma unroll
  for (int c = 0; c < V::kBytes / V::kChunk; ++c) ((typename V::Chunk*)to)[c] = x.chunks[c];
}
template <int N, class T> FJ void Scatter(T* to, i64 stride, const Vec<T, N>& x) {
#pragma unroll
  for (int w = 0; w < N; ++w) to[w * stride] = x.at[w];
}

// Integers wrap.
FJ int Neg(int x) { return (int)(0u - (unsigned)x); }
FJ i64 Neg(i64 x) { return (i64)(0ull - (u64)x); }
FJ int Add(int x, int y) { return (int)((unsigned)x + (unsigned)y); }
FJ i64 Add(i64 x, i64 y) { return (i64)((u64)x + (u64)y); }
FJ float Add(float x, float y) { return x + y; }
FJ double Add(double x, double y) { return x + y; }
FJ int Sub(int x, int y) { return (int)((unsigned)x - (unsigned)y); }
FJ i64 Sub(i64 x, i64 y) { return (i64)((u64)x - (u64)y); }
FJ int Mul(int x, int y) { return (int)((unsigned)x * (unsigned)y); }
FJ i64 Mul(i64 x, i64 y) { return (i64)((u64)x * (u64)y); }
FJ float Mul(float x, float y) { return x * y; }
FJ double Mul(double x, double y) { return x * y; }
// NaN if either is NaN; of two equal ones the second.
template <class T> FJ T Min(T x, T y) { return x != x || x < y ? x : y; }
template <class T> FJ T Max(T x, T y) { return x != x || x > y ? x : y; }

FJ float NormalCdf(float x) { return 0.5f * erfcf(x * -0.707106781f); }
FJ double NormalCdf(double x) { return 0.5 * erfc(x * -0.70710678118654752); }
FJ float ExpNonPositive(float x) {
  const float y = expf(Min(x, 0.0f));
  return y < 1.17549435e-38f ? 0.0f : y;
}
FJ double ExpNonPositive(double x) {
  const double y = exp(Min(x, 0.0));
  return y < 2.2250738585072014e-308 ? 0.0 : y;
}

// Relative error 2^-17 for the largest |x| whose result is finite, and less for smaller ones.
FJ float ApproximateExp(float x) { return ApproximateExp2(x * 1.442695041f); }
// Of -t, t >= 0, it is 2^p(t); the polynomial is that of backends/cpu/codegen/math.cc.
FJ float ApproximateNormalCdf(float x) {
  const float t = Min(fabsf(x), 16.0f);
  float p = -7.681828719796613e-7f;
  p = fmaf(p, t, 1.3339327779249288e-5f);
  p = fmaf(p, t, -5.7818659115582705e-5f);
  p = fmaf(p, t, -4.521507944446057e-4f);
  p = fmaf(p, t, 7.471939083188772e-3f);
  p = fmaf(p, t, -5.2769359201192856e-2f);
  p = fmaf(p, t, -4.5912304520606995e-1f);
  p = fmaf(p, t, -1.151114821434021f);
  p = fmaf(p, t, -9.999998211860657e-1f);
  const float tail = ApproximateExp2(p);
  return x < 0 ? tail : 1.0f - tail;
}

FJ float Finite(float most) { return most == -__int_as_float(0x7f800000) ? 0.0f : most; }
FJ double Finite(double most) { return most == -__longlong_as_double(0x7ff0000000000000ll) ? 0.0 : most; }

struct SumOf { template <class T> static FJ T Of(T x, T y) { return Add(x, y); } };
struct ProdOf { template <class T> static FJ T Of(T x, T y) { return Mul(x, y); } };
struct MaxOf { template <class T> static FJ T Of(T x, T y) { return Max(x, y); } };
struct MinOf { template <class T> static FJ T Of(T x, T y) { return Min(x, y); } };

// Over neighbouring lanes of a warp; all of them get the result.
template <class Op, int kLanes, class T> FJ T ReduceWarp(T x) {
  const unsigned first = (threadIdx.y * kLanes + threadIdx.x) % 32u / kLanes * kLanes;  // lane of the warp
  const unsigned mask = kLanes == 32 ? 0xffffffffu : ((1u << (kLanes % 32)) - 1u) << first;
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x = Op::Of(x, __shfl_xor_sync(mask, x, step));
  return x;
}
// Over the lanes of a row: neighbours, up to a block. `shared`: one place for each warp, used by this reduction alone.
template <class Op, int kLanes, class T> FJ T ReduceRow(T x, T* shared) {
  if (kLanes <= 32) return ReduceWarp<Op, kLanes <= 32 ? kLanes : 32>(x);
  x = ReduceWarp<Op, 32>(x);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  constexpr int kWarps = kLanes <= 32 ? 1 : kLanes / 32;
  x = shared[threadIdx.x % kWarps];
#pragma unroll
  for (int step = kWarps / 2; step > 0; step /= 2) x = Op::Of(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
// Over the lanes of a column, which lie 32 threads apart. `shared`: one place for each thread.
template <class Op, int kLanes, class T> FJ T ReduceColumn(T x, T* shared) {
  T* own = shared + threadIdx.y * 32 + threadIdx.x;
  *own = x;
  __syncthreads();
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    if (threadIdx.y < step) *own = Op::Of(*own, own[step * 32]);
    __syncthreads();
  }
  return shared[threadIdx.x];
}
)cuda";

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_CODEGEN_PRELUDE_H_
