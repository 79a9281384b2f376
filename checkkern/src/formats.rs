//! What checkkern knows of a block format beyond its scalar truth: where its scales lie, to set them, and how large its
//! codes are, to bound what a kernel adds up.

use braise_kernels::quant::block::BlockFormat;
use braise_kernels::quant::{
    Type, iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs, mxfp4, nvfp4, q2_k, q3_k,
    q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, tq1_0, tq2_0,
};
use std::mem::offset_of;

/// A floating-point field of a block.
#[derive(Debug, Clone, Copy)]
pub enum Field {
    /// Two bytes at this offset.
    F16(usize),
    /// The upper halves of four 16-bit numbers from this offset on.
    F16Nibbles(usize),
    /// An exponent at this offset: 2^(e - 128).
    E8M0(usize),
    /// Half of a number of 4 bits of exponent and 3 of mantissa at this offset.
    E4M3(usize),
}

impl Field {
    /// Writes the field. Where there is an exponent, the field takes the power of two below |x|, as far as the exponent
    /// reaches, or 1 where there is none (0, infinity, NaN).
    pub fn set(self, block: &mut [u8], x: f32) {
        match self {
            Field::F16(at) => block[at..at + 2].copy_from_slice(&half::f16::from_f32(x).to_le_bytes()),
            Field::F16Nibbles(at) => {
                let bits = half::f16::from_f32(x).to_bits();
                for j in 0..4 {
                    let high = &mut block[at + 2 * j + 1];
                    *high = *high & 0x0f | ((bits >> (4 * j)) as u8) << 4;
                }
            }
            Field::E4M3(at) if x.is_normal() => {
                block[at] = (((x.abs().to_bits() >> 23) as i32 - 127 + 8).clamp(1, 15) as u8) << 3;
            }
            Field::E4M3(at) => block[at] = 8 << 3,
            Field::E8M0(at) if x.is_normal() => block[at] = (x.abs().to_bits() >> 23) as u8 + 1,
            Field::E8M0(at) => block[at] = 128,
        }
    }
}

/// One block format.
#[derive(Debug)]
pub struct Format {
    /// Its type.
    pub ty: Type,
    /// The floating-point fields of its blocks.
    pub scales: &'static [Field],
    /// What weights are multiples of, where all these fields are 1.
    pub unit: f32,
    /// Its least and its greatest code.
    codes: (i8, i8),
    sizes: fn(&[u8], (i8, i8)) -> Vec<f64>,
    code_range: fn(&[u8]) -> (i8, i8),
}

impl Format {
    const fn of<B: BlockFormat<N, G>, const N: usize, const G: usize>(
        ty: Type,
        scales: &'static [Field],
        codes: (i8, i8),
    ) -> Self {
        Format { ty, scales, unit: 1.0, codes, sizes: sizes::<B, N, G>, code_range: code_range::<B, N, G> }
    }

    /// The same with weights in parts of the fields.
    const fn in_parts(self, unit: f32) -> Self {
        Format { unit, ..self }
    }

    /// The format of this type, if it has blocks.
    pub fn find(ty: Type) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.ty == ty)
    }

    /// For each weight the largest magnitude that its group's scale and offset allow.
    pub fn sizes(&self, w: &[u8]) -> Vec<f64> {
        (self.sizes)(w, self.codes)
    }

    /// The least and the greatest code of these blocks, 0 included.
    pub fn code_range(&self, w: &[u8]) -> (i8, i8) {
        (self.code_range)(w)
    }
}

fn sizes<B: BlockFormat<N, G>, const N: usize, const G: usize>(w: &[u8], codes: (i8, i8)) -> Vec<f64> {
    let ends = [codes.0, codes.1].map(f64::from);
    let mut sizes = Vec::new();
    for block in w.chunks_exact(size_of::<B>()) {
        let block: B = bytemuck::pod_read_unaligned(block);
        let (scales, offsets) = (block.scales(), block.offsets().unwrap_or([0.0; G]));
        sizes.extend((0..N).map(|i| {
            let (scale, offset) = (f64::from(scales[i * G / N]), f64::from(offsets[i * G / N]));
            let [a, b] = ends.map(|code| (scale * code + offset).abs());
            if a.is_nan() { a } else { a.max(b) }
        }));
    }
    sizes
}

fn code_range<B: BlockFormat<N, G>, const N: usize, const G: usize>(w: &[u8]) -> (i8, i8) {
    w.chunks_exact(size_of::<B>())
        .flat_map(|block| bytemuck::pod_read_unaligned::<B>(block).codes())
        .fold((0, 0), |(low, high), code| (low.min(code), high.max(code)))
}

/// `&[Field]` of a block's f16 fields.
macro_rules! f16_at {
    ($block:path: $($field:ident),*) => { &[$(Field::F16(offset_of!($block, $field))),*] };
}

/// All block formats.
pub const FORMATS: &[Format] = &[
    Format::of::<q4_0::Block, 32, 1>(Type::Q4_0, f16_at!(q4_0::Block: d), (-8, 7)),
    Format::of::<q4_1::Block, 32, 1>(Type::Q4_1, f16_at!(q4_1::Block: d, m), (0, 15)),
    Format::of::<q5_0::Block, 32, 1>(Type::Q5_0, f16_at!(q5_0::Block: d), (-16, 15)),
    Format::of::<q5_1::Block, 32, 1>(Type::Q5_1, f16_at!(q5_1::Block: d, m), (0, 31)),
    Format::of::<q8_0::Block, 32, 1>(Type::Q8_0, f16_at!(q8_0::Block: d), (-128, 127)),
    Format::of::<q2_k::Block, 256, 16>(Type::Q2_K, f16_at!(q2_k::Block: d, dmin), (0, 3)),
    Format::of::<q3_k::Block, 256, 16>(Type::Q3_K, f16_at!(q3_k::Block: d), (-4, 3)),
    Format::of::<q4_k::Block, 256, 8>(Type::Q4_K, f16_at!(q4_k::Block: d, dmin), (0, 15)),
    Format::of::<q5_k::Block, 256, 8>(Type::Q5_K, f16_at!(q5_k::Block: d, dmin), (0, 31)),
    Format::of::<q6_k::Block, 256, 16>(Type::Q6_K, f16_at!(q6_k::Block: d), (-32, 31)),
    Format::of::<iq4_nl::Block, 32, 1>(Type::IQ4_NL, f16_at!(iq4_nl::Block: d), (-127, 113)),
    Format::of::<iq4_xs::Block, 256, 8>(Type::IQ4_XS, f16_at!(iq4_xs::Block: d), (-127, 113)),
    Format::of::<mxfp4::Block, 32, 1>(Type::MXFP4, &[Field::E8M0(offset_of!(mxfp4::Block, e))], (-12, 12)),
    Format::of::<nvfp4::Block, 64, 4>(
        Type::NVFP4,
        &[Field::E4M3(0), Field::E4M3(1), Field::E4M3(2), Field::E4M3(3)],
        (-12, 12),
    ),
    Format::of::<iq1_s::Block, 256, 8>(Type::IQ1_S, f16_at!(iq1_s::Block: d), (-9, 9)).in_parts(1.0 / 8.0),
    Format::of::<iq1_m::Block, 256, 16>(
        Type::IQ1_M,
        &[Field::F16Nibbles(offset_of!(iq1_m::Block, scales))],
        (-9, 9),
    )
    .in_parts(1.0 / 8.0),
    Format::of::<iq2_xxs::Block, 256, 8>(Type::IQ2_XXS, f16_at!(iq2_xxs::Block: d), (-43, 43))
        .in_parts(1.0 / 8.0),
    Format::of::<iq2_xs::Block, 256, 16>(Type::IQ2_XS, f16_at!(iq2_xs::Block: d), (-43, 43))
        .in_parts(1.0 / 8.0),
    Format::of::<iq2_s::Block, 256, 16>(Type::IQ2_S, f16_at!(iq2_s::Block: d), (-43, 43)).in_parts(1.0 / 8.0),
    Format::of::<iq3_xxs::Block, 256, 8>(Type::IQ3_XXS, f16_at!(iq3_xxs::Block: d), (-62, 62))
        .in_parts(1.0 / 4.0),
    Format::of::<iq3_s::Block, 256, 8>(Type::IQ3_S, f16_at!(iq3_s::Block: d), (-15, 15)),
    Format::of::<tq1_0::Block, 256, 1>(Type::TQ1_0, f16_at!(tq1_0::Block: d), (-1, 1)),
    Format::of::<tq2_0::Block, 256, 1>(Type::TQ2_0, f16_at!(tq2_0::Block: d), (-1, 2)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use braise_kernels::quant::Dot;

    #[test]
    fn every_format_with_quantized_activations_has_a_row() {
        for ty in Type::ALL {
            let blocks = ty.scalar().is_some_and(|scalar| matches!(scalar.dot, Dot::Q8(_)));
            assert_eq!(Format::find(*ty).is_some(), blocks, "{ty}");
        }
    }

    #[test]
    fn codes_fill_their_range() {
        let mut random = fastrand::Rng::with_seed(1);
        for format in FORMATS {
            let mut w = vec![0; 1000 * format.ty.bytes()];
            random.fill(&mut w);
            assert_eq!(format.code_range(&w), format.codes, "{}", format.ty);
        }
    }

    #[test]
    fn no_weight_is_larger_than_its_size_and_some_are_as_large() {
        let mut random = fastrand::Rng::with_seed(2);
        for format in FORMATS {
            let (ty, scalar) = (format.ty, format.ty.scalar().expect("a format with a row"));
            let mut w = vec![0; 1000 * ty.bytes()];
            random.fill(&mut w);
            for block in w.chunks_exact_mut(ty.bytes()) {
                format.scales.iter().for_each(|scale| scale.set(block, random.f32() + 1.0));
            }
            let mut weights = vec![0.0; 1000 * ty.block()];
            (scalar.dequantize)(&w, &mut weights);
            let mut equal = 0;
            for (weight, size) in weights.iter().zip(format.sizes(&w)) {
                let share = f64::from(weight.abs()) / size;
                assert!(size == 0.0 || share <= 1.0 + 1e-6, "{ty}: {weight} of {size}");
                equal += usize::from(share >= 1.0 - 1e-6);
            }
            assert!(equal > 0, "{ty}");
        }
    }

    #[test]
    fn scales_are_where_the_table_says() {
        for format in FORMATS {
            let (ty, scalar) = (format.ty, format.ty.scalar().expect("a format with a row"));
            for field in format.scales {
                // all scales 1, then one of them 2: the weights must change, or those of a group that it is for
                let [one, two] = [1.0, 2.0].map(|x| {
                    let mut block = vec![0x77; ty.bytes()];
                    format.scales.iter().for_each(|scale| scale.set(&mut block, 1.0));
                    field.set(&mut block, x);
                    let mut weights = vec![0.0; ty.block()];
                    (scalar.dequantize)(&block, &mut weights);
                    weights
                });
                let same = one.iter().zip(&two).filter(|(one, two)| one == two && **one != 0.0).count();
                let of_other_groups = if ty == Type::NVFP4 { 48 } else { 0 };
                assert!(one != two && same == of_other_groups, "{ty} {field:?}: {same} weights are the same");
            }
        }
    }
}
