//! Tests that every format passes. They walk `Type::ALL`: a new format needs its test vectors
//! (`kernels/testdata/make.py`) and its row in [`ROUND_TRIP`], and no new test.

use super::q8::{self, BLOCK, Q8Buf, SUM_BLOCK};
use super::{Dot, Scalar, Type};

/// Numbers that look random and are the same everywhere (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number in `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A standard normal number (Box-Muller).
    pub fn normal(&mut self) -> f32 {
        let uniform = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
        let (u, v) = (1.0 - uniform(self.next()), uniform(self.next()));
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

/// A row of activations, quantized.
pub fn quantized(x: &[f32]) -> Q8Buf {
    let mut buf = Q8Buf::new(x.len());
    let (q, z, d, sum) = buf.parts(x.len());
    q8::quantize(x, q, z, d, sum);
    buf
}

/// Every format that has an implementation.
fn formats() -> impl Iterator<Item = (Type, &'static Scalar)> {
    Type::ALL.iter().filter_map(|&ty| Some((ty, ty.scalar()?)))
}

fn dequantize(ty: Type, scalar: &Scalar, w: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; w.len() / ty.bytes() * ty.block()];
    (scalar.dequantize)(w, &mut out);
    out
}

fn quantize(ty: Type, scalar: &Scalar, x: &[f32]) -> Vec<u8> {
    let quantize = scalar.quantize.expect("every format here can be produced");
    let mut w = vec![0; x.len() / ty.block() * ty.bytes()];
    quantize(x, &mut w);
    w
}

/// The test vectors of a format; their layout is described in `make.py`.
struct Vectors {
    exact: Vec<u8>,
    blocks: Vec<u8>,
    weights: Vec<f32>,
    to_quantize: Vec<f32>,
    quantized: Vec<u8>,
}

impl Vectors {
    fn of(ty: Type) -> Self {
        let path = format!("{}/testdata/{ty}.bin", env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}; see testdata/make.py"));
        let mut rest = &file[..];
        let mut take =
            |bytes: usize| rest.split_off(..bytes).expect("a file as long as its header says").to_vec();
        let [exact, blocks, quantized] = [(); 3].map(|()| u32_of(&take(4)));
        let vectors = {
            let bytes = take(blocks * ty.bytes());
            Self {
                exact: bytes[..exact * ty.bytes()].to_vec(),
                blocks: bytes,
                weights: floats(&take(blocks * ty.block() * 4)),
                to_quantize: floats(&take(quantized * ty.block() * 4)),
                quantized: take(quantized * ty.bytes()),
            }
        };
        assert!(rest.is_empty() && exact > 0 && blocks > exact, "{path} is not what its header says");
        vectors
    }
}

fn u32_of(bytes: &[u8]) -> usize {
    u32::from_le_bytes(bytes.try_into().unwrap()) as usize
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// The same bits; of NaN only that it is one.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn same_tells_bits_apart() {
    assert!(same(1.0, 1.0) && same(f32::NAN, -f32::NAN) && same(f32::INFINITY, f32::INFINITY));
    for (a, b) in [(0.0, -0.0), (1.0, -1.0), (1.0, 1.0f32.next_up()), (f32::NAN, 1.0), (1.0, f32::NAN)] {
        assert!(!same(a, b), "{a} {b}");
    }
}

#[test]
fn there_are_twenty_six_formats() {
    assert_eq!(formats().count(), 26);
}

#[test]
fn dequantize_agrees_with_numpy() {
    for (ty, scalar) in formats() {
        let vectors = Vectors::of(ty);
        let ours = dequantize(ty, scalar, &vectors.blocks);
        for (i, (ours, theirs)) in ours.iter().zip(&vectors.weights).enumerate() {
            let (block, at) = (i / ty.block(), i % ty.block());
            assert!(same(*ours, *theirs), "{ty} block {block}, weight {at}: {ours:e} instead of {theirs:e}");
        }
    }
}

#[test]
fn reference_quantizers_agree_with_numpy() {
    let mut compared = Vec::new();
    for (ty, scalar) in formats() {
        let vectors = Vectors::of(ty);
        if vectors.to_quantize.is_empty() {
            continue;
        }
        let ours = quantize(ty, scalar, &vectors.to_quantize);
        let blocks = ours.chunks_exact(ty.bytes()).zip(vectors.quantized.chunks_exact(ty.bytes()));
        for ((i, (ours, theirs)), x) in blocks.enumerate().zip(vectors.to_quantize.chunks_exact(ty.block())) {
            assert_eq!(ours, theirs, "{ty} block {i}: {x:?}");
        }
        compared.push(ty);
    }
    use Type::{BF16, F16, F32, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ1_0, TQ2_0};
    assert_eq!(compared, [F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, BF16, TQ1_0, TQ2_0, MXFP4]);
}

#[test]
fn representable_weights_come_back_exactly() {
    for (ty, scalar) in formats() {
        let weights = dequantize(ty, scalar, &Vectors::of(ty).exact);
        let back = dequantize(ty, scalar, &quantize(ty, scalar, &weights));
        for (i, (back, weight)) in back.iter().zip(&weights).enumerate() {
            // == : a weight of -0 may come back as 0
            assert!(back == weight, "{ty} block {}: {weight} came back as {back}", i / ty.block());
        }
    }
}

#[test]
fn any_bytes_are_weights() {
    let mut random = Random::new(9);
    for (ty, scalar) in formats() {
        let blocks = 1000_usize.next_multiple_of(BLOCK);
        let w: Vec<u8> = (0..blocks * ty.bytes()).map(|_| random.below(256) as u8).collect();
        let weights = dequantize(ty, scalar, &w);
        let (_, values) = dot(scalar, &w, &quantized(&vec![1.0; weights.len()]), weights.len());
        assert!(values.iter().all(|x| x.is_finite()), "{ty}");
    }
}

#[test]
fn zero_blocks_stay_zero() {
    for (ty, scalar) in formats() {
        let back = dequantize(ty, scalar, &quantize(ty, scalar, &vec![0.0; 2 * ty.block()]));
        assert!(back.iter().all(|&x| x == 0.0), "{ty}: {back:?}");
    }
}

#[test]
fn equal_weights_stay_equal() {
    for (ty, scalar) in formats() {
        for x in [0.75, -0.75] {
            let back = dequantize(ty, scalar, &quantize(ty, scalar, &vec![x; ty.block().max(BLOCK)]));
            // at most the rounding of f16 scales to 11 bits, but MXFP4 has steps of a third, and the codebooks of
            // magnitudes have few points whose numbers are all alike
            let bound = match ty {
                Type::MXFP4 => 0.34,
                Type::IQ2_XXS | Type::IQ2_XS | Type::IQ2_S => 0.73,
                Type::IQ3_XXS | Type::IQ3_S => 0.31,
                _ => 1e-3,
            };
            assert!(back.iter().all(|y| (y - x).abs() <= bound * x.abs()), "{ty}: {x} came back as {back:?}");
        }
    }
}

/// The root mean square error, relative to sigma, of 64 Ki normal numbers that are quantized and dequantized, as it was
/// measured; 1% more fails. A wrong shift, scale or order costs far more, and so does a worse search.
const ROUND_TRIP: &[(Type, f64)] = &[
    (Type::F32, 0.0),
    (Type::F16, 0.000208),
    (Type::Q4_0, 0.085451),
    (Type::Q4_1, 0.078143),
    (Type::Q5_0, 0.042544),
    (Type::Q5_1, 0.037693),
    (Type::Q8_0, 0.005321),
    (Type::Q2_K, 0.272852),
    (Type::Q3_K, 0.144095),
    (Type::Q4_K, 0.070898),
    (Type::Q5_K, 0.035262),
    (Type::Q6_K, 0.017190),
    (Type::IQ4_NL, 0.073518),
    (Type::IQ4_XS, 0.074022),
    (Type::BF16, 0.001660),
    (Type::MXFP4, 0.114530),
    (Type::IQ1_S, 0.480232),
    (Type::IQ1_M, 0.446955),
    (Type::IQ2_XXS, 0.346245),
    (Type::IQ2_XS, 0.305849),
    (Type::IQ2_S, 0.253684),
    (Type::IQ3_XXS, 0.191391),
    (Type::IQ3_S, 0.140615),
    (Type::TQ1_0, 0.799598),
    (Type::TQ2_0, 0.799598),
    (Type::NVFP4, 0.095227),
];

#[test]
fn round_trip_errors_are_as_small_as_they_were() {
    let mut random = Random::new(42);
    let x: Vec<f32> = (0..1 << 16).map(|_| random.normal()).collect();
    let sigma = rms(x.iter().map(|&x| x.into()));
    for (ty, scalar) in formats() {
        let back = dequantize(ty, scalar, &quantize(ty, scalar, &x));
        let error = rms(x.iter().zip(&back).map(|(&x, &y)| f64::from(x) - f64::from(y))) / sigma;
        let row = ROUND_TRIP.iter().find(|(row, _)| *row == ty).expect("a row for each format");
        assert!(error <= 1.01 * row.1, "{ty}: {error:.6} instead of {}", row.1);
    }
}

fn rms(x: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = x.len() as f64;
    (x.map(|x| x * x).sum::<f64>() / n).sqrt()
}

/// The dot product of a row, with the activations that it was really taken with.
/// The dot product with activations, and the values that these stand for.
fn dot(scalar: &Scalar, w: &[u8], x: &Q8Buf, n: usize) -> (f32, Vec<f32>) {
    let mut values = vec![0.0; n];
    q8::dequantize(x.row(n), &mut values);
    match scalar.dot {
        Dot::F32(dot) => (dot(w, &values), values),
        Dot::Q8(dot) => (dot(w, x.row(n)), values),
    }
}

/// Activations of small whole numbers with zero points, and scales that are powers of two.
fn small_activations(random: &mut Random, n: usize) -> Q8Buf {
    let mut x = Q8Buf::new(n);
    let (q, z, d, sum) = x.parts(n);
    q.fill_with(|| random.below(5) as i8 - 2);
    z.fill_with(|| random.below(3) as i8 - 1);
    d.iter_mut().enumerate().for_each(|(b, d)| *d = [1.0, 0.5][b % 2]);
    for (i, sum) in sum.iter_mut().enumerate() {
        let at = i * SUM_BLOCK;
        *sum = q[at..at + SUM_BLOCK].iter().map(|&q| i16::from(q) + i16::from(z[at / BLOCK])).sum();
    }
    x
}

/// Sum of w x, and of |w x|, in f64.
fn exact_dot(w: &[f32], x: &[f32]) -> (f64, f64) {
    w.iter().zip(x).fold((0.0, 0.0), |(sum, size), (&w, &x)| {
        let product = f64::from(w) * f64::from(x);
        (sum + product, size + product.abs())
    })
}

#[test]
fn dot_is_exact_where_every_sum_is_representable() {
    let mut random = Random::new(7);
    for (ty, scalar) in formats() {
        let w = Vectors::of(ty).exact;
        let weights = dequantize(ty, scalar, &w);
        for _ in 0..20 {
            let n = weights.len();
            let x = small_activations(&mut random, n);
            let (ours, values) = dot(scalar, &w, &x, n);
            let (exact, size) = exact_dot(&weights, &values);
            // All weights and activations are multiples of 2^-5 and 2^-1: in units of 2^-6 every sum fits 24 bits.
            assert!(size < f64::from(1 << 18), "{ty}: sums of {size} need not be exact");
            assert!(f64::from(ours) == exact, "{ty}: {ours} instead of {exact}");
        }
    }
}

/// The error of a dot product of n weights is at most (n / 16 + 9) 2^-24 times a sum of magnitudes, because
///
/// - each group (of 16 weights or more) is rounded at most 6 times (d times scale, times the sum, as much for the
///   offset, the two added, times the activations' scale), and then each of the n / 16 groups is added to the total;
/// - the weights that it is compared with were rounded 3 times themselves (d times scale, times the code, plus offset);
/// - the magnitudes are |scale code x| + |offset x|, at most 3 max|w| |x| with the largest weight of the block: the
///   offset is the weight of code 0, and the rest of a weight no more than itself and the offset.
///
/// For float formats this holds with room to spare.
#[test]
fn dot_is_within_its_rounding_errors() {
    let mut random = Random::new(8);
    for (ty, scalar) in formats() {
        for n in [256, 512, 2048, 8192] {
            let x: Vec<f32> = (0..n).map(|_| random.normal()).collect();
            let weights: Vec<f32> = (0..n).map(|_| random.normal() * 0.02).collect();
            let w = quantize(ty, scalar, &weights);
            let weights = dequantize(ty, scalar, &w);
            let (ours, values) = dot(scalar, &w, &quantized(&x), n);
            let (exact, _) = exact_dot(&weights, &values);
            let size: f64 = (weights.chunks(ty.block()).zip(values.chunks(ty.block())))
                .map(|(w, x)| {
                    3.0 * f64::from(max_abs(w)) * x.iter().map(|&x| f64::from(x.abs())).sum::<f64>()
                })
                .sum();
            let bound = (n / SUM_BLOCK + 9) as f64 * f64::from(f32::EPSILON) / 2.0 * size;
            let err = (f64::from(ours) - exact).abs();
            assert!(err <= bound, "{ty} n={n}: {ours} instead of {exact}, {err:e} above {bound:e}");
        }
    }
}

fn max_abs(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |max, x| max.max(x.abs()))
}

#[test]
fn what_is_not_finite_reaches_the_dot_product() {
    for (ty, scalar) in formats() {
        let vectors = Vectors::of(ty);
        // Floats are rows of 32, so that activations come in whole blocks.
        let n = ty.block().max(BLOCK);
        let x = quantized(&vec![1.0; n]);
        let rows =
            vectors.weights.chunks_exact(n).zip(vectors.blocks.chunks_exact(n / ty.block() * ty.bytes()));
        let bad: Vec<_> = rows.filter(|(weights, _)| weights.iter().any(|w| !w.is_finite())).collect();
        // the scales of NVFP4 are finite, whatever their bits
        assert!(bad.is_empty() == (ty == Type::NVFP4), "{ty} has no vectors of this kind");
        for (_, w) in bad {
            let (ours, _) = dot(scalar, w, &x, n);
            assert!(!ours.is_finite(), "{ty}: {ours}");
        }
        let mut x = vec![1.0; n];
        x[n - 1] = f32::NAN;
        let w = quantize(ty, scalar, &vec![1.0; n]);
        let (ours, _) = dot(scalar, &w, &quantized(&x), n);
        assert!(ours.is_nan(), "{ty}: a NaN among the activations gave {ours}");
    }
}
