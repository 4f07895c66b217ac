"""The arithmetic of the adapter, in NumPy: readable, slow, and the authority on every bit.

The same definitions are implemented in C++ (device_runtime/core) and Kotlin; tests/golden holds all to the
same bits. This package is a leaf: it imports the standard library and NumPy, nothing else.

    philox     counter-based random bits: signs of the noise, half-words of the stochastic rounding
    layout     which tensor of which segment sits where in the adapter
    grid       values on multiples of 2^-e, choosing e, rounding to it
    direction  z, its rounded form k, and the checks before the first perturbation
    spsa       perturb, measure, restore, update: the slow twin of the local update
    version    one adapter version from the one before it: records and deltas
    code       integers in few bytes, for guides and deltas (tables in code_tables)
    guide_code a guide's segment, quantised and coded

Conventions, where a formula leaves room:

* All arithmetic is float64, in the order written, without fused multiply-add. Products with 2^e are exact.
* Exponents lie in [-100, 100], so that neither 2^-e nor a product with it can leave float32's normal range.
* `epsilon` is finite and positive; scales and coefficients handed over as scalars are finite.
* With y = (epsilon * z) * 2^e and k = rint(y): |k| >= 2^23 exactly when |y| >= 2^23 - 1/2. A z that is not
  finite is reported before a k that is out of range, whichever comes first in the vector.
* The sums of the below-grid check run in eight lanes for each tensor, in units of the tensor's grid:
  parameter i (its index in the whole adapter) adds to lane i mod 8, in ascending order; the lanes are added
  in order 0 to 7, the result is multiplied by 4^-e, and the tensors' results are added in the layout's order.
  The bound on the squares is the double nearest to 0.0004. A direction that is zero everywhere passes.
* Outside its segments a guide is zero, and outside its active segments a direction is zero (k = 0).
* An update refuses a k that is out of range, exactly as a measurement does. It first looks at all parameters
  and then writes, so that an error leaves the adapter as it was.
* Clamped: a parameter whose t would lie outside [-(2^23-1), 2^23-1] is set to the nearer end and counted.
"""
