"""The order of training windows, from the definition at the head of crates/data/src/sampler.rs."""

MASK = (1 << 64) - 1


def splitmix64(x):
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def offset(i, n, t, seed):
    """Where window i of t + 1 tokens begins in n tokens."""
    windows = max(1, n // t - 1)
    phases = min(t, n - windows * t)
    epoch, k = divmod(i, windows)
    e_key = splitmix64(splitmix64(seed) ^ epoch)
    phase = splitmix64(e_key ^ 0x7068617365) % phases
    half = max(1, -(-(windows - 1).bit_length() // 2))
    while True:
        left, right = k >> half, k % (1 << half)
        for r in range(4):
            round_key = splitmix64((e_key + r) & MASK)
            left, right = right, left ^ (splitmix64(right ^ round_key) % (1 << half))
        k = left << half | right
        if k < windows:
            return phase + k * t
