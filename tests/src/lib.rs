//! What the end-to-end tests of braise share.

pub mod checkkern;
