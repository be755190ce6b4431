#include "base/switches.h"

#include <algorithm>
#include <utility>

namespace framejit {
namespace {

std::vector<std::string>& Names() {
  static auto* names = new std::vector<std::string>;
  return *names;
}

}  // namespace

void SetSwitchedOff(std::vector<std::string> names) { Names() = std::move(names); }

bool IsSwitchedOff(std::string_view group, std::string_view name) {
  return std::any_of(Names().begin(), Names().end(), [&](std::string_view known) {
    return known.size() == group.size() + 1 + name.size() && known.starts_with(group) && known[group.size()] == ':' &&
           known.ends_with(name);
  });
}

}  // namespace framejit
