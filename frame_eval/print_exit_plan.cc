#include "frame_eval/print_exit_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "frame_eval/guards/tensor_check.h"

namespace framejit {
namespace {

constexpr std::string_view kRecipeNames[] = {
#define RECIPE(kind, description) #kind,
#include "graph/capture/recipes.def"
#undef RECIPE
};

constexpr std::string_view kEffectNames[] = {
#define EFFECT(kind, description) #kind,
#include "graph/capture/effects.def"
#undef EFFECT
};

bool HasSafeRepr(PyTypeObject* type) {
  const std::string_view name = type->tp_name;
  return type == &PyRange_Type || name == "torch.dtype" || name == "torch.device" || name == "torch.layout" ||
         name == "torch.memory_format";
}

std::string Text(PyObject* object, int depth = 0);

std::string Items(PyObject* items, int depth, bool sorted) {
  std::vector<std::string> texts;
  PyRef list = PyRef::Steal(PySequence_List(items));
  for (Py_ssize_t i = 0; list && i < PyList_GET_SIZE(list.get()); ++i)
    texts.push_back(Text(PyList_GET_ITEM(list.get(), i), depth + 1));
  PyErr_Clear();
  if (sorted) std::sort(texts.begin(), texts.end());
  return absl::StrJoin(texts, ", ");
}

// Of an immutable value what it says, of anything else its name and address.
std::string Text(PyObject* object, int depth) {
  if (object == nullptr) return "<none>";
  if (depth < 8 && PyTuple_Check(object))
    return absl::StrCat(Py_TYPE(object)->tp_name, "(", Items(object, depth, false), ")");
  if (depth < 8 && PyFrozenSet_CheckExact(object)) return absl::StrCat("frozenset(", Items(object, depth, true), ")");
  if (HasSafeRepr(Py_TYPE(object))) {
    PyRef text = PyRef::Steal(PyObject_Repr(object));
    const char* utf8 = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
    if (utf8 != nullptr) return utf8;
    PyErr_Clear();
  }
  if (depth < 8 && Py_TYPE(object) == &Py_GenericAliasType) {  // list[int], made anew by each evaluation
    PyRef origin = PyRef::Steal(PyObject_GetAttrString(object, "__origin__"));
    PyRef args = PyRef::Steal(PyObject_GetAttrString(object, "__args__"));
    PyErr_Clear();
    return absl::StrCat(Text(origin.get(), depth + 1), "[", Text(args.get(), depth + 1), "]");
  }
  // Bound anew on each read.
  if (PyCFunction_Check(object)) {
    const auto* function = reinterpret_cast<PyCFunctionObject*>(object);
    return absl::StrCat(function->m_ml->ml_name, " of ",
                        function->m_self == nullptr ? "" : Text(function->m_self, depth + 1));
  }
  std::string text = ObjectText(object);
  // What is known by its name alone may have a namesake.
  if (PyType_Check(object) || PyFunction_Check(object) || PyModule_Check(object))
    absl::StrAppend(&text, " at 0x", absl::Hex(reinterpret_cast<uintptr_t>(object)));
  return text;
}

std::string RecipeText(const Recipe& recipe, const SourceTable& sources,
                       const std::vector<std::string>& argument_names) {
  std::string text(RecipeKindName(recipe.kind));
  if (recipe.source != kNoSource) absl::StrAppend(&text, " ", sources.ToString(recipe.source, argument_names));
  if (recipe.index >= 0) absl::StrAppend(&text, " #", recipe.index);
  // The dict of globals has the same address in every recording, and a great deal of text.
  if (recipe.object && recipe.kind != RecipeKind::kSource) absl::StrAppend(&text, " ", Text(recipe.object.get()));
  if (recipe.object && recipe.kind == RecipeKind::kSource) absl::StrAppend(&text, " lent");
  if (!recipe.children.empty()) absl::StrAppend(&text, " (", absl::StrJoin(recipe.children, ", "), ")");
  for (const auto& [name, value] : recipe.attributes) absl::StrAppend(&text, " .", Text(name.get()), "=", value);
  return text;
}

std::string EffectText(const Effect& effect) {
  std::string text(EffectKindName(effect.kind));
  for (RecipeId id : {effect.target, effect.key, effect.value}) absl::StrAppend(&text, " ", id);
  if (effect.callable) absl::StrAppend(&text, " ", Text(effect.callable.get()), Text(effect.arguments.get()));
  return text;
}

std::string PayloadText(const Guard& guard) {
  const at::Tensor* tensor = guard.payload ? TensorOrNull(guard.payload.get()) : nullptr;
  if (guard.kind == GuardKind::kTensorMatches && tensor != nullptr) {
    TensorCheck check(*tensor);
    if (guard.number > 0) check.RequireOffset(guard.number - 1);
    if (guard.number < 0) check.LeaveSizesOpen();
    return check.ToString();
  }
  if (guard.kind == GuardKind::kLengthIs) return absl::StrCat(guard.number);
  return guard.payload ? Text(guard.payload.get()) : "";
}

}  // namespace

std::string_view RecipeKindName(RecipeKind kind) { return kRecipeNames[static_cast<size_t>(kind)]; }
std::string_view EffectKindName(EffectKind kind) { return kEffectNames[static_cast<size_t>(kind)]; }

std::string PrintExitPlan(const ExitPlan& plan, const SourceTable& sources,
                          const std::vector<std::string>& argument_names) {
  std::string text;
  for (size_t i = 0; i < plan.recipes.size(); ++i)
    absl::StrAppend(&text, i, ": ", RecipeText(plan.recipes[i], sources, argument_names), "\n");
  for (const Effect& effect : plan.effects) absl::StrAppend(&text, EffectText(effect), "\n");
  absl::StrAppend(&text, "result ", plan.result, "\n");
  return text;
}

std::vector<std::string> PrintGuards(const GuardList& guards, const SourceTable& sources,
                                     const std::vector<std::string>& argument_names) {
  std::vector<std::string> texts;
  for (const Guard& guard : guards.guards()) {
    std::string text(GuardKindName(guard.kind));
    if (guard.source != kNoSource) absl::StrAppend(&text, " ", sources.ToString(guard.source, argument_names));
    if (guard.other != kNoSource) absl::StrAppend(&text, " ", sources.ToString(guard.other, argument_names));
    if (std::string payload = PayloadText(guard); !payload.empty()) absl::StrAppend(&text, " ", payload);
    texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace framejit
