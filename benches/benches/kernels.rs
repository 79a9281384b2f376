//! Matrix products of every format on every ISA level of this machine that has a kernel of its own, one thread.
//!
//! `decode` is one column, in bytes of weights per second: what a kernel must reach so that memory alone limits the
//! making of a token. `prefill` is 64 columns, in operations per second (two for each multiply-add, counted as
//! elements). The matrix fits the caches of most machines, so that the kernel is measured and not the memory.
//!
//! `cargo bench -p braise-benches -- 'Q4_K/avx2'` runs the ids that match.

use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_kernels::quant::q8::{self, Q8Buf, Q8Mat};
use braise_kernels::table::{Acts, F32Mat, Kernels, MatMul};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

/// Length of a row: the width of a model of a billion weights.
const K: usize = 2048;

/// Rows that differ; the matrix repeats them, because the search of some quantizers takes its time.
const DISTINCT_ROWS: usize = 8;

fn uniform(n: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..n).map(|_| random.f32() * 2.0 - 1.0).collect()
}

fn weights(ty: Type, rows: usize) -> Vec<u8> {
    let quantize = ty.scalar().and_then(|scalar| scalar.quantize).expect("a format that can be made");
    let mut w = vec![0; DISTINCT_ROWS * ty.row_bytes(K).expect("whole blocks")];
    quantize(&uniform(DISTINCT_ROWS * K), &mut w);
    w.repeat(rows / DISTINCT_ROWS)
}

fn bench(c: &mut Criterion, matmul: MatMul, rows: usize) {
    let w = weights(matmul.weights(), rows);
    let mut group = c.benchmark_group(format!("matmul/{}/{}/k{K}", matmul.weights(), matmul.isa()));
    for (name, columns) in [("decode", 1), ("prefill", 64)] {
        let n = columns * K;
        let floats = uniform(n);
        let mut quantized = Q8Buf::new(n);
        let (q, z, d, sum) = quantized.parts(n);
        q8::quantize(&floats, q, z, d, sum);
        let x = if matmul.takes_q8() {
            Acts::Q8(Q8Mat { row_len: K, all: quantized.row(n) })
        } else {
            Acts::F32(F32Mat { row_len: K, all: &floats })
        };
        group.throughput(match columns {
            1 => Throughput::Bytes(w.len() as u64),
            _ => Throughput::Elements((2 * rows * n) as u64),
        });
        let mut y = vec![0.0; rows * columns];
        group
            .bench_function(name, |b| b.iter(|| matmul.call(black_box(&w), black_box(x), black_box(&mut y))));
    }
    group.finish();
}

fn kernels(c: &mut Criterion) {
    // `--test` runs each bench once, to see that it works
    let rows = if std::env::args().any(|arg| arg == "--test") { 64 } else { 2048 };
    for kernels in Isa::ALL.into_iter().filter_map(|isa| Kernels::new(isa).ok()) {
        for matmul in kernels.matmul_rows().filter(|matmul| matmul.isa() == kernels.isa()) {
            bench(c, matmul, rows);
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    targets = kernels
}
criterion_main!(benches);
