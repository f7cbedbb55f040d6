// Correlations in blocks of 64 input channels.

#include "winograd.h"

namespace resnet_jax {

template void correlate_any_stride<64>(ffi::ThreadPool&, const Correlation&, const float*, float*);
template void winograd_in_blocks<64>(ffi::ThreadPool&, const Correlation&, const float*, const float*, float*);

}  // namespace resnet_jax
