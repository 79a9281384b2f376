//! Activations to 8 bits, sixteen blocks at a time: what a block has once (its range, scale, zero point and sums) fills a
//! vector of the sixteen, so that nothing is added or compared across lanes. The results are those of
//! [`crate::quant::q8::quantize`], to the bit.

use super::*;
use crate::quant::float::MAGIC;
use crate::quant::packed::{FLOAT_ZERO, HALF_SUM, LINES, SCALE, SUM, TILE, ZERO, tile_words};
use crate::quant::q8::{BLOCK, STEPS, SUM_BLOCK};

/// Blocks at a time.
const LANES: usize = 16;

type Values = [f32; BLOCK];

/// Quantized blocks.
struct Blocks {
    q: [__m256i; LANES],
    /// (value / 4, block): four of q.
    lines: [__m512i; BLOCK / 4],
    /// Zero points.
    z: __m512i,
    /// Scales.
    d: __m512,
    /// Sums of both halves.
    sums: [__m512i; BLOCK / SUM_BLOCK],
}

/// See [`crate::quant::q8::quantize`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn quantize(x: &[f32], q: &mut [i8], z: &mut [i8], d: &mut [f32], sum: &mut [i16]) {
    let n = x.len() / BLOCK;
    assert!(x.len().is_multiple_of(BLOCK) && q.len() == x.len() && z.len() == n && d.len() == n);
    assert!(sum.len() == x.len() / SUM_BLOCK);
    let x = x.as_chunks::<BLOCK>().0.chunks(LANES);
    let q = q.as_chunks_mut::<BLOCK>().0.chunks_mut(LANES);
    let sum = sum.as_chunks_mut::<{ BLOCK / SUM_BLOCK }>().0.chunks_mut(LANES);
    for (((x, q), (z, d)), sum) in x.zip(q).zip(z.chunks_mut(LANES).zip(d.chunks_mut(LANES))).zip(sum) {
        let blocks = quantize_blocks(|i| x.get(i));
        for (to, from) in q.iter_mut().zip(blocks.q) {
            *to = bytemuck::cast(from);
        }
        let zeros: [i8; LANES] = bytemuck::cast(_mm512_cvtepi32_epi8(blocks.z));
        z.copy_from_slice(&zeros[..z.len()]);
        let scales: [f32; LANES] = bytemuck::cast(blocks.d);
        d.copy_from_slice(&scales[..d.len()]);
        let [low, high] = blocks.sums;
        let pairs = _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32::<16>(high));
        let pairs: [[i16; BLOCK / SUM_BLOCK]; LANES] = bytemuck::cast(pairs);
        sum.copy_from_slice(&pairs[..sum.len()]);
    }
}

/// See [`crate::quant::packed::pack`]; what a tile holds of rows that are missing is 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn pack(x: &[f32], k: usize, tile: &mut [u32]) {
    assert!(x.len() <= TILE * k && tile.len() == tile_words(k));
    for (b, to) in tile.as_chunks_mut::<{ LINES * TILE }>().0.iter_mut().enumerate() {
        let Blocks { lines, z, d, sums: [low, high], .. } =
            quantize_blocks(|lane| x.get(lane * k + b * BLOCK..)?.first_chunk());
        let scaled = |sum| _mm512_castps_si512(_mm512_mul_ps(d, _mm512_cvtepi32_ps(sum)));
        let z = _mm512_sub_epi32(z, _mm512_set1_epi32(128));
        let mut all = [_mm512_castps_si512(d); LINES];
        for (all, line) in all.iter_mut().zip(lines) {
            *all = _mm512_xor_si512(line, _mm512_set1_epi8(i8::MIN));
        }
        all[ZERO] = _mm512_and_si512(z, _mm512_set1_epi32(0xffff));
        all[SCALE] = _mm512_castps_si512(d);
        all[SUM] = scaled(_mm512_add_epi32(low, high));
        all[HALF_SUM] = scaled(low);
        all[HALF_SUM + 1] = scaled(high);
        all[FLOAT_ZERO] = _mm512_castps_si512(_mm512_cvtepi32_ps(z));
        for (to, line) in to.as_chunks_mut::<TILE>().0.iter_mut().zip(all) {
            let line: [u32; LANES] = bytemuck::cast(line);
            to.copy_from_slice(&line[..TILE]);
        }
    }
}

/// Quantizes the blocks that there are; the others are 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn quantize_blocks<'a>(block: impl Fn(usize) -> Option<&'a Values>) -> Blocks {
    static NOTHING: Values = [0.0; BLOCK];
    let zero = _mm512_setzero_ps();
    let mut x = [&NOTHING; LANES];
    let (mut lo, mut hi, mut infinite) = ([zero; LANES], [zero; LANES], 0);
    for i in 0..LANES {
        x[i] = block(i).unwrap_or(&NOTHING);
        let [a, b] = halves(x[i]);
        lo[i] = _mm512_min_ps(b, _mm512_min_ps(a, zero));
        hi[i] = _mm512_max_ps(b, _mm512_max_ps(a, zero));
        // infinities and NaNs
        let odd = _mm512_fpclass_ps_mask::<0x99>(a) | _mm512_fpclass_ps_mask::<0x99>(b);
        infinite |= u16::from(odd != 0) << i;
    }
    let lo = across(lo, |a, b| _mm512_min_ps(a, b));
    let hi = across(hi, |a, b| _mm512_max_ps(a, b));
    let d = _mm512_div_ps(_mm512_sub_ps(hi, lo), _mm512_set1_ps(STEPS));
    // a smaller scale has no inverse
    let flat = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(d, _mm512_set1_ps(f32::MIN_POSITIVE));
    let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), d);
    let z = _mm512_add_ps(round(_mm512_mul_ps(lo, inverse)), _mm512_set1_ps(STEPS / 2.0));
    let (inverses, zeros): ([f32; LANES], [f32; LANES]) = (bytemuck::cast(inverse), bytemuck::cast(z));
    let quantized = !(flat | infinite);

    let mut q = [_mm256_setzero_si256(); LANES];
    for i in 0..LANES {
        let (inverse, z) = (_mm512_set1_ps(inverses[i]), _mm512_set1_ps(zeros[i]));
        let mut bytes = [_mm_setzero_si128(); 2];
        for (bytes, x) in bytes.iter_mut().zip(halves(x[i])) {
            let steps = _mm512_sub_ps(round(_mm512_mul_ps(x, inverse)), z);
            // rounding at both ends can make the range one step too wide
            let steps = _mm512_min_ps(steps, _mm512_set1_ps(STEPS / 2.0));
            let bits = _mm512_castps_si512(_mm512_add_ps(steps, _mm512_set1_ps(MAGIC)));
            *bytes = _mm512_maskz_cvtepi32_epi8(0u16.wrapping_sub(quantized >> i & 1), bits);
        }
        q[i] = _mm256_set_m128i(bytes[1], bytes[0]);
    }
    let z = _mm512_maskz_cvtps_epi32(quantized, z);
    let mut lines = [_mm512_setzero_si512(); LANES];
    for (line, q) in lines.iter_mut().zip(q) {
        *line = _mm512_zextsi256_si512(q);
    }
    let lines: [_; BLOCK / 4] = *transpose(lines).first_chunk().expect("eight of sixteen");
    let mut sums = [_mm512_slli_epi32::<4>(z); 2];
    for (sum, lines) in sums.iter_mut().zip(lines.as_chunks::<{ SUM_BLOCK / 4 }>().0) {
        for line in lines {
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi8(1), *line);
        }
    }
    let d = _mm512_maskz_mov_ps(!flat, d);
    let d = _mm512_mask_mov_ps(d, infinite, _mm512_set1_ps(f32::NAN));
    Blocks { q, lines, z, d, sums }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn halves(x: &Values) -> [__m512; 2] {
    let [low, high] = x.as_chunks().0 else { unreachable!("a block has two halves") };
    [load_floats(low), load_floats(high)]
}

/// See [`crate::quant::float::round`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn round(x: __m512) -> __m512 {
    _mm512_sub_ps(_mm512_add_ps(x, _mm512_set1_ps(MAGIC)), _mm512_set1_ps(MAGIC))
}

/// Each vector's lanes, one after the other combined by `f`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn across(x: [__m512; LANES], f: impl Fn(__m512, __m512) -> __m512) -> __m512 {
    let mut words = [_mm512_setzero_si512(); LANES];
    for (word, x) in words.iter_mut().zip(x) {
        *word = _mm512_castps_si512(x);
    }
    let words = transpose(words);
    let mut all = _mm512_castsi512_ps(words[0]);
    for word in &words[1..] {
        all = f(all, _mm512_castsi512_ps(*word));
    }
    all
}
