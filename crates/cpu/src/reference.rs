//! What the tests share: inputs and comparison. The slow twins stand beside the kernels' tests.

/// `len` values in [-1, 1), the same for the same `seed`.
pub(crate) fn random(seed: u64, len: usize) -> Vec<f32> {
    // SplitMix64 (Steele, Lea, Flood 2014): enough for test data, and no dependency.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    (0..len)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// The largest absolute difference; infinite when a value is not finite on one side only.
pub(crate) fn worst_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "comparing tensors of different sizes");
    a.iter()
        .zip(b)
        .map(|(x, y)| if x == y { 0.0 } else { (x - y).abs() })
        .map(|d| if d.is_nan() { f32::INFINITY } else { d })
        .fold(0.0, f32::max)
}

/// Runs `f` with pools of 1, 2 and 3 threads and demands the same bits; returns them.
pub(crate) fn same_bits(f: impl Fn(&crate::Pool) -> Vec<f32>) -> Vec<f32> {
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let one = f(&crate::Pool::new(1));
    for threads in [2, 3] {
        let more = f(&crate::Pool::new(threads));
        assert!(
            bits(&more) == bits(&one),
            "the result depends on the number of threads ({threads} against 1)"
        );
    }
    one
}
