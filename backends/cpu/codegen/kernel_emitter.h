// Emits the function of one scheduled kernel: the loop over rows, the passes over each row, reductions between them.
// Vectors run along the inner dimension (kernel_emitter.cc) or across neighbouring rows (column_emitter.cc); transposed
// data is turned around tile by tile (tile_emitter.cc).
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_KERNEL_EMITTER_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_KERNEL_EMITTER_H_

#include <vector>

#include "backends/cpu/codegen/memory.h"
#include "backends/cpu/codegen/operators.h"
#include "backends/loop/schedule.h"

namespace framejit::cpu {

// Vectors of `lanes` elements that the last row dimension takes.
int64_t ColumnVectors(const loop::Kernel& kernel, int lanes);

// Whether the load's neighbours along the last row dimension lie side by side, instead of those along the inner one.
bool IsTransposed(const loop::Kernel& kernel, const loop::Node& node);
// Whether a kernel without reductions has such loads and walks them in tiles of the size that tile_emitter.cc takes.
bool HasTransposedTiles(const loop::Kernel& kernel);
int64_t RowsOfTile();

// What a pass may keep of a row, on the stack: fits the second-level cache with room for the inputs.
inline constexpr int64_t kRowBufferBytes = 64 * 1024;
// Longest run of elements one accumulator adds up before it goes into a total: with a few dozen lanes this keeps the
// error of a sum near that of a pairwise one.
inline constexpr int64_t kBlockElements = 4096;

// Of kColumns: the run of elements that one lane adds up before they go into a total, about the square root of all, so
// that neither the runs nor the totals are long chains of additions.
int64_t BlockOfColumn(int64_t count);

// What the code of an open kernel reads at each call: sizes as rows are counted, and what pointers move by, in bytes.
// The layout depends on the numbers of dimensions and accesses alone.
struct Arguments {
  explicit Arguments(size_t dims) : dims(dims) {}
  size_t Size(size_t d) const { return d; }
  size_t Offset(size_t access) const { return dims + access * (1 + 2 * dims); }
  size_t Stride(size_t access, size_t d) const { return Offset(access) + 1 + d; }
  // From the last position of the row dimensions inside d to the first of the next one along d.
  size_t Step(size_t access, size_t d) const { return Offset(access) + 1 + dims + d; }
  size_t dims;
};
// For a closed kernel.
std::vector<int64_t> ArgumentsOf(const loop::Kernel& kernel, Walk walk, Isa isa);

// What an emitter is given besides the kernel, which may be open.
struct Emission {
  const loop::Schedule& schedule;  // of the closed kernel
  Walk walk;
  int64_t column_block;  // of kColumns: BlockOfColumn
};

class KernelEmitter {
 public:
  KernelEmitter(x86::Compiler& cc, Isa isa, const loop::Kernel& kernel, const Emission& emission);
  void Emit();

 private:
  // The elements a pass covers: [begin, end), end constant unless end_register is valid.
  struct Range {
    Gp begin;
    Gp end_register;
    int64_t end = 0;
    bool is_static() const { return !end_register.isValid(); }
  };

  void EmitElementRange(const Gp& begin, const Gp& end);
  // column_emitter.cc: `parts` neighbouring vectors of rows at a time; `tail` masks the last rows.
  void EmitColumnLoop(const Gp& begin, const Gp& end);
  void EmitStrip(int parts, const Tail* tail);
  void EmitColumnPass(const loop::Pass& pass, int parts, const Tail* tail);
  void EmitColumnRowNodes(const loop::Pass& pass, int part, const Tail* tail);
  void EmitColumnElement(loop::ValueId id, int part, const Tail* tail);
  Value LoadColumn(const loop::Node& node, const Gp& pointer, int part, const Tail* tail);
  void StoreColumn(const loop::Node& node, const Gp& pointer, int part, const Tail* tail);
  void FlushColumnSums(const loop::Pass& pass, int parts);
  void FinishColumns(const loop::Pass& pass, int parts);
  int ChooseStrip() const;
  // tile_emitter.cc.
  void EmitTileLoop(const Gp& begin, const Gp& end);
  void TransposeTile(const loop::Node& node);
  Value LoadFromTile(const loop::Node& node);
  void EmitRowLoop(const Gp& begin, const Gp& end);
  void EmitRow();
  void LoadBufferPointers();
  void SetPosition(const Gp& first_row);
  void AdvanceRow(int64_t units = 1);
  // Units along a row dimension, and what an access moves from one to the next.
  void LoadRowSize(const Gp& size, size_t d);
  void AdvanceAlong(size_t access, size_t d, int64_t units);
  int64_t BytesOf(size_t access) const;
  void Advance(const Gp& pointer, int64_t bytes);
  Mem Argument(size_t word) const { return x86::qword_ptr(arguments_, static_cast<int32_t>(word * 8)); }
  Mem NewRowBuffer(loop::ValueId id);

  void EmitRowNodes(const loop::Pass& pass);
  void EmitPass(const loop::Pass& pass, const Range& range);
  void EmitUnrolledLoop(const loop::Pass& pass, const Range& range, int unroll);
  void EmitBlockedLoop(const loop::Pass& pass, int64_t end, int unroll);
  void EmitVectorLoop(const loop::Pass& pass, const Range& range, int64_t already);
  void EmitTail(const loop::Pass& pass, const Range& range);
  // One vector of elements at index_ + displacement; `part` chooses the accumulators.
  void EmitGroup(const loop::Pass& pass, int part, const Tail* tail);
  bool IsGather(loop::ValueId id) const;
  void EmitElement(loop::ValueId id, int part, const Tail* tail);
  void EmitReductionStep(loop::ValueId id, int part, const Tail* tail);
  Value LaneIndex(const Gp& first, int64_t displacement);
  Value LaneIndex32(const Gp& first, int64_t displacement);
  void FindNarrowIndices();
  Value Broadcast(const Gp& value);
  Mem RowBuffer(loop::ValueId id, int64_t displacement, int register_index);
  int ChooseUnroll(const loop::Pass& pass, const Range& range) const;
  Value Compute(loop::ValueId id);
  // Names the node whose instructions follow, where somebody reads them.
  void Annotate(loop::ValueId id);

  void StartReductions(const loop::Pass& pass, int parts);
  static bool IsBlocked(const loop::Node& node);
  bool HasBlockedSum(const loop::Pass& pass) const;
  void SetAccumulator(loop::ValueId id, int part, const Value& value);
  void MergeParts(const loop::Pass& pass, int parts);
  void FlushBlockSums(const loop::Pass& pass, int parts);
  void FinishReductions(const loop::Pass& pass);
  std::vector<loop::ValueId> ReductionsOf(const loop::Pass& pass) const;

  x86::Compiler& cc_;
  Simd simd_;
  Operators operators_;
  Memory memory_;
  const loop::Kernel& kernel_;
  const loop::Schedule& schedule_;
  const Walk walk_;
  const int64_t column_block_;
  const Arguments layout_;

  Gp buffers_;
  Gp arguments_;
  Gp inner_end_;                                  // the size of an open inner dimension
  Gp index_;                                      // inner position of the current group; of kColumns, of the loop
  std::vector<Gp> pointers_;                      // by access: element 0 of the current row
  std::vector<Gp> position_;                      // of the current row in each row dimension
  std::vector<Value> values_;                     // by ValueId
  std::vector<Rounding> roundings_;               // by ValueId: of casts to narrow floats
  std::vector<bool> read_as_bfloat16_;            // by ValueId
  std::vector<bool> narrow_index_;                // by ValueId: inner positions that are only read as i32
  std::vector<std::vector<Value>> accumulators_;  // by ValueId of a reduction, by part
  std::vector<std::vector<Value>> totals_;        // by ValueId, by part: sums of finished blocks
  std::vector<Mem> row_buffers_;                  // by ValueId
  std::vector<std::vector<Value>> strip_;         // kColumns: values_ of each vector of the strip but the current one
  std::vector<Mem> tiles_;                        // kTiles, by access: the tile, its rows one after another
  Gp tile_row_;                                   // kTiles: bytes from a tile's begin to the current row
  std::vector<Gp> moving_;                        // kColumns, by access: pointers_ at the inner position
};

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_KERNEL_EMITTER_H_
