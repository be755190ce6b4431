// The dispatch layers that recorded operators lie below, and that must not act on them a second time: a region without
// autocast, recorded in one with it, stays one.
#ifndef FRAMEJIT_GRAPH_RECORDED_LEVEL_H_
#define FRAMEJIT_GRAPH_RECORDED_LEVEL_H_

#include <c10/core/DispatchKeySet.h>

namespace framejit {

inline const c10::DispatchKeySet kAboveRecorded = c10::autograd_dispatch_keyset | c10::autocast_dispatch_keyset;
// Without the count of versions and the bases of views that eager gives what operators return.
inline const c10::DispatchKeySet kAboveRecordedViews =
    c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset;

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_RECORDED_LEVEL_H_
