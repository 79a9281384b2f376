//! The delta rule: how a memory of keys and values forgets, corrects itself by a token, and answers the token's query.

use super::Lanes;

/// Values of a head that [`delta_rule`] computes together, so that they stay in registers.
pub const DELTA_VALUES: usize = 32;

/// Takes a token into `state` (n, [`DELTA_VALUES`]), some values for each of n numbers of a key (Yang et al. 2024,
/// arXiv 2412.06464), and puts what it then holds for the query in place of the token's values `v`:
///
/// ```text
/// state[i] *= decay[i];  delta = beta (v - sum over i of k[i] state[i]);  state[i] += k[i] delta
/// v = sum over i of q[i] state[i]
/// ```
///
/// n is even. Each result depends on its own column of the state alone.
#[inline(always)]
pub fn delta_rule<L: Lanes>(
    state: &mut [f32],
    q: &[f32],
    k: &[f32],
    decay: &[f32],
    beta: f32,
    v: &mut [f32],
) {
    let n = k.len();
    assert!(n.is_multiple_of(2) && q.len() == n && decay.len() == n);
    assert!(state.len() == n * DELTA_VALUES && v.len() == DELTA_VALUES);
    let zero = L::splat(0.0);
    // two rows a step, each with sums of its own, which need not wait for each other
    let rows = state.as_chunks_mut::<16>().0.as_chunks_mut::<4>().0;
    let (q, k, decay) = (q.as_chunks::<2>().0, k.as_chunks::<2>().0, decay.as_chunks::<2>().0);
    let mut sums = [zero; 4];
    for ((row, k), decay) in rows.iter().zip(k).zip(decay) {
        for j in 0..4 {
            let factor = L::splat(k[j / 2] * decay[j / 2]);
            sums[j] = L::mul_add_16(L::load(&row[j]), factor, sums[j]);
        }
    }
    let held = totals::<L>(sums);
    let v = v.as_chunks_mut::<16>().0;
    let mut deltas = [zero; 2];
    for ((delta, v), held) in deltas.iter_mut().zip(&*v).zip(&held) {
        let mut change = [0.0; 16];
        for i in 0..16 {
            change[i] = beta * (v[i] - held[i]);
        }
        *delta = L::load(&change);
    }
    let mut sums = [zero; 4];
    for (((row, k), decay), q) in rows.iter_mut().zip(k).zip(decay).zip(q) {
        for j in 0..4 {
            let change = L::mul_add_16(L::splat(k[j / 2]), deltas[j % 2], zero);
            let new = L::mul_add_16(L::load(&row[j]), L::splat(decay[j / 2]), change);
            L::store(&mut row[j], new);
            sums[j] = L::mul_add_16(new, L::splat(q[j / 2]), sums[j]);
        }
    }
    v.copy_from_slice(&totals::<L>(sums));
}

/// The sums of even and odd rows together.
#[inline(always)]
fn totals<L: Lanes>(sums: [L::Vector; 4]) -> [[f32; 16]; 2] {
    let mut totals = [[0.0; 16]; 2];
    for (j, total) in totals.iter_mut().enumerate() {
        L::store(total, L::mul_add_16(sums[j], L::splat(1.0), sums[j + 2]));
    }
    totals
}
