// The control-flow graph of a decoded code object: basic blocks, normal edges, and for each block the one handler that
// catches what its instructions raise. No analysis beyond reachability.
#ifndef FRAMEJIT_BYTECODE_CFG_H_
#define FRAMEJIT_BYTECODE_CFG_H_

#include <vector>

#include "bytecode/decode.h"

namespace framejit {

struct BasicBlock {
  int begin;  // instruction indices, end exclusive
  int end;
  std::vector<int> successors;  // blocks: the next one first, then the jump target
  int handler = -1;             // block control goes to when an instruction of this one raises; -1: leaves the frame
  bool reachable = false;
};

class Cfg {
 public:
  explicit Cfg(const DecodedCode& code);

  const std::vector<BasicBlock>& blocks() const { return blocks_; }
  int BlockOf(int instruction) const { return block_of_[instruction]; }

 private:
  void FindBlocks(const DecodedCode& code);
  void AddEdges(const DecodedCode& code);
  void MarkReachable();

  std::vector<BasicBlock> blocks_;
  std::vector<int> block_of_;
};

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_CFG_H_
