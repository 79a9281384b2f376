//! The interpreter of PTX on whole kernels that NVRTC compiled (`tests/data/ptx/`), against the same computed here; and
//! on the same kernels with a fault put in, which it must find.

use std::path::Path;

use braise_tests::ptx::{Fault, Machine, Module};
use half::{bf16, f16};

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/ptx").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn module(name: &str) -> Module {
    let module = Module::parse(&text(name)).unwrap();
    assert_eq!(module.unknown(), Vec::<String>::new());
    module
}

/// Parameters as C lays them out.
#[derive(Default)]
struct Params(Vec<u8>);

impl Params {
    fn pointers(addresses: &[u64]) -> Self {
        addresses.iter().fold(Self::default(), |params, address| params.with(&address.to_le_bytes()))
    }

    fn with(mut self, bytes: &[u8]) -> Self {
        self.0.resize(self.0.len().next_multiple_of(bytes.len()), 0);
        self.0.extend_from_slice(bytes);
        self
    }

    fn int(self, x: i32) -> Self {
        self.with(&x.to_le_bytes())
    }
}

fn put<T: bytemuck::NoUninit>(machine: &mut Machine, values: &[T]) -> u64 {
    machine.alloc_with(bytemuck::cast_slice(values))
}

fn get<T: bytemuck::AnyBitPattern>(machine: &mut Machine, address: u64, count: usize) -> Vec<T> {
    let bytes = machine.read(address, count * size_of::<T>()).unwrap();
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// Numbers below `end`, the same in every run.
fn numbers(count: usize, end: u32) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..count).map(|_| random.u32(..end)).collect()
}

#[test]
fn sums_of_blocks() {
    let module = module("reduce.ptx");
    let mut machine = Machine::new();
    let x: Vec<_> = numbers(1000, 100).into_iter().map(|x| x as f32).collect();
    let (from, to) = (put(&mut machine, &x), machine.alloc(12));
    let params = Params::pointers(&[from, to]).int(1000);
    let counts = machine.launch(&module, "block_sums", [3, 1, 1], [96, 1, 1], 0, &params.0).unwrap();
    let mut expected = [0.0_f32; 3];
    x.iter().enumerate().for_each(|(i, x)| expected[i / 96 % 3] += x);
    assert_eq!(get::<f32>(&mut machine, to, 3), expected);
    assert!(counts.thread_instructions > 20 * counts.warp_instructions, "{counts:?}");
}

#[test]
fn softmax_of_rows() {
    let module = module("reduce.ptx");
    let (rows, width) = (3, 77);
    let mut machine = Machine::new();
    let x: Vec<_> =
        numbers(rows * width, 1000).into_iter().map(|x| f16::from_f32(x as f32 / 200.0)).collect();
    let (from, to) = (put(&mut machine, &x), machine.alloc(2 * rows * width));
    let params = Params::pointers(&[from, to]).int(width as i32);
    let shared = 4 * width as u32;
    machine.launch(&module, "softmax", [rows as u32, 1, 1], [32, 1, 1], shared, &params.0).unwrap();
    let out = get::<f16>(&mut machine, to, rows * width);
    for (x, out) in x.chunks(width).zip(out.chunks(width)) {
        let sum: f64 = x.iter().map(|x| f64::from(*x).exp()).sum();
        for (x, out) in x.iter().zip(out) {
            let exact = f64::from(*x).exp() / sum;
            // half a unit of the half, and what f32 loses on the way
            assert!((f64::from(*out) - exact).abs() <= exact * 0.5001 / 1024.0 + 3e-8, "{out} {exact}");
        }
    }
    let trap = machine.launch(&module, "softmax", [1; 3], [32, 1, 1], shared - 4, &params.0).unwrap_err();
    assert!(matches!(trap.fault, Fault::OutOfBounds { space: "shared", .. }), "{trap}");
}

#[test]
fn atomics_count() {
    let module = module("reduce.ptx");
    let mut machine = Machine::new();
    let x = numbers(150, 1 << 20);
    let (from, counts, extremes) =
        (put(&mut machine, &x), put(&mut machine, &[0_u32; 16]), put(&mut machine, &[0, i32::MAX]));
    let params = Params::pointers(&[from, counts, extremes]).int(150);
    machine.launch(&module, "histogram", [3, 1, 1], [64, 1, 1], 0, &params.0).unwrap();
    let mut expected = [0; 16];
    x.iter().for_each(|x| expected[*x as usize % 16] += 1);
    assert_eq!(get::<u32>(&mut machine, counts, 16), expected);
    let expected = [*x.iter().max().unwrap(), *x.iter().min().unwrap()];
    assert_eq!(get::<u32>(&mut machine, extremes, 2), expected);
}

#[test]
fn loops_that_diverge() {
    let module = module("reduce.ptx");
    let mut machine = Machine::new();
    let x: Vec<_> = (1..=100_u32).collect();
    let (from, to) = (put(&mut machine, &x), machine.alloc(400));
    let params = Params::pointers(&[from, to]).int(100);
    machine.launch(&module, "collatz", [2, 1, 1], [64, 1, 1], 0, &params.0).unwrap();
    let steps = |x: &u32| {
        let next = |x: &u64| (*x != 1).then(|| if x % 2 == 1 { 3 * x + 1 } else { x / 2 });
        std::iter::successors(Some(u64::from(*x)), next).count() as u32 - 1
    };
    assert_eq!(get::<u32>(&mut machine, to, 100), x.iter().map(steps).collect::<Vec<_>>());

    let (a, b) = (numbers(50, 5000), numbers(100, 5000)[50..].to_vec());
    let (at_a, at_b, to) = (put(&mut machine, &a), put(&mut machine, &b), machine.alloc(200));
    let params = Params::pointers(&[at_a, at_b, to]).int(50);
    machine.launch(&module, "gcds", [1; 3], [64, 1, 1], 0, &params.0).unwrap();
    let gcd = |(a, b): (&u32, &u32)| {
        let (mut x, mut y) = (*a as i32, *b as i32);
        while y != 0 {
            (x, y) = (y, x % y);
        }
        if a % 2 == 1 { x } else { -x }
    };
    assert_eq!(get::<i32>(&mut machine, to, 50), a.iter().zip(&b).map(gcd).collect::<Vec<_>>());
}

#[test]
fn a_table_and_a_switch() {
    let module = module("reduce.ptx");
    let mut machine = Machine::new();
    let codes: Vec<u8> = (0..=255).collect();
    let (from, to) = (put(&mut machine, &codes), machine.alloc(4 * 256));
    let params = Params::pointers(&[from, to]).int(256);
    machine.launch(&module, "lookup", [4, 1, 1], [64, 1, 1], 0, &params.0).unwrap();
    let table = [0_i8, 1, 2, 3, 4, 6, 8, 12, -16, -15, -14, -13, -12, -10, -8, -4];
    for (code, out) in codes.iter().zip(get::<f32>(&mut machine, to, 256)) {
        let x = f32::from(table[usize::from(code % 16)]) * 0.5;
        let exact = match code / 16 {
            0 => -x,
            1 => x * 2.0,
            2 => x.abs().sqrt(),
            3 => x.tanh(),
            4 => x.exp(),
            5 => 1.0 / x,
            6 => x.sin(),
            7 => 1.0 / x.sqrt(),
            8 => f32::from_bits(x.to_bits() ^ 1),
            9 => x.floor() + x.round(),
            _ => x.ln(),
        };
        let close =
            out == exact || out.is_nan() && exact.is_nan() || (out - exact).abs() <= 4e-7 * exact.abs();
        assert!(close, "{code}: {out} {exact}");
    }
    let scale = machine.variable(&module, "scale").unwrap();
    machine.write(scale, &1_f32.to_le_bytes()).unwrap();
    machine.launch(&module, "lookup", [4, 1, 1], [64, 1, 1], 0, &params.0).unwrap();
    assert_eq!(get::<f32>(&mut machine, to, 8)[7], -12.0, "a module keeps its variables");
}

#[test]
fn local_arrays_and_doubles() {
    let module = module("reduce.ptx");
    let mut machine = Machine::new();
    let x: Vec<_> = numbers(70, 1000).into_iter().map(f64::from).collect();
    let (from, to) = (put(&mut machine, &x), machine.alloc(80));
    let params = Params::pointers(&[from, to]).int(70);
    machine.launch(&module, "medians", [1; 3], [10, 1, 1], 0, &params.0).unwrap();
    let median = |seven: &[f64]| {
        let mut sorted = seven.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[3] / 3.0
    };
    assert_eq!(get::<f64>(&mut machine, to, 10), x.chunks(7).map(median).collect::<Vec<_>>());
}

/// `a * b^T` of whole numbers: a is rows x k, b columns x k.
fn product(a: &[i32], b: &[i32], k: usize) -> Vec<i32> {
    let dot = |x: &[i32], y: &[i32]| x.iter().zip(y).map(|(x, y)| x * y).sum();
    a.chunks(k).flat_map(|x| b.chunks(k).map(move |y| dot(x, y))).collect()
}

/// Whole numbers from -8 to 8.
fn whole(count: usize, seed: usize) -> Vec<i32> {
    numbers(count + seed, 17)[seed..].iter().map(|&x| x as i32 - 8).collect()
}

/// The result of `matmul_f16` as PTX text `text` computes it, and what it should be.
fn matmul_f16(text: &str) -> Result<(Vec<f32>, Vec<f32>), Fault> {
    let module = Module::parse(text).unwrap();
    let (m, n, k) = (64, 32, 96);
    let (a, b) = (whole(m * k, 0), whole(n * k, 5));
    let halves = |x: &[i32]| x.iter().map(|&x| f16::from_f32(x as f32)).collect::<Vec<_>>();
    let mut machine = Machine::new();
    let (at_a, at_b, to) =
        (put(&mut machine, &halves(&a)), put(&mut machine, &halves(&b)), machine.alloc(4 * m * n));
    let params = Params::pointers(&[at_a, at_b, to]).int(n as i32).int(k as i32);
    let grid = [n as u32 / 32, m as u32 / 32, 1];
    machine.launch(&module, "matmul_f16", grid, [128, 1, 1], 0, &params.0).map_err(|trap| trap.fault)?;
    let expected = product(&a, &b, k).into_iter().map(|x| x as f32).collect();
    Ok((get::<f32>(&mut machine, to, m * n), expected))
}

#[test]
fn tensor_cores() {
    let module = module("matmul.ptx");
    let (out, expected) = matmul_f16(&text("matmul.ptx")).unwrap();
    assert_eq!(out, expected, "f16");

    let mut machine = Machine::new();
    let (a, b) = (whole(16 * 64, 0), whole(8 * 64, 3));
    let expected = product(&a, &b, 64);
    let brains = |x: &[i32]| x.iter().map(|&x| bf16::from_f32(x as f32)).collect::<Vec<_>>();
    let (at_a, at_b, to) =
        (put(&mut machine, &brains(&a)), put(&mut machine, &brains(&b)), machine.alloc(4 * 128));
    let params = Params::pointers(&[at_a, at_b, to]).int(64);
    machine.launch(&module, "matmul_bf16", [1; 3], [32, 1, 1], 0, &params.0).unwrap();
    let floats: Vec<_> = expected.iter().map(|&x| x as f32).collect();
    assert_eq!(get::<f32>(&mut machine, to, 128), floats, "bf16");

    let bytes = |x: &[i32]| x.iter().map(|&x| x as i8).collect::<Vec<_>>();
    let (at_a, at_b, to) =
        (put(&mut machine, &bytes(&a)), put(&mut machine, &bytes(&b)), machine.alloc(4 * 128));
    let params = Params::pointers(&[at_a, at_b, to]).int(64);
    machine.launch(&module, "matmul_s8", [1; 3], [32, 1, 1], 0, &params.0).unwrap();
    assert_eq!(get::<i32>(&mut machine, to, 128), expected, "s8");
}

#[test]
fn dot_products_of_bytes() {
    let module = module("matmul.ptx");
    let mut machine = Machine::new();
    let (rows, width) = (3, 16 * 40);
    let (a, x) = (whole(rows * width, 1), whole(width, 2));
    let bytes = |x: &[i32]| x.iter().map(|&x| x as i8).collect::<Vec<_>>();
    let scales: Vec<_> = (1..=rows).flat_map(|row| [f16::from_f32(row as f32 * 2.0), f16::ZERO]).collect();
    let (at_a, at_x) = (put(&mut machine, &bytes(&a)), put(&mut machine, &bytes(&x)));
    let (scales, to) = (put(&mut machine, &scales), machine.alloc(4 * rows));
    let params = Params::pointers(&[at_a, at_x, scales, to]).int(width as i32);
    machine.launch(&module, "gemv_dp4a", [rows as u32, 1, 1], [32, 1, 1], 0, &params.0).unwrap();
    let expected: Vec<_> =
        product(&a, &x, width).iter().enumerate().map(|(row, &dot)| dot as f32 * (row + 1) as f32).collect();
    assert_eq!(get::<f32>(&mut machine, to, rows), expected);
}

/// `text` with those occurrences of `what` replaced that `which` names: the compiler has unrolled the loop.
fn replaced(text: &str, what: &str, which: impl Fn(usize) -> bool, by: &str) -> String {
    let mut parts = text.split(what);
    let mut all = parts.next().unwrap_or_default().to_owned();
    for (nth, part) in parts.enumerate() {
        all += if which(nth) { by } else { what };
        all += part;
    }
    assert_ne!(all, text, "{what} is not there");
    all
}

#[test]
fn faults_put_into_kernels_are_found() {
    let text = text("matmul.ptx");
    let (head, tail) = text.split_at(text.find(".entry matmul_f16").unwrap());
    let with = |what: &str, which: fn(usize) -> bool, by: &str| {
        let (out, expected) = matmul_f16(&format!("{head}{}", replaced(tail, what, which, by)))?;
        Ok(out == expected)
    };
    let barrier = "bar.sync \t0;";
    let found: Result<bool, Fault> = with(barrier, |nth| nth % 2 == 0, "");
    assert!(
        matches!(found, Err(Fault::Race { .. } | Fault::Pending { .. })),
        "no barrier after waiting: {found:?}"
    );
    let found = with(barrier, |nth| nth % 2 == 1, "");
    assert!(matches!(found, Err(Fault::Race { .. })), "no barrier before the next copy: {found:?}");
    let found = with("cp.async.wait_group 1;", |_| true, "");
    assert!(matches!(found, Err(Fault::Pending { .. })), "no wait: {found:?}");
    let found = with("cp.async.wait_group 0;", |_| true, "cp.async.wait_group 1;");
    assert!(matches!(found, Err(Fault::Pending { .. })), "no wait at the end: {found:?}");
    let found = with(".x4.shared", |nth| nth % 2 == 1, ".x4.trans.shared");
    assert_eq!(found, Ok(false), "transposed");
    let found = with("@%p1 bra", |_| true, "@!%p1 bra");
    assert_ne!(found, Ok(true), "a branch the other way");
}
