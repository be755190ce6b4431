// Switches by which the tests show their own strength: with one kind of guard, effect or check left out of what is
// compiled, they must fail. Nothing is switched off in normal use, and nothing here is looked at on a warm call.
#ifndef FRAMEJIT_BASE_SWITCHES_H_
#define FRAMEJIT_BASE_SWITCHES_H_

#include <string>
#include <string_view>
#include <vector>

namespace framejit {

// Names are "group:Name", e.g. "guard:TypeIs". Replaces the whole set. Requires the GIL, as all of this file.
void SetSwitchedOff(std::vector<std::string> names);
bool IsSwitchedOff(std::string_view group, std::string_view name);

}  // namespace framejit

#endif  // FRAMEJIT_BASE_SWITCHES_H_
