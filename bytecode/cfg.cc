#include "bytecode/cfg.h"

namespace framejit {

Cfg::Cfg(const DecodedCode& code) {
  FindBlocks(code);
  AddEdges(code);
  MarkReachable();
}

void Cfg::FindBlocks(const DecodedCode& code) {
  std::vector<bool> leads(code.size() + 1, false);
  leads[0] = true;
  for (const ExceptionEntry& entry : code.exception_table()) leads[code.IndexStarting(entry.target)] = true;
  for (int i = 0; i < code.size(); ++i) {
    if (code[i].target >= 0) leads[code[i].target] = true;
    if (code[i].info().flow != ControlFlow::kNext) leads[i + 1] = true;
    if (i > 0 && code.HandlerOf(code[i]) != code.HandlerOf(code[i - 1])) leads[i] = true;
  }
  block_of_.resize(code.size());
  for (int i = 0; i < code.size(); ++i) {
    if (leads[i]) blocks_.push_back({.begin = i, .end = i});
    blocks_.back().end = i + 1;
    block_of_[i] = static_cast<int>(blocks_.size()) - 1;
  }
}

void Cfg::AddEdges(const DecodedCode& code) {
  for (BasicBlock& block : blocks_) {
    const Instruction& last = code[block.end - 1];
    if (FallsThrough(last.info().flow) && block.end < code.size()) block.successors.push_back(BlockOf(block.end));
    if (last.target >= 0) block.successors.push_back(BlockOf(last.target));
    const ExceptionEntry* entry = code.HandlerOf(last);
    if (entry != nullptr) block.handler = BlockOf(code.IndexStarting(entry->target));
  }
}

void Cfg::MarkReachable() {
  std::vector<int> pending = {0};
  while (!pending.empty()) {
    BasicBlock& block = blocks_[pending.back()];
    pending.pop_back();
    if (block.reachable) continue;
    block.reachable = true;
    pending.insert(pending.end(), block.successors.begin(), block.successors.end());
    if (block.handler >= 0) pending.push_back(block.handler);
  }
}

}  // namespace framejit
