/* What a call of the core answers: a small enum with a message each. Nothing here throws. */
#ifndef COOPERLLM_STATUS_H
#define COOPERLLM_STATUS_H

#ifdef __cplusplus
#define ZO_NOEXCEPT noexcept
extern "C" {
#else
#define ZO_NOEXCEPT
#endif

typedef enum {
  ZO_OK = 0,
  ZO_OUT_OF_RANGE = 1,
  /* a value or perturbation is 2^23 grid steps or more: smaller epsilon, scale or
guide */
  ZO_BELOW_GRID = 2,
  /* rounding changes the direction by over 2 %: larger epsilon or higher
exponents */
  ZO_NOT_FINITE = 3,
  /* NaN or infinity in an adapter, scale, guide or update: drop what it
came from */
  ZO_OFF_GRID = 4, /* a value is no multiple of 2^-e, or is -0.0: round it to the grid */
  ZO_BAD_ARGUMENT = 5,
  /* a null pointer, epsilon not positive, exponent or multiplier not allowed:
correct the call */
  ZO_PROGRAM_FAILED = 6,
  /* a method of the program answered an error: export the bundle
again */
  ZO_PROGRAM_MISMATCH = 7,
  /* the program's inputs or outputs are not those of the layout: use the
right bundle */
  ZO_OUT_OF_MEMORY = 8,   /* a buffer could not be had: use smaller batches */
  ZO_LOSS_NOT_FINITE = 9, /* the loss is NaN or infinite: smaller epsilon or learning rate */
  ZO_STOPPED = 10,        /* stop() was called; the adapter is as it was */
  ZO_DAMAGED = 11         /* a coded stream is damaged, truncated or too long: fetch it again */
} zo_status;

/* One line for people, never null; also for numbers outside the enum. */
const char* zo_status_message(zo_status status) ZO_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif /* COOPERLLM_STATUS_H */
