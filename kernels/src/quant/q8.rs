//! Q8: the activation format. Every quantized weight format is multiplied with it, so that a layer's input is
//! quantized once, whatever mix of formats the layer's matrices have.
//!
//! A row of n activations (n a multiple of 32) is three arrays:
//!
//! ```text
//! q    [i8;  n]      values, -127..=127
//! d    [f32; n/32]   scale of each 32 values:       x[i] ~ d[i / 32] * q[i]
//! sum  [i16; n/16]   sum of each 16 values of q     (for formats with an offset or a minimum)
//! ```

/// Activations that share a scale.
pub const BLOCK: usize = 32;

/// One row of quantized activations.
#[derive(Debug, Clone, Copy)]
pub struct Q8Row<'a> {
    /// Values, `n` of them.
    pub q: &'a [i8],
    /// Scales, one for 32 values.
    pub d: &'a [f32],
    /// Sums of `q`, one for 16 values.
    pub sum: &'a [i16],
}
