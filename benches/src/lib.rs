//! Criterion benches of braise; each file under `benches/` is one. This library is empty.
