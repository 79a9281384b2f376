//! Convolutions over the last tokens: see [`crate::block::ShortConv`].

use braise_kernels::sync::Units;

use super::inputs::{Rows, Values};
use super::{CpuWorker, UNIT, chunks};
use crate::model::{NormWeights, ShortConvWeights};

impl CpuWorker<'_, '_> {
    /// `work_2 = ` the gated convolution of `x`. A token at a time, channels side by side.
    pub(super) fn convolve(&mut self, layer: usize, weights: &ShortConvWeights, norm: Option<&NormWeights>) {
        let (n, buffers) = (self.batch.tokens.len(), self.buffers);
        self.project(
            Rows::Values(Values { norm, ..Values::of(&buffers.x) }),
            &[&weights.input],
            &buffers.work,
        );
        let (channels, width) = (weights.spec.channels, weights.spec.width);
        let state = self.kv.state(layer);
        // a ring of the last `width` tokens' b x, of the chunk's channels
        let ring = &mut self.scratch.tile;
        let units = Units::all(channels.div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut y = buffers.work_2.columns(&chunk, units);
            let mut state = state.columns(&chunk, units);
            let work = buffers.work.read(self.worker);
            let mine = y.range().start..y.range().end.min(channels);
            let len = mine.len();
            ring.clear();
            ring.resize(width * len, 0.0);
            if self.batch.first > 0 {
                for (j, past) in ring.chunks_exact_mut(len).take(width - 1).enumerate() {
                    past.copy_from_slice(&state.row(j)[..len]);
                }
            }
            for t in 0..n {
                let row = &work[t * buffers.work.row_len()..];
                let part = |i: usize| &row[i * channels + mine.start..i * channels + mine.end];
                let (b, c, x) = (part(0), part(1), part(2));
                let now = (t + width - 1) % width;
                for ((bx, b), x) in ring[now * len..(now + 1) * len].iter_mut().zip(b).zip(x) {
                    *bx = b * x;
                }
                let y = &mut y.row(t)[..len];
                y.fill(0.0);
                for j in 0..width {
                    let past = &ring[(t + j) % width * len..][..len];
                    let kernel = &weights.kernel[j * channels + mine.start..j * channels + mine.end];
                    for ((y, past), k) in y.iter_mut().zip(past).zip(kernel) {
                        *y += past * k;
                    }
                }
                y.iter_mut().zip(c).for_each(|(y, c)| *y *= c);
            }
            for j in 0..width - 1 {
                state.row(j)[..len].copy_from_slice(&ring[(n + j) % width * len..][..len]);
            }
        }
        self.worker.barrier();
    }
}
