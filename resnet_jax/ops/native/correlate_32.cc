// Correlations in blocks of 32 input channels.

#include "winograd.h"

namespace resnet_jax {

template void correlate_any_stride<32>(ffi::ThreadPool&, const Correlation&, const float*, float*);
template void winograd_in_blocks<32>(ffi::ThreadPool&, const Correlation&, const float*, const float*, float*);

}  // namespace resnet_jax
