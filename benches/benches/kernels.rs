//! Matrix products of every format on every ISA level of this machine that has a kernel of its own, one thread, on the
//! shapes of real layers, beside what this machine can do at most.
//!
//! `decode` is one column, in bytes of weights per second: the weights come from memory, because the bench goes through
//! more of them than the caches hold. Beside it stands the share of the read bandwidth. `prefill` is a prompt of 512
//! columns, in operations per second (two for each multiply-add; criterion counts them as elements), and as the share of
//! the int8 or f32 peak: by the kernel for packed activations, where there is one, or else by the dot kernel. Rates and
//! shares are those of the best sample, as the limits are those of the best pass, measured just after.
//!
//! One shape is measured unless `BRAISE_BENCH_SHAPES=all` asks for all of them.
//! `cargo bench -p braise-benches --bench kernels -- 'Q4_K/avx2'` runs the ids that match.

use std::cell::LazyCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use braise_benches::is_test;
use braise_engine::gguf::{Gguf, Writer};
use braise_engine::measure::Peaks;
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_kernels::quant::q8::{self, Q8Buf, Q8Mat};
use braise_kernels::table::{Acts, F32Mat, Kernels, MatMul, PackedMat};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Rows and columns of a layer's matrices, as models of these sizes have them.
const SHAPES: [(&str, usize, usize); 8] = [
    ("1b", 8192, 2048),
    ("1b", 2048, 2048),
    ("1b", 2048, 8192),
    ("8b", 4096, 4096),
    ("8b", 14336, 4096),
    ("8b", 4096, 14336),
    ("135m", 576, 576),
    ("135m", 1536, 576),
];

/// How many of [`SHAPES`] are measured where not all are asked for.
const DEFAULT_SHAPES: usize = 1;

/// Tokens of the prompt.
const PROMPT: usize = 512;

/// Rows that the engine gives to the kernel at a time when it reads a prompt.
const CALL_ROWS: usize = 64;

/// Bytes of weights to go through: more than any cache holds.
const WORKING_SET: usize = 1 << 30;

/// Weights that are made; the rest repeats them, because the search of some quantizers takes its time.
const PATTERN: usize = 1 << 14;

fn uniform(n: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..n).map(|_| random.f32() * 2.0 - 1.0).collect()
}

/// `bytes` of weights of this format or a little more, in memory as the engine has that of models.
struct Weights {
    gguf: Gguf,
}

impl Weights {
    fn new(ty: Type, bytes: usize) -> Weights {
        let quantize = ty.scalar().and_then(|scalar| scalar.quantize).expect("a format that can be made");
        let row_bytes = ty.row_bytes(PATTERN).expect("whole blocks");
        let mut pattern = vec![0; row_bytes];
        quantize(&uniform(PATTERN), &mut pattern);
        let dims = [PATTERN as u64, bytes.div_ceil(row_bytes) as u64];
        let writer = Writer::new().repeating_tensor("weights", &dims, ty, &pattern);
        Weights { gguf: Gguf::in_memory("weights", &writer).expect("there is enough memory") }
    }

    /// Pieces of `bytes`, all of them over and over.
    fn pieces(&self, bytes: usize) -> impl Iterator<Item = &[u8]> {
        let all = self.gguf.data(&self.gguf.tensors()[0]);
        assert!(all.len() >= bytes, "the weights hold no piece");
        all.chunks_exact(bytes).cycle()
    }
}

/// Words in a cache line, at which tiles begin.
const LINE: usize = 16;

/// Packed activations.
struct Tiles {
    k: usize,
    columns: usize,
    room: Vec<u32>,
    first: usize,
    len: usize,
}

impl Tiles {
    fn acts(&self) -> Acts<'_> {
        let tiles = &self.room[self.first..self.first + self.len];
        Acts::Packed(PackedMat { row_len: self.k, cols: self.columns, tiles })
    }
}

/// Activations of `columns` tokens, in floats and quantized.
struct Activations {
    k: usize,
    columns: usize,
    floats: Vec<f32>,
    q8: Q8Buf,
}

impl Activations {
    fn new(k: usize, columns: usize) -> Activations {
        let n = columns * k;
        let floats = uniform(n);
        let mut q8 = Q8Buf::new(n);
        let (q, z, d, sum) = q8.parts(n);
        q8::quantize(&floats, q, z, d, sum);
        Activations { k, columns, floats, q8 }
    }

    /// Packed for `matmul`, which has a kernel for that.
    fn packed(&self, matmul: MatMul) -> Tiles {
        let packing = matmul.packing().expect("a kernel for many tokens");
        let words = packing.words(self.k);
        let mut room = vec![0; self.columns.div_ceil(packing.tile()) * words + LINE];
        let first = room.as_ptr().align_offset(LINE * size_of::<u32>());
        let tiles = room[first..].chunks_exact_mut(words);
        for (rows, tile) in self.floats.chunks(packing.tile() * self.k).zip(tiles) {
            matmul.pack(rows, self.k, tile);
        }
        Tiles { k: self.k, columns: self.columns, first, len: room.len() - LINE, room }
    }

    fn plain(&self, matmul: MatMul) -> Acts<'_> {
        if matmul.takes_q8() {
            Acts::Q8(Q8Mat { row_len: self.k, all: self.q8.row(self.columns * self.k) })
        } else {
            Acts::F32(F32Mat { row_len: self.k, all: &self.floats })
        }
    }
}

/// One product: how many rows and columns a call has, and its limit.
struct Product<'a> {
    id: String,
    matmul: MatMul,
    rows: usize,
    activations: &'a Activations,
    packed: Option<Tiles>,
}

impl Product<'_> {
    /// Measures it, and prints its share of what `kernels` could do on this machine.
    fn bench(
        &self,
        c: &mut Criterion,
        kernels: Kernels,
        weights: &LazyCell<Weights, impl FnOnce() -> Weights>,
    ) {
        let Product { id, matmul, rows, activations, packed } = self;
        let Activations { k, columns, .. } = activations;
        let bytes = rows * matmul.weights().row_bytes(*k).expect("was asked before");
        let ops = 2 * rows * k * columns;
        let decode = *columns == 1;
        let mut y = vec![0.0; rows * columns];
        let mut best = f64::INFINITY;
        let mut group = c.benchmark_group("matmul");
        group.throughput(match decode {
            true => Throughput::Bytes(bytes as u64),
            false => Throughput::Elements(ops as u64),
        });
        let mut pieces = None;
        group.bench_function(id, |b| {
            let pieces = pieces.get_or_insert_with(|| weights.pieces(bytes));
            let x = packed.as_ref().map_or_else(|| activations.plain(*matmul), Tiles::acts);
            b.iter_custom(|n| {
                let begin = Instant::now();
                for _ in 0..n {
                    matmul.call(pieces.next().expect("has no end"), black_box(x), black_box(&mut y));
                }
                let time = begin.elapsed();
                best = best.min(time.as_secs_f64() / n as f64);
                time
            });
        });
        group.finish();
        if best.is_finite() && !is_test() {
            let peaks =
                Peaks::measure(kernels, 1, WORKING_SET as u64, u64::MAX).expect("was measured before");
            let (done, unit, limit, of) = match (decode, matmul.takes_q8()) {
                (true, _) => (bytes, "GB/s", peaks.read, "read bandwidth"),
                (false, true) => (ops, "GOP/s", peaks.int8, "int8 peak"),
                (false, false) => (ops, "GOP/s", peaks.f32, "f32 peak"),
            };
            let rate = done as f64 / best;
            println!("  {:.1} {unit}: {:.2} of the {of} of {:.1}", rate * 1e-9, rate / limit, limit * 1e-9);
        }
    }
}

/// All levels and shapes of one format.
fn format(c: &mut Criterion, ty: Type, levels: &[Kernels], shapes: &[(&str, usize, usize)]) {
    let working_set = if is_test() { CALL_ROWS * ty.row_bytes(1 << 14).unwrap_or(0) } else { WORKING_SET };
    let weights = LazyCell::new(|| Weights::new(ty, working_set));
    for (model, rows, k) in shapes.iter().filter(|(_, _, k)| ty.row_bytes(*k).is_some()) {
        let one = Activations::new(*k, 1);
        let prompt = Activations::new(*k, if is_test() { 17 } else { PROMPT });
        for kernels in levels {
            let Some(matmul) = kernels.matmul(ty) else { continue };
            let isa = kernels.isa();
            let id = |kind: &str| format!("{ty}/{isa}/{model}/{rows}x{k}/{kind}");
            let rows = if is_test() { CALL_ROWS } else { *rows };
            if matmul.isa() == isa {
                let id = id("decode");
                Product { id, matmul, rows, activations: &one, packed: None }.bench(c, *kernels, &weights);
            }
            let packed = matmul.packed_isa() == Some(isa);
            if packed || matmul.isa() == isa && matmul.packing().is_none() {
                let id = id(if packed { "prefill-packed" } else { "prefill-dot" });
                let (activations, packed) = (&prompt, packed.then(|| prompt.packed(matmul)));
                Product { id, matmul, rows: CALL_ROWS, activations, packed }.bench(c, *kernels, &weights);
            }
        }
    }
}

fn kernels(c: &mut Criterion) {
    let shapes = match std::env::var("BRAISE_BENCH_SHAPES").as_deref() {
        Ok("all") => &SHAPES[..],
        _ => &SHAPES[..DEFAULT_SHAPES],
    };
    let levels: Vec<_> = Isa::ALL.into_iter().filter_map(|isa| Kernels::new(isa).ok()).collect();
    for ty in Type::ALL.iter().filter(|ty| ty.scalar().is_some_and(|scalar| scalar.quantize.is_some())) {
        format(c, *ty, &levels, shapes);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    targets = kernels
}
criterion_main!(benches);
