//! Gated convolutions over the last tokens: see [`crate::block::ShortConv`].

use braise_kernels::sync::Units;

use super::conv::Conv;
use super::inputs::{Rows, Values};
use super::{CpuWorker, UNIT, chunks};
use crate::model::{NormWeights, ShortConvWeights};

impl CpuWorker<'_, '_> {
    /// `work_2 = ` the gated convolution of `x`. A token at a time, channels side by side.
    pub(super) fn convolve(&mut self, layer: usize, weights: &ShortConvWeights, norm: Option<&NormWeights>) {
        let buffers = self.buffers;
        self.project(
            Rows::Values(Values { norm, ..Values::of(&buffers.x) }),
            &[&weights.input],
            &buffers.work,
        );
        let (channels, width) = (weights.spec.channels, weights.spec.width);
        let conv = Conv { kernel: &weights.kernel, width, channels, runs: self.batch.runs };
        let units = Units::all(channels.div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut y = buffers.work_2.columns(&chunk, units);
            let mut past = self.kv.states(layer)[0].columns(&chunk, units);
            let work = buffers.work.read(self.worker);
            let mine = y.range().start..y.range().end.min(channels);
            let part = |t: usize, i: usize| &work[t * buffers.work.row_len() + i * channels..][mine.clone()];
            let read = |t: usize, bx: &mut [f32]| {
                for ((bx, b), x) in bx.iter_mut().zip(part(t, 0)).zip(part(t, 2)) {
                    *bx = b * x;
                }
            };
            let write = |t: usize, sums: &mut [f32]| {
                for ((y, sum), c) in y.row(t).iter_mut().zip(sums).zip(part(t, 1)) {
                    *y = *sum * c;
                }
            };
            conv.run(mine.clone(), &mut past, &mut self.scratch.tile, read, write);
        }
        self.worker.barrier();
    }
}
