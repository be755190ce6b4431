#include "graph/capture/unread.h"

#include <array>
#include <optional>
#include <string_view>

#include "absl/types/span.h"

namespace framejit {
namespace {

struct Unread {
  PyObject_HEAD PyObject* value;
  SourceId source;
};

void Dealloc(PyObject* self) {
  Py_DECREF(reinterpret_cast<Unread*>(self)->value);
  Py_TYPE(self)->tp_free(self);
}

PyTypeObject MakeType() {
  PyTypeObject type = {PyVarObject_HEAD_INIT(nullptr, 0)};
  type.tp_name = "framejit.unread";
  type.tp_basicsize = sizeof(Unread);
  type.tp_dealloc = Dealloc;
  type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION;
  return type;
}
// Lives as long as a frame that is being recorded; no cycle goes through one.
PyTypeObject unread_type = MakeType();

// UNPACK_SEQUENCE sees to its operand itself.
constexpr std::string_view kMoves[] = {
    "POP_TOP",
    "COPY",
    "SWAP",
    "STORE_FAST",
    "STORE_FAST_STORE_FAST",
    "STORE_FAST_LOAD_FAST",
    "RETURN_VALUE",
    "END_FOR",
    "RESUME",
    "UNPACK_SEQUENCE",
    "PRECALL",
    "KW_NAMES",
};
// Comprehensions and displays, but for those of lists.
constexpr std::string_view kBuilds[] = {"SET_ADD", "MAP_ADD", "SET_UPDATE", "DICT_UPDATE", "DICT_MERGE"};

std::array<bool, 256> Find(absl::Span<const std::string_view> names) {
  std::array<bool, 256> found{};
  for (std::string_view name : names) {
    if (std::optional<Opcode> opcode = FindOpcode(name)) found[static_cast<uint8_t>(*opcode)] = true;
  }
  return found;
}

}  // namespace

PyObject* NewUnread(PyObject* value, SourceId source) {
  if (PyType_Ready(&unread_type) != 0) return nullptr;
  auto* unread = PyObject_New(Unread, &unread_type);
  if (unread == nullptr) return nullptr;
  unread->value = Py_NewRef(value);
  unread->source = source;
  return reinterpret_cast<PyObject*>(unread);
}

bool IsUnread(PyObject* object) { return Py_TYPE(object) == &unread_type; }
PyObject* UnreadValue(PyObject* unread) { return reinterpret_cast<Unread*>(unread)->value; }
SourceId UnreadSource(PyObject* unread) { return reinterpret_cast<Unread*>(unread)->source; }

bool OnlyMoves(Opcode opcode) {
  static const std::array<bool, 256> moves = Find(kMoves);
  return moves[static_cast<uint8_t>(opcode)];
}

int PlaceOfBuilt(Opcode opcode, int oparg) {
  static const std::array<bool, 256> builds = Find(kBuilds);
  if (!builds[static_cast<uint8_t>(opcode)]) return 0;
  return oparg + (InfoOf(opcode).name == "MAP_ADD" ? 2 : 1);
}

}  // namespace framejit
