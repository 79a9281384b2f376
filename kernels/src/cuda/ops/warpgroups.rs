//! Whether products of warpgroups can be relied on: a small one, computed by them and by products of warps.

use half::bf16;

use super::{Epilogue, Matmul, Matrix, Tiles, WEIGHT_PADDING};
use crate::cuda::{Address, Device, Error};
use crate::quant::Type;

/// More than one tile of each width, the last ones in part.
const ROWS: usize = 150;
const COLUMNS: usize = 261;

/// What is wrong with products of warpgroups on `device`, with weights of type `ty` (or another one, if braise does not write
/// that): nothing, if they are those of warps but for the order of sums.
///
/// Both kernels round the same weights to bf16, and k sums of f32 are each at most 2^-24 of the sum S of magnitudes from the
/// exact one. So two results differ by at most k 2^-23 S.
///
/// # Errors
/// The device was lost, or has no memory left.
pub fn distrust_warpgroups(device: &mut dyn Device, ty: Type) -> Result<Option<String>, Error> {
    let writes = |ty: &Type| ty.scalar().is_some_and(|scalar| scalar.quantize.is_some());
    let problem = Problem::new(Some(ty).filter(writes).unwrap_or(Type::Q8_0))?;
    let mut held = Vec::new();
    let compared = problem.compare(device, &mut held);
    let freed = held.into_iter().try_for_each(|address| device.free(address));
    match compared {
        Err(e @ (Error::Lost(_) | Error::OutOfMemory { .. })) => Err(e),
        // the driver cannot load or start them
        Err(e) => freed.map(|()| Some(e.to_string())),
        Ok(found) => freed.map(|()| found),
    }
}

/// A product, with its weights as a file has them and as they are.
struct Problem {
    ty: Type,
    k: usize,
    w: Vec<u8>,
    weights: Vec<f32>,
    x: Vec<bf16>,
}

impl Problem {
    fn new(ty: Type) -> Result<Problem, Error> {
        // more steps of 64 than are held at a time, and half a step at the end where rows may have that
        let k = if ty.block() > 32 { 8 * 64 } else { 9 * 32 };
        let number = |i: usize| ((i.wrapping_mul(2_654_435_761) >> 7) % 2001) as f32 / 1000.0 - 1.0;
        let values: Vec<f32> = (0..ROWS * k).map(number).collect();
        let row_bytes = ty.row_bytes(k).filter(|_| ty.block() <= 8 * 64);
        let (Some(row_bytes), Some(scalar)) = (row_bytes, ty.scalar()) else {
            return Err(Error::Operands(format!("no product with weights in {ty}")));
        };
        let mut w = vec![0; ROWS * row_bytes];
        if let Some(quantize) = scalar.quantize {
            quantize(&values, &mut w);
        }
        let mut weights = vec![0.0; values.len()];
        (scalar.dequantize)(&w, &mut weights);
        let x = (0..COLUMNS * k).map(|i| bf16::from_f32(number(i + 77))).collect();
        Ok(Problem { ty, k, w, weights, x })
    }

    /// What differs; what is allocated goes into `held`.
    fn compare(&self, device: &mut dyn Device, held: &mut Vec<Address>) -> Result<Option<String>, Error> {
        let mut put = |bytes: usize| {
            let address = device.allocate(bytes)?;
            held.push(address);
            device.clear(address, bytes)?;
            Ok(address)
        };
        let (w, x) = (put(self.w.len() + WEIGHT_PADDING)?, put(2 * self.x.len())?);
        let y = put(4 * ROWS * COLUMNS)?;
        device.upload(w, &self.w)?;
        device.upload(x, bytemuck::cast_slice(&self.x))?;
        let mut results = |tiles: Tiles| {
            let product = Matmul {
                ty: self.ty,
                w: Matrix { data: w, ..Matrix::default() },
                x,
                k: self.k as u32,
                rows: ROWS as u32,
                columns: COLUMNS as u32,
                experts: None,
                epilogue: Epilogue::Store,
                y,
                y_stride: ROWS as u32,
                tiles,
            };
            device.clear(y, 4 * ROWS * COLUMNS)?;
            device.launch(&product.launch()?)?;
            let mut results = vec![0.0_f32; ROWS * COLUMNS];
            device.download(y, bytemuck::cast_slice_mut(&mut results))?;
            Ok::<_, Error>(results)
        };
        let want = results(Tiles::Warps)?;
        for width in Tiles::WIDTHS {
            let got = results(Tiles::Warpgroups(width))?;
            let wrong = (0..got.len()).find(|i| !self.alike(*i, want[*i], got[*i]));
            if let Some(i) = wrong {
                return Ok(Some(format!(
                    "row {} of column {} is {} instead of {} in tiles of {width} columns",
                    i % ROWS,
                    i / ROWS,
                    got[i],
                    want[i]
                )));
            }
        }
        Ok(None)
    }

    /// Whether two numbers may both be result i.
    fn alike(&self, i: usize, a: f32, b: f32) -> bool {
        let weights = &self.weights[i % ROWS * self.k..][..self.k];
        let x = &self.x[i / ROWS * self.k..][..self.k];
        let products = weights.iter().zip(x).map(|(w, x)| (bf16::from_f32(*w).to_f64() * x.to_f64()).abs());
        let bound = self.k as f64 * f64::from(f32::EPSILON) * products.sum::<f64>();
        (f64::from(a) - f64::from(b)).abs() <= bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_differ_by_the_order_of_sums_and_no_more() {
        for ty in [Type::Q8_0, Type::Q4_K, Type::F16] {
            let problem = Problem::new(ty).expect("a type that is written");
            let (i, k) = (17 * ROWS + 5, problem.k);
            let (weights, x) = (&problem.weights[5 * k..6 * k], &problem.x[17 * k..18 * k]);
            let products = weights.iter().zip(x).map(|(w, x)| bf16::from_f32(*w).to_f32() * x.to_f32());
            let (forth, back) = (products.clone().sum::<f32>(), products.clone().rev().sum::<f32>());
            assert!(problem.alike(i, forth, back), "{ty}: {forth} and {back}");
            let largest = products.map(f32::abs).fold(0.0, f32::max);
            for wrong in [forth + largest, -forth, 0.0, f32::NAN, f32::INFINITY] {
                assert!(!problem.alike(i, forth, wrong), "{ty}: {forth} and {wrong}");
            }
        }
    }
}
