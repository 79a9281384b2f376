//! `olmo2`: OLMo 2 and 3. Results are normalized, and not what blocks read.

use super::file::{Family, File, NEOX, check_base};
use crate::block::{Rope, Scaling, Spec, Window};
use crate::error::Result;

/// Families that normalize what blocks give, and not what they read.
pub(super) const RESULTS: Family = Family {
    norms: [None, Some("post_attention_norm"), None, Some("post_ffw_norm")],
    qk_norm: Some(true),
    ..NEOX
};

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&RESULTS)?;
    let windows = file.windows(spec.layers.len(), 4, None)?;
    set_windows(&mut spec, &windows, None)?;
    Ok(spec)
}

/// Gives layers their windows. Where there is one, the rotation is not scaled, and may have a base of its own.
pub(super) fn set_windows(spec: &mut Spec, windows: &[Option<Window>], base: Option<f32>) -> Result<()> {
    let base = base.unwrap_or(spec.ropes[0].base);
    let local = Rope { base, scaling: Scaling::NONE, ..spec.ropes[0].clone() };
    check_base(&local)?;
    spec.ropes.push(local);
    spec.each_attention(|i, a| {
        a.window = windows[i];
        a.rope = Some(usize::from(a.window.is_some()));
    });
    Ok(())
}
