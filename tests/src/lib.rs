//! What the end-to-end tests of braise share.

pub mod families;
pub mod interpreter;
pub mod llguidance;
pub mod logits;
pub mod ptx;
pub mod python;
pub mod reference;
pub mod schemas;
pub mod tiny;
