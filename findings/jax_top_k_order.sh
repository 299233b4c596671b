#!/usr/bin/env bash
# jax 0.9.0, CPU: lax.top_k ranks a NaN first or last by its sign bit, and 0.0 above -0.0, where jnp.argsort does neither.
#
# Expected: a NaN at one end, as jnp.sort, jnp.argsort and torch.topk have it; equal numbers in the order of their
# indices, as the documentation says of ties. Seen: jnp.nan comes first, and the NaN that x86 makes of inf - inf, 0 / 0 or
# the logarithm of -1, whose sign bit is set, comes last, behind -inf; so a broken score either takes a place in every
# selection or never shows. jnp.partition, built on it, puts such a NaN first; jnp.argmax finds both kinds. Activations
# masked by a product in NumPy or torch, pre * (pre > 0), hold -0.0 where pre was negative: a token with fewer positive
# ones than k is filled up with features that were exactly 0, before others of lower index.
# Source: run as below with jax 0.9.0, numpy 2.4.6; the NaN's sign bit is set by hand, so that any processor shows it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet jax==0.9.0 jaxlib==0.9.0 numpy==2.4.6
JAX_PLATFORMS=cpu "$work/env/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

negative = np.copysign(np.float32("nan"), np.float32(-1))  # as inf - inf gives it on x86
positive = np.copysign(np.float32("nan"), np.float32(1))
made = {
    "inf - inf": jnp.float32(np.inf) - jnp.float32(np.inf),
    "0 / 0": jnp.float32(0) / jnp.float32(0),
    "log(-1)": jnp.log(jnp.float32(-1)),
}
print("sign bit of", *(f"{name}: {bool(np.signbit(np.asarray(nan)))};" for name, nan in made.items()))
for name, nan, place in (("sign bit 0", positive, 0), ("sign bit 1", negative, 3)):
    scores = jnp.array([1.0, nan, 3.0, -np.inf])
    found = jax.lax.top_k(scores, 4)[1].tolist()
    print(f"NaN of {name}: top_k {found}, argsort {jnp.argsort(scores).tolist()}, partition {jnp.partition(scores, 1).tolist()}")
    assert found.index(1) == place, "changed: where top_k puts a NaN"
    assert jnp.argsort(scores).tolist() == [3, 0, 2, 1] and bool(jnp.isnan(jnp.sort(scores)[-1])), "changed: sort"
    assert int(jnp.argmax(scores)) == 1, "changed: argmax"
    assert bool(jnp.isnan(jnp.partition(scores, 1)[0])) == (name == "sign bit 1"), "changed: partition"

pre = np.array([-1.0, -2.0, 5.0, 0.0, 0.0], np.float32)
masked = jnp.asarray(pre * (pre > 0))  # made by NumPy, as by torch: -0.0 where pre is negative
clipped = jax.nn.relu(pre)
found = {name: jax.lax.top_k(x, 4)[1].tolist() for name, x in (("masked", masked), ("relu", clipped))}
stable = jnp.argsort(masked, descending=True, stable=True)[:4].tolist()
print(f"{masked.tolist()}: top_k {found['masked']}, argsort {stable}; after relu: top_k {found['relu']}")
assert bool((masked == clipped).all()) and stable == [2, 0, 1, 3], "changed: argsort"
assert found == {"masked": [2, 3, 4, 0], "relu": [2, 0, 1, 3]}, "changed: how top_k ranks the two zeros"
PYTHON
