//! A token's step of selective state spaces: how the states of channels forget, take in the token and answer.

use super::{Lanes, exp, reduce};

/// Takes a token into the `states` (channels, n) of a head's channels, whose inputs are `x`, and puts the results in place
/// of these (Gu and Dao 2023, arXiv 2312.00752):
///
/// ```text
/// state[i] = e^(dt a[i]) state[i] + dt x b[i];  x = sum over i of state[i] c[i] + d x
/// ```
///
/// `a` has n numbers, or one for all.
#[inline(always)]
pub fn state_space<L: Lanes>(
    states: &mut [f32],
    x: &mut [f32],
    dt: f32,
    a: &[f32],
    b: &[f32],
    c: &[f32],
    d: f32,
) {
    let n = b.len();
    assert!(n > 0 && c.len() == n && states.len() == n * x.len());
    if let [a] = a {
        let decay = exp::<L>(dt * a);
        let all = L::splat(decay);
        return channels::<L>(states, x, [b, c], dt, d, |_| all, |_| decay);
    }
    assert!(a.len() == n);
    let sixteen = |j: usize| {
        let mut decays = [0.0; 16];
        for (decay, a) in decays.iter_mut().zip(&a[16 * j..]) {
            *decay = exp::<L>(dt * a);
        }
        L::load(&decays)
    };
    channels::<L>(states, x, [b, c], dt, d, sixteen, |i| exp::<L>(dt * a[i]));
}

/// The same with the decays of the j-th sixteen values, and of value i.
#[inline(always)]
fn channels<L: Lanes>(
    states: &mut [f32],
    x: &mut [f32],
    [b, c]: [&[f32]; 2],
    dt: f32,
    d: f32,
    sixteen: impl Fn(usize) -> L::Vector,
    decay: impl Fn(usize) -> f32,
) {
    let (bs, b_rest) = b.as_chunks::<16>();
    let (cs, c_rest) = c.as_chunks::<16>();
    let whole = b.len() - b_rest.len();
    let zero = L::splat(0.0);
    for (x, state) in x.iter_mut().zip(states.chunks_exact_mut(b.len())) {
        let input = *x * dt;
        let inputs = L::splat(input);
        let mut sums = zero;
        let (state, rest) = state.as_chunks_mut::<16>();
        for (j, ((state, b), c)) in state.iter_mut().zip(bs).zip(cs).enumerate() {
            let new = L::mul_add_16(L::load(state), sixteen(j), L::mul_add_16(inputs, L::load(b), zero));
            L::store(state, new);
            sums = L::mul_add_16(new, L::load(c), sums);
        }
        let mut of_lanes = [0.0; 16];
        L::store(&mut of_lanes, sums);
        let mut sum = reduce(of_lanes);
        for (i, ((state, b), c)) in rest.iter_mut().zip(b_rest).zip(c_rest).enumerate() {
            *state = L::mul_add(*state, decay(whole + i), input * b);
            sum = L::mul_add(*state, *c, sum);
        }
        *x = L::mul_add(d, *x, sum);
    }
}
