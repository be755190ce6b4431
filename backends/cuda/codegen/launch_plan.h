// How a kernel is spread over a GPU: one decision per kernel, made before its source is generated and printed with it.
#ifndef FRAMEJIT_BACKENDS_CUDA_CODEGEN_LAUNCH_PLAN_H_
#define FRAMEJIT_BACKENDS_CUDA_CODEGEN_LAUNCH_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "backends/loop/loop_ir.h"
#include "backends/loop/open.h"

namespace framejit::cuda {

// What threads run along.
enum class Spread : uint8_t {
  kElements,  // no reductions: each thread computes `vector` neighbours along the inner dimension
  kTiles,     // no reductions: a block computes a square, whose transposed loads it makes along their memory
  kRows,      // `lanes` neighbouring threads reduce a row; up to a warp through shuffles, beyond through shared memory
  kColumns,   // rows are contiguous along the last row dimension and strided along the inner one: neighbouring threads
              // take neighbouring rows, and `lanes` threads above each other reduce one
};

struct LaunchPlan {
  Spread spread = Spread::kElements;
  int vector = 1;                // elements of one access along the inner dimension
  int lanes = 1;                 // threads that share a row, a power of two
  int rows_per_block = 1;        // rows that a block computes side by side
  int steps = 1;                 // vectors that a thread takes: of a row, or of its part of the elements
  bool resident = false;         // what a lane loads of a row stays in its registers from pass to pass
  int64_t kept_bytes = 0;        // if so: of values it computed that may stay there, too
  bool wide_index = false;       // 64-bit offsets
  std::vector<bool> vectorised;  // by access: aligned where its buffer is; others go element by element
  int tile = 0;                  // of kTiles: elements of a side of the square
  size_t along = 0;              // of kTiles: its other dimension, along which the staged loads are contiguous
  std::vector<bool> staged;      // of kTiles, by access: through shared memory
  int threads = 1;               // of a block
  int64_t blocks = 0;            // 0: nothing to do

  // Bytes that the address of the buffer must be a multiple of for the plan to hold.
  int AlignmentOf(const loop::Kernel& kernel, int32_t buffer) const;
};

// loop::Canonicalize, with transposed loads left whole where tiles of threads take them.
void Canonicalize(loop::Kernel& kernel);

// A step away from what the cost model chooses: how often each is doubled (or halved, where negative), as far as the
// kernel lets it be.
struct PlanChange {
  int lanes = 0;    // of kRows and kColumns
  int threads = 0;  // of a block, but of kColumns
  int steps = 0;    // of kElements
  int tile = 0;     // of kTiles
};

// Of a canonical kernel. `max_vector`: 1 for buffers of any alignment.
LaunchPlan PlanLaunch(const loop::Kernel& kernel, int max_vector = 16, PlanChange change = {});

// What is worth measuring: no change, then those that give other plans, each another one.
std::vector<PlanChange> ChangesToTry(const loop::Kernel& kernel);

// Elements from row to row of a tile in shared memory: one bank more than a row has, so that a column is in as many
// banks as a row.
int TilePitch(int tile, loop::DType dtype);

// What a kernel leaves open to serve others of its plan's class: sizes, strides and offsets but those that the plan was
// made from. `inner`: the size of rows that are reduced, too; that of kElements always is. Nothing of kTiles is open.
loop::OpenPlaces PlacesOf(const loop::Kernel& kernel, const LaunchPlan& plan, bool inner);

// What of a plan its source depends on: all but how many blocks there are.
std::string PrintClass(const LaunchPlan& plan);

// One line: "rows: 4096 blocks of 128 threads, 4 rows x 32 lanes, 8 elements a vector, 2 steps in registers".
std::string Print(const LaunchPlan& plan);

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_CODEGEN_LAUNCH_PLAN_H_
