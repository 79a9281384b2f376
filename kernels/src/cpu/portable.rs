//! The portable level: the operations and the scalar truth, compiled for whatever the build target has.

use crate::ops::Portable;

crate::table::float_ops!(
    #[inline]
    Portable
);
