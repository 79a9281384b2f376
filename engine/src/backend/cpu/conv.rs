//! Causal convolutions over the last tokens, of each channel by itself. What came before the batch lies in the cache.

use std::ops::Range;

use braise_kernels::sync::Columns;

use super::Run;

/// A convolution of a batch.
pub(super) struct Conv<'a> {
    /// (width, channels), the last token's row last.
    pub(super) kernel: &'a [f32],
    pub(super) width: usize,
    pub(super) channels: usize,
    /// The batch.
    pub(super) runs: &'a [Run],
}

impl Conv<'_> {
    /// Convolves the channels `mine`, a token at a time: `read` gives its inputs, `write` takes its results. `past` is what
    /// the cache remembers of these channels; `ring` is room for a few rows of them.
    pub(super) fn run(
        &self,
        mine: Range<usize>,
        past: &mut Columns<'_, f32>,
        ring: &mut Vec<f32>,
        mut read: impl FnMut(usize, &mut [f32]),
        mut write: impl FnMut(usize, &mut [f32]),
    ) {
        let (len, width) = (mine.len(), self.width);
        ring.clear();
        ring.resize((width + 1) * len, 0.0);
        let (ring, y) = ring.split_at_mut(width * len);
        for run in self.runs {
            let remembered = run.seq * (width - 1);
            for (j, row) in ring.chunks_exact_mut(len).take(width - 1).enumerate() {
                match run.first {
                    0 => row.fill(0.0),
                    _ => row.copy_from_slice(&past.row(remembered + j)[..len]),
                }
            }
            for (i, t) in run.tokens.clone().enumerate() {
                let now = (i + width - 1) % width;
                read(t, &mut ring[now * len..(now + 1) * len]);
                y.fill(0.0);
                for j in 0..width {
                    let row = &ring[(i + j) % width * len..][..len];
                    let kernel = &self.kernel[j * self.channels..][mine.clone()];
                    for ((y, x), k) in y.iter_mut().zip(row).zip(kernel) {
                        *y += x * k;
                    }
                }
                write(t, y);
            }
            for j in 0..width - 1 {
                let row = &ring[(run.tokens.len() + j) % width * len..][..len];
                past.row(remembered + j)[..len].copy_from_slice(row);
            }
        }
    }
}
