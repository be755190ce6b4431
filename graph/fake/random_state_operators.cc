// See the header.
#include "graph/fake/random_state_operators.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <mutex>

namespace framejit {
namespace {

at::Generator GeneratorOr(const std::optional<at::Generator>& generator) {
  return generator.has_value() && generator->defined() ? *generator : at::detail::getDefaultCPUGenerator();
}

// torch.manual_seed is Python code that seeds every device's default generator.
void SeedAll(int64_t seed) {
  pybind11::gil_scoped_acquire gil;
  pybind11::module_::import("torch").attr("manual_seed")(seed);
}

void Seed(const std::optional<at::Generator>& generator, int64_t seed) {
  if (!generator.has_value() || !generator->defined()) return SeedAll(seed);
  at::Generator target = *generator;
  std::lock_guard<std::mutex> lock(target.mutex());
  target.set_current_seed(static_cast<uint64_t>(seed));
}

at::Tensor RandomState(const std::optional<at::Generator>& generator) {
  at::Generator source = GeneratorOr(generator);
  std::lock_guard<std::mutex> lock(source.mutex());
  return source.get_state();
}

void SetRandomState(const std::optional<at::Generator>& generator, const at::Tensor& state) {
  at::Generator target = GeneratorOr(generator);
  std::lock_guard<std::mutex> lock(target.mutex());
  target.set_state(state);
}

void ReturnNothing(MetaCall& call) { call.Return(); }
void ReturnState(MetaCall& call) { call.Return(NewContiguous({RandomStateSize()}, at::kByte)); }

}  // namespace

int64_t RandomStateSize() {
  static const int64_t size = at::detail::createCPUGenerator().get_state().numel();
  return size;
}

void RegisterRandomStateOperators() {
  // Never destroyed, as the fallback's library.
  static torch::Library* library = []() -> torch::Library* {
    // Another module of the process may hold a copy of this code (the tests of graph/fake).
    if (c10::Dispatcher::singleton().findSchema({"framejit::seed", ""})) return nullptr;
    const std::vector<at::Tag> random{at::Tag::nondeterministic_seeded};
    auto* made = new torch::Library(torch::Library::FRAGMENT, "framejit", std::nullopt, __FILE__, __LINE__);
    const auto kernel = [](auto function) {
      return torch::dispatch(c10::DispatchKey::CompositeExplicitAutograd, function);
    };
    made->def("seed(Generator? generator, int seed) -> ()", random);
    made->def("random_state(Generator? generator) -> Tensor", random);
    made->def("set_random_state(Generator? generator, Tensor state) -> ()", random);
    (void)RandomStateSize();  // asked for before anything is recorded
    made->impl("seed", kernel(TORCH_FN(Seed)));
    made->impl("random_state", kernel(TORCH_FN(RandomState)));
    made->impl("set_random_state", kernel(TORCH_FN(SetRandomState)));
    return made;
  }();
  (void)library;
}

const std::vector<OwnMetaRow>& RandomStateMetas() {
  static const auto* rows = new std::vector<OwnMetaRow>{
      {"framejit::seed", ReturnNothing},
      {"framejit::random_state", ReturnState},
      {"framejit::set_random_state", ReturnNothing},
  };
  return *rows;
}

}  // namespace framejit
