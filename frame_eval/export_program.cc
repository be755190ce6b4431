#include "frame_eval/export_program.h"

#include <torch/csrc/utils/pybind.h>

#include "absl/strings/str_cat.h"
#include "frame_eval/print_exit_plan.h"
#include "graph/fx_export.h"

namespace framejit {
namespace {

namespace py = pybind11;

py::object BorrowOrNone(PyObject* object) {
  return object == nullptr ? py::none() : py::reinterpret_borrow<py::object>(object);
}

// The steps from the root to a source, outermost first: (kind, key, index).
py::list Steps(const SourceTable& sources, SourceId id) {
  py::list steps;
  for (; id != kNoSource; id = sources[id].parent) {
    const Source& source = sources[id];
    steps.insert(
        0, py::make_tuple(std::string(SourceKindName(source.kind)), BorrowOrNone(source.key.get()), source.index));
  }
  return steps;
}

py::list RecipeRows(const ExitPlan& plan, const std::vector<SourceId>& fetched) {
  py::list rows;
  for (const Recipe& recipe : plan.recipes) {
    auto place = std::find(fetched.begin(), fetched.end(), recipe.source);
    py::dict attributes;
    for (const auto& [name, value] : recipe.attributes) attributes[BorrowOrNone(name.get())] = value;
    rows.append(py::make_tuple(std::string(RecipeKindName(recipe.kind)), BorrowOrNone(recipe.object.get()),
                               place == fetched.end() ? -1 : place - fetched.begin(), recipe.index,
                               py::cast(recipe.children), attributes));
  }
  return rows;
}

// (kind, what is changed as the program says it, callable, arguments, recipes of target, key and value)
py::list EffectRows(const Recording& recording, const std::vector<std::string>& argument_names) {
  py::list rows;
  const ExitPlan& plan = recording.exit_plan;
  for (const Effect& effect : plan.effects) {
    std::string text;
    if (effect.target != kNoRecipe) {
      const SourceId source = plan.recipes[static_cast<size_t>(effect.target)].source;
      text = source == kNoSource ? "an object" : recording.sources.ToString(source, argument_names);
    }
    if (effect.key != kNoRecipe)
      absl::StrAppend(&text, " ", ObjectText(plan.recipes[static_cast<size_t>(effect.key)].object.get()));
    rows.append(py::make_tuple(std::string(EffectKindName(effect.kind)), text, BorrowOrNone(effect.callable.get()),
                               BorrowOrNone(effect.arguments.get()), effect.target, effect.key, effect.value));
  }
  return rows;
}

std::vector<SourceId> SourcesOf(const ExitPlan& plan) {
  std::vector<SourceId> sources;
  for (const Recipe& recipe : plan.recipes) {
    if (recipe.source != kNoSource) sources.push_back(recipe.source);
  }
  return sources;
}

std::vector<std::string> ArgumentNames(PyObject* function) {
  auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function));
  std::vector<std::string> names;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_localsplusnames); ++i)
    names.emplace_back(PyUnicode_AsUTF8(PyTuple_GET_ITEM(code->co_localsplusnames, i)));
  return names;
}

// The arguments of make_builder. What they say of objects is fetched by a guard program, which also finds out whether
// all guards hold.
absl::StatusOr<py::tuple> Describe(const CallState& state, const Recording& recording) {
  const std::vector<std::string> names = ArgumentNames(state.function);
  const std::vector<SourceId> of_recipes = SourcesOf(recording.exit_plan);
  std::vector<SourceId> fetch = recording.inputs;
  fetch.insert(fetch.end(), of_recipes.begin(), of_recipes.end());
  absl::StatusOr<std::unique_ptr<GuardProgram>> guards =
      GuardProgram::Build(recording.sources, recording.guards, fetch, state, names);
  if (!guards.ok()) return guards.status();
  if ((*guards)->Check(state) != GuardResult::kPass) {
    PyErr_Clear();
    return absl::AbortedError(absl::StrCat("the program's state changed: ", (*guards)->ExplainFailure(state)));
  }
  py::list inputs;
  py::list sources;
  for (size_t i = 0; i < fetch.size(); ++i) {
    py::list& rows = i < recording.inputs.size() ? inputs : sources;
    rows.append(py::make_tuple(Steps(recording.sources, fetch[i]), BorrowOrNone((*guards)->Fetched()[i])));
  }
  (*guards)->Release();
  return py::make_tuple(inputs, sources, RecipeRows(recording.exit_plan, of_recipes), recording.exit_plan.result,
                        EffectRows(recording, names));
}

}  // namespace

absl::StatusOr<PyRef> ExportProgram(const CallState& state, const LeafCallables& leaves, PyObject* make_builder) {
  RecordRequest request;
  request.function = state.function;
  request.slots = state.slots;
  request.backward = false;
  request.leaves = &leaves;
  std::unique_ptr<Recording> recording = Record(request, nullptr);
  if (recording->graph_break.has_value()) return absl::FailedPreconditionError(recording->graph_break->ToString());
  FxOptions options;
  try {
    absl::StatusOr<py::tuple> description = Describe(state, *recording);
    if (!description.ok()) return description.status();
    options.builder = PyRef::Steal(PyObject_CallObject(make_builder, description->ptr()));
    if (!options.builder) throw py::error_already_set();
    if (py::isinstance<py::str>(options.builder.get()))
      return absl::FailedPreconditionError(py::cast<std::string>(options.builder.get()));
  } catch (const py::error_already_set& error) {
    return absl::InternalError(error.what());
  }
  return ExportTorchGraph(recording->torch_graph, recording->graph, options);
}

}  // namespace framejit
