/* Coded integers and guides: the C++ twin of device_runtime/zo/code.py and guide_code.py, the same bytes out of both
 * encoders and the same bits out of both decoders; the format is described there. Nothing here allocates, throws or
 * keeps state; about 80 KB of stack serve a call. No decoder reads or writes out of bounds, whatever the stream holds.
 */
#ifndef COOPERLLM_ZO_CODE_H
#define COOPERLLM_ZO_CODE_H

#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* No stream of so many integers is longer; an encoded guide has ZO_GUIDE_HEADER_BYTES more. */
#define ZO_GUIDE_HEADER_BYTES 12
uint64_t zo_integers_bound_bytes(uint64_t count) ZO_NOEXCEPT;

/* Writes the stream of `count` integers into `bytes`, which has room for zo_integers_bound_bytes(count), and its size
 * to *size_bytes. `scratch` is of `count` numbers. ZO_BAD_ARGUMENT for null pointers. */
zo_status zo_encode_integers(const int32_t* values, uint64_t count, uint32_t* scratch, uint8_t* bytes,
                             uint64_t* size_bytes) ZO_NOEXCEPT;

/* Fills `values`, or answers ZO_DAMAGED; what `values` then holds means nothing. */
zo_status zo_decode_integers(const uint8_t* bytes, uint64_t size_bytes, uint64_t count, int32_t* values) ZO_NOEXCEPT;

/* Encodes one segment of a guide, below 2^32 values; `whole` and `scratch` are of `count` numbers, `bytes` has room for
 * ZO_GUIDE_HEADER_BYTES + zo_integers_bound_bytes(count). ZO_NOT_FINITE for NaN or infinity among the values,
 * ZO_OUT_OF_RANGE for a step that is no positive float32 or of which a value has 2^31. */
zo_status zo_encode_guide(const float* values, uint64_t count, double step, int32_t* whole, uint32_t* scratch,
                          uint8_t* bytes, uint64_t* size_bytes) ZO_NOEXCEPT;

/* Fills `values`, all finite, or answers ZO_DAMAGED; what `values` then holds means nothing. */
zo_status zo_decode_guide(const uint8_t* bytes, uint64_t size_bytes, uint64_t count, float* values) ZO_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif /* COOPERLLM_ZO_CODE_H */
