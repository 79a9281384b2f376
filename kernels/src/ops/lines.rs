//! Memory in whole cache lines: a vector that lies in two takes twice the time to load, and longer to store.

use bytemuck::{Pod, Zeroable};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A value that begins a cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
pub(crate) struct Aligned<T>(pub(crate) T);

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A vector that begins a cache line.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    lines: Vec<Line>,
    len: usize,
    of: PhantomData<T>,
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Lines { lines: Vec::new(), len: 0, of: PhantomData }
    }
}

impl<T: Pod> Lines<T> {
    /// Makes room for `len` elements. Those that were there keep their values, others are anything.
    pub(crate) fn resize(&mut self, len: usize) {
        self.len = len;
        self.lines.resize((len * size_of::<T>()).div_ceil(64), Line([0; 64]));
    }
}

impl<T: Pod> Deref for Lines<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.lines);
        bytemuck::cast_slice(&bytes[..self.len * size_of::<T>()])
    }
}

impl<T: Pod> DerefMut for Lines<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.lines);
        bytemuck::cast_slice_mut(&mut bytes[..self.len * size_of::<T>()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_begin_a_line() {
        let mut lines = Lines::<[u32; 8]>::default();
        for len in [0, 1, 3, 100, 2] {
            lines.resize(len);
            assert_eq!(lines.len(), len);
            assert!(len == 0 || lines.as_ptr().addr() % 64 == 0);
            lines.fill([7; 8]);
        }
        assert_eq!(*lines, [[7; 8]; 2]);
    }
}
