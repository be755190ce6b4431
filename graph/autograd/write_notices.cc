#include "graph/autograd/write_notices.h"

#include <algorithm>

namespace framejit {

WriteNotices::WriteNotices(const JointGraph& joint)
    : joint_(joint),
      gradients_(joint.graph.outputs.size() - joint.output_count, {OutputMask{0}, -1}),
      words_((gradients_.size() + 63) / 64),
      sources_(joint.engine.Sources()),
      purposes_(joint.engine.Purposes(joint.differentiable_inputs.size())) {
  const auto add = [&](const BackwardSection& section) {
    for (size_t i = 0; i < section.gradients.size(); ++i) {
      if (section.gradients[i] < 0) continue;
      gradients_[static_cast<size_t>(section.gradients[i]) - joint.output_count] = {section.tangents,
                                                                                    static_cast<int32_t>(i)};
    }
  };
  for (const BackwardSection& section : joint.sections) add(section);
  for (const CutSection& cut : joint.cuts) {
    add(cut.section);
    for (int32_t position : cut.point_gradients) {
      if (position >= 0) gradients_[static_cast<size_t>(position) - joint.output_count] = {cut.section.tangents, -1};
    }
  }
}

bool WriteNotices::AllNotice(const GradientSet& gradients, bool is_input, int32_t position) {
  const auto [row, is_new] = noticed_.try_emplace({is_input, position});
  GradientSet& noticed = row->second;
  if (is_new) {
    noticed.assign(words_, 0);
    for (size_t n = 0; n < joint_.engine.nodes.size(); ++n) {
      const EngineNode& node = joint_.engine.nodes[n];
      const std::vector<int32_t>& held = is_input ? node.inputs : node.outputs;
      if (std::find(held.begin(), held.end(), position) == held.end()) continue;
      for (size_t g = 0; g < gradients_.size(); ++g) {
        const auto& [outputs, input] = gradients_[g];
        const auto i = static_cast<size_t>(std::max(input, 0));
        const bool runs = (sources_[n] & outputs) != 0 && (input < 0 || (purposes_[n][i / 64] >> (i % 64) & 1) != 0);
        noticed[g / 64] |= uint64_t{runs} << (g % 64);
      }
    }
  }
  for (size_t i = 0; i < words_; ++i) {
    if ((gradients[i] & ~noticed[i]) != 0) return false;
  }
  return true;
}

}  // namespace framejit
