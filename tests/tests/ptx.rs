//! The interpreter of PTX against results known otherwise: single instructions here, whole kernels that NVRTC compiled in
//! `tests/data/ptx/` (`make.py` there says how), and each kind of trap, provoked once.

use braise_tests::ptx::{Counts, Fault, Machine, Module, Trap};

/// Runs `instructions` once for each case, with the case's operands in `%a`, `%b`, `%c` and `%e`, registers of `from` bits,
/// and compares what they leave in `%d`, a register of `to` bits.
fn table(instructions: &str, from: u32, to: u32, cases: &[(&[u64], u64)]) {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
        .visible .entry f(.param .u64 f_in, .param .u64 f_out) {{\n\
        .reg .pred %p<4>;\n.reg .b16 %h<4>;\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\n\
        .reg .b{from} %a, %b, %c, %e;\n.reg .b{to} %d;\n\
        mov.u32 %r1, %tid.x;\n\
        ld.param.u64 %rd1, [f_in];\nmul.wide.u32 %rd2, %r1, 32;\nadd.s64 %rd1, %rd1, %rd2;\n\
        ld.global.b{from} %a, [%rd1];\nld.global.b{from} %b, [%rd1+8];\n\
        ld.global.b{from} %c, [%rd1+16];\nld.global.b{from} %e, [%rd1+24];\n\
        {instructions}\n\
        ld.param.u64 %rd1, [f_out];\nmul.wide.u32 %rd2, %r1, 8;\nadd.s64 %rd1, %rd1, %rd2;\n\
        st.global.b{to} [%rd1], %d;\nret;\n}}"
    );
    let mut operands = vec![0_u64; 4 * cases.len()];
    for (case, (values, _)) in cases.iter().enumerate() {
        operands[4 * case..][..values.len()].copy_from_slice(values);
    }
    let bytes: Vec<u8> = operands.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut machine = Machine::new();
    let (from, to) = (machine.alloc_with(&bytes), machine.alloc_with(&vec![0; 8 * cases.len()]));
    let module = Module::parse(&text).unwrap();
    let block = [cases.len() as u32, 1, 1];
    machine
        .launch(&module, "f", [1; 3], block, 0, &params(&[from, to]))
        .unwrap_or_else(|e| panic!("{instructions}: {e}"));
    let results = machine.read(to, 8 * cases.len()).unwrap();
    for ((operands, expected), result) in cases.iter().zip(results.chunks_exact(8)) {
        let result = u64::from_le_bytes(result.try_into().unwrap());
        assert_eq!(result, *expected, "{instructions} of {operands:x?}: {result:#x}, not {expected:#x}");
    }
}

fn params(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn f(x: f32) -> u64 {
    u64::from(x.to_bits())
}

const NAN: u64 = 0x7fff_ffff;
const MINUS: u64 = 0xffff_ffff;

#[test]
fn integers() {
    table("add.s32 %d, %a, %b;", 32, 32, &[(&[MINUS, 2], 1)]);
    table(
        "add.sat.s32 %d, %a, %b;",
        32,
        32,
        &[(&[0x7fff_ffff, 1], 0x7fff_ffff), (&[1 << 31, MINUS], 1 << 31)],
    );
    table("sub.s16 %d, %a, %b;", 16, 16, &[(&[0, 1], 0xffff)]);
    table("mul.hi.s32 %d, %a, %b;", 32, 32, &[(&[MINUS, 2], MINUS), (&[1 << 31, 1 << 31], 1 << 30)]);
    table("mul.hi.u64 %d, %a, %b;", 64, 64, &[(&[u64::MAX, u64::MAX], u64::MAX - 1)]);
    table("mul.wide.s32 %d, %a, %b;", 32, 64, &[(&[MINUS, 3], (-3_i64) as u64)]);
    table("mul.wide.u16 %d, %a, %b;", 16, 32, &[(&[0xffff, 0xffff], 0xfffe_0001)]);
    table("mad.lo.s32 %d, %a, %b, %c;", 32, 32, &[(&[7, MINUS, 10], 3)]);
    table("mad.wide.u32 %d, %a, %b, %rd2;", 32, 64, &[(&[MINUS, 2], 2 * MINUS)]);
    table("mul24.lo.s32 %d, %a, %b;", 32, 32, &[(&[0x00ff_ffff, 5], 0xffff_fffb)]);
    table("div.s32 %d, %a, %b;", 32, 32, &[(&[(-7_i32) as u32 as u64, 2], (-3_i32) as u32 as u64)]);
    table("div.s32 %d, %a, %b;", 32, 32, &[(&[1 << 31, MINUS], 1 << 31), (&[5, 0], MINUS)]);
    table("rem.s32 %d, %a, %b;", 32, 32, &[(&[(-7_i32) as u32 as u64, 2], MINUS), (&[7, 4], 3)]);
    table("rem.u64 %d, %a, %b;", 64, 64, &[(&[u64::MAX, 10], 5)]);
    table("min.s32 %d, %a, %b;", 32, 32, &[(&[MINUS, 2], MINUS)]);
    table("min.u32 %d, %a, %b;", 32, 32, &[(&[MINUS, 2], 2)]);
    table("abs.s32 %d, %a;", 32, 32, &[(&[MINUS], 1), (&[1 << 31], 1 << 31)]);
    table("sad.u32 %d, %a, %b, %c;", 32, 32, &[(&[3, 10, 1], 8)]);
    table("shl.b32 %d, %a, %b;", 32, 32, &[(&[1, 31], 1 << 31), (&[1, 32], 0), (&[1, MINUS], 0)]);
    table("shr.s32 %d, %a, %b;", 32, 32, &[(&[1 << 31, 40], MINUS), (&[1 << 31, 4], 0xf800_0000)]);
    table("shr.u32 %d, %a, %b;", 32, 32, &[(&[1 << 31, 32], 0), (&[1 << 31, 31], 1)]);
    table("shf.l.wrap.b32 %d, %a, %b, %c;", 32, 32, &[(&[0x8000_0001, 2, 33], 5)]);
    table(
        "shf.r.clamp.b32 %d, %a, %b, %c;",
        32,
        32,
        &[(&[1, 0xabcd, 40], 0xabcd), (&[16, 1, 4], 0x1000_0001)],
    );
    table(
        "add.cc.u32 %r2, %a, %b; addc.u32 %d, %c, %e;",
        32,
        32,
        &[(&[MINUS, 1, 5, 6], 12), (&[1, 1, 5, 6], 11)],
    );
    table("sub.cc.u32 %r2, %a, %b; subc.u32 %d, %c, %e;", 32, 32, &[(&[0, 1, 9, 6], 2), (&[1, 1, 9, 6], 3)]);
}

#[test]
fn bits() {
    table("lop3.b32 %d, %a, %b, %c, 0xe8;", 32, 32, &[(&[0b1100, 0b1010, 0b0110], 0b1110)]);
    table(
        "prmt.b32 %d, %a, %b, %c;",
        32,
        32,
        &[(&[0x8344_5566, 0x1122_3344, 0x7531], 0x1133_8355), (&[0x8344_5566, 0, 0xb3b3], 0xff83_ff83)],
    );
    table("prmt.b32.f4e %d, %a, %b, %c;", 32, 32, &[(&[0x4433_2211, 0x8877_6655, 1], 0x5544_3322)]);
    table(
        "bfe.u32 %d, %a, %b, %c;",
        32,
        32,
        &[(&[0x1234_5678, 8, 8], 0x56), (&[MINUS, 28, 8], 15), (&[9, 40, 4], 0)],
    );
    table(
        "bfe.s32 %d, %a, %b, %c;",
        32,
        32,
        &[(&[0x80, 4, 4], 0xffff_fff8), (&[1 << 31, 28, 9], 0xffff_fff8)],
    );
    table("bfi.b32 %d, %a, %b, %c, %e;", 32, 32, &[(&[0xff, 0, 4, 4], 0xf0), (&[7, 0x1234, 40, 4], 0x1234)]);
    table("clz.b32 %d, %a;", 32, 32, &[(&[0], 32), (&[1], 31)]);
    table("popc.b64 %r2, %a; mov.u32 %d, %r2;", 64, 32, &[(&[u64::MAX], 64)]);
    table("brev.b32 %d, %a;", 32, 32, &[(&[1], 1 << 31)]);
    table("bfind.u32 %d, %a;", 32, 32, &[(&[0x10], 4), (&[0], MINUS)]);
    table("bfind.s32 %d, %a;", 32, 32, &[(&[0xffff_fff0], 3), (&[MINUS], MINUS)]);
    table(
        "dp4a.s32.s32 %d, %a, %b, %c;",
        32,
        32,
        &[(&[0xff80_017f, 0xff80_ff7f, 10], 16129 - 1 + 16384 + 1 + 10)],
    );
    table("dp4a.u32.s32 %d, %a, %b, %c;", 32, 32, &[(&[0xff, 0xff, 0], (-255_i32) as u32 as u64)]);
    table("dp2a.hi.s32.u32 %d, %a, %b, %c;", 32, 32, &[(&[0xffff_0002, 0x05ff_0000, 1], 2 * 255 - 5 + 1)]);
    table(
        "mov.b64 {%r2, %r3}, %a; mov.b64 %d, {%r3, %r2};",
        64,
        64,
        &[(&[0x1234_5678_9abc_def0], 0x9abc_def0_1234_5678)],
    );
    table("mov.b32 {%h1, %h2}, %a; mov.b32 %d, {%h2, %h1};", 32, 32, &[(&[0x1234_5678], 0x5678_1234)]);
    table("cnot.b32 %d, %a;", 32, 32, &[(&[0], 1), (&[2], 0)]);
}

#[test]
fn comparisons() {
    let select = |test: &str| format!("setp.{test} %p1, %a, %b; selp.b32 %d, 1, 0, %p1;");
    table(&select("lt.s32"), 32, 32, &[(&[MINUS, 0], 1), (&[0, MINUS], 0)]);
    table(&select("lt.u32"), 32, 32, &[(&[MINUS, 0], 0)]);
    table(&select("lo.s32"), 32, 32, &[(&[MINUS, 0], 0)]);
    table(
        &select("lt.f32"),
        32,
        32,
        &[(&[f(-1.0), f(1.0)], 1), (&[NAN, f(1.0)], 0), (&[f(-0.0), f(0.0)], 0)],
    );
    table(&select("ltu.f32"), 32, 32, &[(&[NAN, f(1.0)], 1), (&[f(2.0), f(1.0)], 0)]);
    table(&select("ne.f32"), 32, 32, &[(&[NAN, NAN], 0)]);
    table(&select("neu.f32"), 32, 32, &[(&[NAN, NAN], 1)]);
    table(&select("nan.f32"), 32, 32, &[(&[NAN, 0], 1), (&[0, 0], 0)]);
    table(&select("eq.ftz.f32"), 32, 32, &[(&[1, 0], 1)]);
    table(&select("gt.f16"), 16, 32, &[(&[0x3c01, 0x3c00], 1), (&[0x7e00, 0], 0)]);
    let pair = "setp.ne.s32 %p3, %c, 0; setp.lt.and.s32 %p1|%p2, %a, %b, %p3; \
                selp.b32 %d, 1, 0, %p1; @%p2 add.s32 %d, %d, 2;";
    table(pair, 32, 32, &[(&[1, 2, 1], 1), (&[2, 1, 1], 2), (&[1, 2, 0], 0)]);
    table("set.gt.u32.f32 %d, %a, %b;", 32, 32, &[(&[f(2.0), f(1.0)], MINUS), (&[NAN, f(1.0)], 0)]);
    table("set.le.f16x2.f16x2 %d, %a, %b;", 32, 32, &[(&[0x3c00_4000, 0x3c00_3c00], 0x3c00_0000)]);
    table("slct.b32.s32 %d, %a, %b, %c;", 32, 32, &[(&[1, 2, 0], 1), (&[1, 2, MINUS], 2)]);
    table("slct.b32.f32 %d, %a, %b, %c;", 32, 32, &[(&[1, 2, f(-0.0)], 1), (&[1, 2, NAN], 2)]);
    table("testp.subnormal.f32 %p1, %a; selp.b32 %d, 1, 0, %p1;", 32, 32, &[(&[1], 1), (&[f(1.0)], 0)]);
    table(
        "setp.eq.s32 %p1, %a, %b; not.pred %p2, %p1; xor.pred %p3, %p2, 1; selp.b32 %d, 1, 0, %p3;",
        32,
        32,
        &[(&[1, 1], 1), (&[1, 2], 0)],
    );
}

#[test]
fn floats() {
    let (one, tiny) = (f(1.0), f(f32::EPSILON / 4.0));
    let up = f(1.0 + f32::EPSILON);
    table(
        "add.rn.f32 %d, %a, %b;",
        32,
        32,
        &[(&[one, tiny], one), (&[NAN, one], NAN), (&[f(-0.0), f(-0.0)], f(-0.0))],
    );
    table("add.rp.f32 %d, %a, %b;", 32, 32, &[(&[one, tiny], up)]);
    table(
        "add.rz.f32 %d, %a, %b;",
        32,
        32,
        &[(&[f(-1.0), tiny], f(-1.0).wrapping_sub(1)), (&[one, tiny], one)],
    );
    table(
        "add.rm.f32 %d, %a, %b;",
        32,
        32,
        &[(&[one, f(-1.0)], f(-0.0)), (&[f(f32::MAX), f(f32::MAX)], f(f32::MAX))],
    );
    table("sub.f32 %d, %a, %b;", 32, 32, &[(&[f(f32::INFINITY), f(f32::INFINITY)], NAN)]);
    table("mul.rz.f32 %d, %a, %b;", 32, 32, &[(&[f(0.1), f(0.1)], f((0.1_f32 * 0.1).next_down()))]);
    table("mul.ftz.f32 %d, %a, %b;", 32, 32, &[(&[1, f(1e30)], 0), (&[f(-1e-30), f(1e-10)], f(-0.0))]);
    table("mul.f32 %d, %a, %b;", 32, 32, &[(&[1, f(2.0)], 2)]);
    table(
        "fma.rn.f32 %d, %a, %b, %c;",
        32,
        32,
        &[(&[up, up, f(-1.0)], f(f32::EPSILON.mul_add(f32::EPSILON, 2.0 * f32::EPSILON)))],
    );
    table(
        "fma.rm.f32 %d, %a, %b, %c;",
        32,
        32,
        &[(&[up, up, f(0.0)], f((1.0 + f32::EPSILON) * (1.0 + f32::EPSILON)))],
    );
    table(
        "fma.rp.f32 %d, %a, %b, %c;",
        32,
        32,
        &[(&[up, up, f(0.0)], f(((1.0 + f32::EPSILON) * (1.0 + f32::EPSILON)).next_up()))],
    );
    table(
        "div.rn.f32 %d, %a, %b;",
        32,
        32,
        &[(&[one, f(3.0)], f(1.0 / 3.0)), (&[one, f(-0.0)], f(f32::NEG_INFINITY))],
    );
    table(
        "div.rz.f32 %d, %a, %b;",
        32,
        32,
        &[(&[one, f(3.0)], f((1.0_f32 / 3.0).next_down())), (&[f(f32::MAX), f(0.1)], f(f32::MAX))],
    );
    table(
        "sqrt.rp.f32 %d, %a;",
        32,
        32,
        &[(&[f(4.0)], f(2.0)), (&[f(5.0)], f(5_f32.sqrt())), (&[f(3.0)], f(3_f32.sqrt().next_up()))],
    );
    table("add.sat.f32 %d, %a, %b;", 32, 32, &[(&[one, one], one), (&[NAN, one], 0), (&[f(-2.0), one], 0)]);
    table("min.f32 %d, %a, %b;", 32, 32, &[(&[NAN, one], one), (&[f(0.0), f(-0.0)], f(-0.0))]);
    table("max.NaN.f32 %d, %a, %b;", 32, 32, &[(&[NAN, one], NAN), (&[f(0.0), f(-0.0)], f(0.0))]);
    table("neg.f32 %d, %a;", 32, 32, &[(&[0], 1 << 31)]);
    table("abs.ftz.f32 %d, %a;", 32, 32, &[(&[0x8000_0001], 0)]);
    table("copysign.f32 %d, %a, %b;", 32, 32, &[(&[f(-0.0), f(3.0)], f(-3.0))]);
    table(
        "ex2.approx.ftz.f32 %d, %a;",
        32,
        32,
        &[(&[f(-1.0)], f(0.5)), (&[f(-130.0)], 0), (&[f(f32::NEG_INFINITY)], 0)],
    );
    table("ex2.approx.f32 %d, %a;", 32, 32, &[(&[f(-149.0)], 1)]);
    table(
        "lg2.approx.f32 %d, %a;",
        32,
        32,
        &[(&[f(8.0)], f(3.0)), (&[0], f(f32::NEG_INFINITY)), (&[f(-1.0)], NAN)],
    );
    table("rcp.approx.ftz.f32 %d, %a;", 32, 32, &[(&[f(4.0)], f(0.25)), (&[1], f(f32::INFINITY))]);
    table("rsqrt.approx.f32 %d, %a;", 32, 32, &[(&[f(4.0)], f(0.5)), (&[f(-0.0)], f(f32::NEG_INFINITY))]);
    table("tanh.approx.f32 %d, %a;", 32, 32, &[(&[f(100.0)], one), (&[0], 0)]);
    table(
        "fma.rn.f64 %d, %a, %b, %c;",
        64,
        64,
        &[(&[3.0_f64.to_bits(), 5.0_f64.to_bits(), 1.0_f64.to_bits()], 16.0_f64.to_bits())],
    );
}

#[test]
fn halves() {
    // 1 + 2^-11 is a tie, which goes to the even 1; a little more goes up
    table(
        "add.f16 %d, %a, %b;",
        16,
        16,
        &[(&[0x3c00, 0x1000], 0x3c00), (&[0x3c00, 0x1001], 0x3c01), (&[0x7bff, 0x7bff], 0x7c00)],
    );
    table(
        "mul.rn.f16x2 %d, %a, %b;",
        32,
        32,
        &[(&[0x4000_3c00, 0x4200_c000], 0x4600_c000), (&[0x7c00_0001, 0x0000_3800], 0x7fff_0000)],
    );
    // 255 * 257 - 65504: the product needs 16 bits and is not rounded in between
    table(
        "fma.rn.f16 %d, %a, %b, %c;",
        16,
        16,
        &[(&[0x5bf8, 0x5c04, 0xfbff], 0x4fc0), (&[0x3c01, 0x3c01, 0xbc02], 0x0010)],
    );
    // 1025 * 3 and 129 * 3 are ties, which go up; a little less goes down, even if f64 cannot hold it
    table(
        "fma.rn.f16 %d, %a, %b, %c;",
        16,
        16,
        &[(&[0x6401, 0x4200, 0x8000], 0x6a02), (&[0x6401, 0x4200, 0x8001], 0x6a01)],
    );
    table(
        "fma.rn.bf16 %d, %a, %b, %c;",
        16,
        16,
        &[(&[0x4301, 0x4040, 0x8000], 0x43c2), (&[0x4301, 0x4040, 0x8d80], 0x43c1)],
    );
    table(
        "fma.rn.bf16 %d, %a, %b, %c;",
        16,
        16,
        &[(&[0x3f80, 0x3f80, 0x3b80], 0x3f80), (&[0x3f81, 0x3f80, 0x3b80], 0x3f82)],
    );
    table(
        "fma.rn.bf16 %d, %a, %b, %c;",
        16,
        16,
        &[(&[0x0080, 0x3f80, 0x3f80], 0x3f80), (&[0x3b80, 0x3f80, 0x3f80], 0x3f80)],
    );
    table("max.f16x2 %d, %a, %b;", 32, 32, &[(&[0x7e00_8000, 0x3c00_0000], 0x3c00_0000)]);
    table("neg.f16x2 %d, %a;", 32, 32, &[(&[0x3c00_bc00], 0xbc00_3c00)]);
    table("fma.rn.relu.f16 %d, %a, %b, %c;", 16, 16, &[(&[0xbc00, 0x3c00, 0x0000], 0x0000)]);
    table("add.sat.f16 %d, %a, %b;", 16, 16, &[(&[0x4000, 0x4000], 0x3c00), (&[0xc000, 0x3c00], 0)]);
}

#[test]
fn conversions() {
    table(
        "cvt.rn.f16.f32 %d, %a;",
        32,
        16,
        &[
            (&[f(65519.0)], 0x7bff),
            (&[f(65520.0)], 0x7c00),
            (&[f(2_f32.powi(-25))], 0),
            (&[f(2_f32.powi(-25) * 1.5)], 1),
            (&[NAN], 0x7fff),
            (&[f(-0.0)], 0x8000),
            (&[f(1.0 + 2_f32.powi(-11))], 0x3c00),
            (&[f(1.0 + 3.0 * 2_f32.powi(-11))], 0x3c02),
        ],
    );
    table("cvt.rz.f16.f32 %d, %a;", 32, 16, &[(&[f(1e6)], 0x7bff), (&[f(-1.0009765)], 0xbc00)]);
    table(
        "cvt.f32.f16 %d, %a;",
        16,
        32,
        &[(&[1], f(2_f32.powi(-24))), (&[0xfc00], f(f32::NEG_INFINITY)), (&[0x3555], f(0.333_251_95))],
    );
    table(
        "cvt.rn.bf16.f32 %d, %a;",
        32,
        16,
        &[(&[0x3f80_8000], 0x3f80), (&[0x3f81_8000], 0x3f82), (&[0x7f7f_ffff], 0x7f80)],
    );
    table("cvt.rn.f16x2.f32 %d, %a, %b;", 32, 32, &[(&[f(1.0), f(2.0)], 0x3c00_4000)]);
    table("cvt.rn.bf16x2.f32 %d, %a, %b;", 32, 32, &[(&[f(1.0), f(-2.0)], 0x3f80_c000)]);
    table(
        "cvt.rna.tf32.f32 %d, %a;",
        32,
        32,
        &[(&[0x3f80_1000], 0x3f80_2000), (&[0x3f80_0fff], 0x3f80_0000)],
    );
    table("cvt.rzi.s32.f32 %d, %a;", 32, 32, &[(&[f(-1.9)], MINUS), (&[f(3e9)], 0x7fff_ffff), (&[NAN], 0)]);
    table("cvt.rni.s32.f32 %d, %a;", 32, 32, &[(&[f(2.5)], 2), (&[f(3.5)], 4), (&[f(-0.5)], 0)]);
    table("cvt.rpi.u32.f32 %d, %a;", 32, 32, &[(&[f(0.1)], 1), (&[f(-5.0)], 0)]);
    table("cvt.rni.s8.f32 %d, %a;", 32, 32, &[(&[f(300.0)], 127), (&[f(-300.0)], 0xffff_ff80)]);
    table(
        "cvt.rmi.f32.f32 %d, %a;",
        32,
        32,
        &[(&[f(-0.5)], f(-1.0)), (&[f(f32::INFINITY)], f(f32::INFINITY))],
    );
    table("cvt.sat.f32.f32 %d, %a;", 32, 32, &[(&[f(7.0)], f(1.0)), (&[NAN], 0)]);
    table("cvt.rn.f32.s32 %d, %a;", 32, 32, &[(&[16_777_217], f(16_777_216.0)), (&[MINUS], f(-1.0))]);
    table("cvt.rp.f32.u32 %d, %a;", 32, 32, &[(&[16_777_217], f(16_777_218.0))]);
    table(
        "cvt.rn.f32.u64 %d, %a;",
        64,
        32,
        &[
            (&[u64::MAX], f(18_446_744_073_709_551_616.0)),
            (&[(1 << 60) + (1 << 36) + 1], f(1_152_921_504_606_846_976.0_f32.next_up())),
        ],
    );
    table("cvt.s32.s8 %d, %a;", 32, 32, &[(&[0x180], 0xffff_ff80)]);
    table("cvt.u32.u8 %d, %a;", 32, 32, &[(&[0x1ff], 0xff)]);
    table("cvt.sat.s8.s32 %d, %a;", 32, 32, &[(&[200], 127), (&[(-200_i32) as u32 as u64], 0xffff_ff80)]);
    table("cvt.s64.s32 %d, %a;", 32, 64, &[(&[MINUS], u64::MAX)]);
    table("cvt.rn.f16.s32 %d, %a;", 32, 16, &[(&[2049], 0x6800), (&[MINUS], 0xbc00)]);
    table("cvt.rn.f32.f64 %d, %a;", 64, 32, &[(&[0.1_f64.to_bits()], f(0.1))]);
    table("cvt.f64.f32 %d, %a;", 32, 64, &[(&[f(0.5)], 0.5_f64.to_bits())]);
    table(
        "cvt.pack.sat.u8.s32.b32 %d, %a, %b, %c;",
        32,
        32,
        &[(&[300, (-1_i32) as u32 as u64, 0x1234], 0x1234_ff00)],
    );
}

/// Launches `f` of a module made of `variables` and of `body`, with `words` as parameters `f_0`, `f_1` and so on.
fn launch(
    machine: &mut Machine,
    variables: &str,
    body: &str,
    block: u32,
    words: &[u64],
) -> Result<Counts, Trap> {
    let list: Vec<_> = (0..words.len()).map(|i| format!(".param .u64 f_{i}")).collect();
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n{variables}\n.visible .entry f({}) {{\n\
        .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<16>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<8>;\n{body}\nret;\n}}",
        list.join(", ")
    );
    let module = Module::parse(&text).unwrap();
    machine.launch(&module, "f", [1; 3], [block, 1, 1], 64, &params(words))
}

/// Two blocks of `block` threads run `body`, with 16 zeros at `%rd0` and the block's and the thread's number in `%r0` and
/// `%r1`.
fn two_blocks(body: &str, block: u32) -> Result<Counts, Fault> {
    let mut machine = Machine::new();
    let memory = machine.alloc_with(&[0; 64]);
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry f(.param .u64 f_0) {{\n\
        .reg .pred %p<8>;\n.reg .b32 %r<16>;\n.reg .b64 %rd<8>;\n\
        ld.param.u64 %rd0, [f_0]; mov.u32 %r0, %ctaid.x; mov.u32 %r1, %tid.x;\n{body}\nret;\n}}"
    );
    let module = Module::parse(&text).unwrap();
    machine.launch(&module, "f", [2, 1, 1], [block, 1, 1], 0, &params(&[memory])).map_err(|trap| trap.fault)
}

/// Each thread's `%r1` after `body`, which finds the thread's number in `%r0`.
fn each_thread(variables: &str, body: &str, block: u32) -> Result<Vec<u32>, Trap> {
    let mut machine = Machine::new();
    let to = machine.alloc(4 * block as usize);
    let body = format!(
        "mov.u32 %r0, %tid.x;\n{body}\nld.param.u64 %rd7, [f_0];\nmad.wide.u32 %rd7, %r0, 4, %rd7;\nst.global.u32 [%rd7], %r1;"
    );
    launch(&mut machine, variables, &body, block, &[to])?;
    let bytes = machine.read(to, 4 * block as usize).unwrap();
    Ok(bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect())
}

#[test]
fn shuffles_and_votes() {
    let lanes = |f: fn(u32) -> u32| (0..32).map(f).collect::<Vec<_>>();
    let shuffled = |mode: &str| each_thread("", &format!("shfl.sync.{mode} -1;"), 32).unwrap();
    assert_eq!(shuffled("bfly.b32 %r1, %r0, 5, 31,"), lanes(|i| i ^ 5));
    assert_eq!(shuffled("down.b32 %r1, %r0, 3, 31,"), lanes(|i| if i + 3 < 32 { i + 3 } else { i }));
    assert_eq!(shuffled("up.b32 %r1, %r0, 3, 0,"), lanes(|i| if i >= 3 { i - 3 } else { i }));
    // segments of eight lanes: c is 0x181f, the clamp 31 and the mask 24
    assert_eq!(shuffled("idx.b32 %r1, %r0, 2, 6175,"), lanes(|i| i / 8 * 8 + 2));
    assert_eq!(shuffled("down.b32 %r1, %r0, 3, 6175,"), lanes(|i| if i % 8 + 3 < 8 { i + 3 } else { i }));
    let ballot = "setp.gt.u32 %p1, %r0, 29; vote.sync.ballot.b32 %r1, %p1, -1;";
    assert_eq!(each_thread("", ballot, 32).unwrap(), [0xc000_0000; 32]);
    let any = "setp.gt.u32 %p1, %r0, 31; vote.sync.any.pred %p2, !%p1, -1; selp.u32 %r1, 7, 8, %p2;";
    assert_eq!(each_thread("", any, 32).unwrap(), [7; 32]);
    assert_eq!(each_thread("", "redux.sync.add.s32 %r1, %r0, -1;", 32).unwrap(), [496; 32]);
    assert_eq!(each_thread("", "redux.sync.max.s32 %r1, %r0, -1;", 32).unwrap(), [31; 32]);
    let odd = "and.b32 %r2, %r0, 1; match.any.sync.b32 %r1, %r2, -1;";
    assert_eq!(
        each_thread("", odd, 32).unwrap(),
        lanes(|i| if i % 2 == 0 { 0x5555_5555 } else { 0xaaaa_aaaa })
    );
    // each half of the warp shuffles by itself, on its own side of a branch
    let apart = "mov.u32 %r1, 99; setp.lt.u32 %p1, %r0, 16; @%p1 bra LOW;\n\
        shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffff0000; bra.uni DONE;\n\
        LOW: activemask.b32 %r3; shfl.sync.bfly.b32 %r1, %r0, 2, 31, 0x0000ffff;\nDONE:";
    assert_eq!(each_thread("", apart, 32).unwrap(), lanes(|i| if i < 16 { i ^ 2 } else { i ^ 1 }));
}

#[test]
fn barriers_and_shared_memory() {
    let shared = ".shared .align 4 .b8 tile[512];";
    // the neighbour's number, from another warp
    let neighbour = "mov.u32 %r4, tile; mad.lo.u32 %r5, %r0, 4, %r4; st.shared.u32 [%r5], %r0; bar.sync 0;\n\
        xor.b32 %r6, %r0, 32; mad.lo.u32 %r5, %r6, 4, %r4; ld.shared.u32 %r1, [%r5];";
    assert_eq!(each_thread(shared, neighbour, 128).unwrap(), (0..128).map(|i| i ^ 32).collect::<Vec<_>>());
    let count = "setp.lt.u32 %p1, %r0, 70; bar.red.popc.u32 %r1, 0, %p1;";
    assert_eq!(each_thread("", count, 96).unwrap(), [70; 96]);
    let dynamic = ".extern .shared .align 16 .b8 more[];";
    let generic = "mov.u64 %rd1, more; cvta.shared.u64 %rd2, %rd1; mul.wide.u32 %rd3, %r0, 2; add.s64 %rd2, %rd2, %rd3;\n\
        cvt.u16.u32 %h1, %r0; st.u16 [%rd2], %h1; bar.warp.sync -1; xor.b32 %r2, %r0, 1; mul.wide.u32 %rd3, %r2, 2;\n\
        add.s64 %rd4, %rd1, %rd3; ld.shared.u16 %r1, [%rd4];";
    assert_eq!(each_thread(dynamic, generic, 32).unwrap(), (0..32).map(|i| i ^ 1).collect::<Vec<_>>());
    // two warps hand a number on to the next two with a barrier of their own
    let named = "mov.u32 %r4, tile; setp.ge.u32 %p1, %r0, 64; mov.u32 %r1, 5; @%p1 bra TAKE;\n\
        mad.lo.u32 %r5, %r0, 4, %r4; st.shared.u32 [%r5], %r0; bar.arrive 3, 128; bra.uni DONE;\n\
        TAKE: bar.sync 3, 128; sub.u32 %r6, %r0, 64; mad.lo.u32 %r5, %r6, 4, %r4; ld.shared.u32 %r1, [%r5];\nDONE:";
    let expected: Vec<_> = (0..128).map(|i| if i < 64 { 5 } else { i - 64 }).collect();
    assert_eq!(each_thread(shared, named, 128).unwrap(), expected);
    let copied = "mov.u32 %r4, tile; mad.lo.u32 %r5, %r0, 4, %r4; ld.param.u64 %rd1, [f_0];\n\
        mad.wide.u32 %rd2, %r0, 4, %rd1; st.global.u32 [%rd2], %r0; mov.u32 %r6, 0; setp.lt.u32 %p1, %r0, 16;\n\
        selp.u32 %r6, 4, 0, %p1; cp.async.ca.shared.global [%r5], [%rd2], 4, %r6; cp.async.wait_all;\n\
        bar.sync 0; ld.shared.u32 %r1, [%r5];";
    assert_eq!(
        each_thread(shared, copied, 32).unwrap(),
        (0..32).map(|i| if i < 16 { i } else { 0 }).collect::<Vec<_>>()
    );
}

/// The fault of a launch of `block` threads that must go wrong.
fn fault(variables: &str, body: &str, block: u32) -> Trap {
    each_thread(variables, body, block).expect_err(body)
}

#[test]
fn traps_name_the_place() {
    let shared = ".shared .align 4 .b8 tile[128];\n.shared .align 4 .b8 other[128];";
    let mine = "mov.u32 %r4, tile; mad.lo.u32 %r5, %r0, 4, %r4; mov.u32 %r1, 0;";
    let trap = fault(shared, &format!("{mine}\nst.shared.u32 [%r5+4], %r0;"), 32);
    assert!(matches!(trap.fault, Fault::OutOfBounds { space: "shared", .. }), "{trap}");
    assert_eq!((trap.entry.as_str(), trap.line, trap.thread), ("f", 14, [31, 0, 0]), "{trap}");
    let trap = fault(shared, &format!("{mine} st.shared.u32 [%r5+2], %r0;"), 32);
    assert!(matches!(trap.fault, Fault::Misaligned { bytes: 4, .. }), "{trap}");
    let trap = fault(shared, &format!("{mine} ld.shared.u32 %r1, [%r5];"), 32);
    assert!(matches!(trap.fault, Fault::Unwritten { space: "shared", .. }), "{trap}");
    let race = "xor.b32 %r6, %r0, 1; mad.lo.u32 %r6, %r6, 4, %r4; st.shared.u32 [%r5], %r0; ld.shared.u32 %r1, [%r6];";
    let trap = fault(shared, &format!("{mine} {race}"), 32);
    assert!(matches!(trap.fault, Fault::Race { other: 1, other_wrote: true, wrote: false, .. }), "{trap}");
    let race = "st.shared.u32 [%r5], %r0; bar.sync 0; ld.shared.u32 %r1, [%r4]; st.shared.u32 [%r5], %r1;";
    let trap = fault(shared, &format!("{mine} {race}"), 32);
    assert!(matches!(trap.fault, Fault::Race { other_wrote: false, wrote: true, .. }), "{trap}");
    // a barrier of one warp does not order it with another
    let race = "st.shared.u32 [tile], %r0; bar.warp.sync 1;";
    let trap = fault(
        shared,
        &format!(
            "{mine} setp.ne.u32 %p1, %r0, 0; setp.ne.and.u32 %p2, %r0, 32, %p1; @%p2 bra DONE; {race}\nDONE:"
        ),
        64,
    );
    assert!(matches!(trap.fault, Fault::Race { other: 0, other_wrote: true, wrote: true, .. }), "{trap}");
    let pending = "ld.param.u64 %rd1, [f_0]; st.global.u32 [%rd1], %r0; cp.async.ca.shared.global [tile], [%rd1], 4;\n\
        ld.shared.u32 %r1, [tile];";
    let trap = fault(
        shared,
        &format!("setp.ne.u32 %p1, %r0, 0; mov.u32 %r1, 0; @%p1 bra DONE; {pending}\nDONE:"),
        32,
    );
    assert!(matches!(trap.fault, Fault::Pending { by: 0, .. }), "{trap}");
    let trap = fault("", "setp.eq.u32 %p1, %r0, 40; @%p1 exit; bar.sync 0; mov.u32 %r1, 0;", 64);
    assert!(matches!(trap.fault, Fault::Diverged { missing: 8, why: "it has exited" }), "{trap}");
    assert_eq!(trap.thread[0] / 32, 1, "{trap}");
    let trap = fault("", "setp.lt.u32 %p1, %r0, 32; @%p1 exit; bar.sync 0; mov.u32 %r1, 0;", 64);
    assert!(matches!(trap.fault, Fault::Barrier { missing: 0, why: "it has exited" }), "{trap}");
    let trap = fault(
        "",
        "setp.lt.u32 %p1, %r0, 3; @%p1 bra A; bar.sync 0; bra B;\nA: bar.sync 0;\nB: mov.u32 %r1, 0;",
        32,
    );
    assert!(matches!(trap.fault, Fault::Diverged { why: "it waits at another one", .. }), "{trap}");
    let trap = fault("", "setp.lt.u32 %p1, %r0, 3; @%p1 exit; shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;", 32);
    assert!(matches!(trap.fault, Fault::Absent { lane: 2 }), "{trap}");
    let trap = fault("", "shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffff;", 32);
    assert!(matches!(trap.fault, Fault::Diverged { missing: 16, .. }), "{trap}");
    let trap = fault(
        "",
        "setp.ne.u32 %p1, %r0, 5; mov.u32 %r1, 0; @%p1 bra DONE;\nfrobnicate.u32 %r1, %r0;\nDONE:",
        32,
    );
    assert!(matches!(&trap.fault, Fault::Unknown(what) if what.contains("frobnicate")), "{trap}");
    assert_eq!((trap.line, trap.thread), (13, [5, 0, 0]), "{trap}");
    let trap = fault("", "trap; mov.u32 %r1, 0;", 1);
    assert!(matches!(trap.fault, Fault::Trapped(_)), "{trap}");
    let trap = fault("", "pmevent 3; mov.u32 %r1, 0;", 1);
    assert!(matches!(trap.fault, Fault::Unknown(_)), "{trap}");
}

#[test]
fn global_memory_is_guarded() {
    let mut machine = Machine::new();
    let read = "ld.param.u64 %rd1, [f_0]; ld.global.u32 %r1, [%rd1];";
    let memory = machine.alloc(4);
    let unwritten = launch(&mut machine, "", read, 1, &[memory]).unwrap_err();
    assert!(matches!(unwritten.fault, Fault::Unwritten { space: "global", address: 0 }), "{unwritten}");
    assert!(matches!(machine.read(memory, 4), Err(Fault::Unwritten { .. })));
    machine.write(memory, &[1, 2, 3, 4]).unwrap();
    launch(&mut machine, "", read, 1, &[memory]).unwrap();
    let beyond = launch(&mut machine, "", read, 1, &[memory + 4]).unwrap_err();
    assert!(
        matches!(beyond.fault, Fault::OutOfBounds { space: "global", address: 4, bytes: 4, size: 4 }),
        "{beyond}"
    );
    let below = launch(&mut machine, "", read, 1, &[memory - 4]).unwrap_err();
    assert!(matches!(below.fault, Fault::OutOfBounds { .. }), "{below}");
    let null = launch(&mut machine, "", read, 1, &[0]).unwrap_err();
    assert!(matches!(null.fault, Fault::OutOfBounds { .. }), "{null}");
    machine.free(memory).unwrap();
    let freed = launch(&mut machine, "", read, 1, &[memory]).unwrap_err();
    assert!(matches!(freed.fault, Fault::Freed { .. }), "{freed}");
    assert!(machine.free(memory).is_err(), "freed twice");
    let constant =
        launch(&mut machine, ".const .align 4 .u32 k = 7;", "st.const.u32 [k], 1;", 1, &[]).unwrap_err();
    assert!(matches!(constant.fault, Fault::Constant { .. }), "{constant}");
    let local = launch(
        &mut machine,
        "",
        ".local .align 4 .b8 l[8]; mov.u32 %r1, l; st.local.u32 [%r1+16], %r1;",
        1,
        &[],
    );
    assert!(matches!(local.unwrap_err().fault, Fault::OutOfBounds { space: "local", .. }));
    machine.limit_steps(1000);
    let endless = launch(&mut machine, "", "AGAIN: bra AGAIN;", 1, &[]).unwrap_err();
    assert!(matches!(endless.fault, Fault::Endless(1000)), "{endless}");
}

#[test]
fn races_in_global_memory() {
    let write = "mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r0;";
    two_blocks(write, 1).unwrap();
    let found = two_blocks(&format!("{write} ld.global.u32 %r2, [%rd0];"), 1).unwrap_err();
    let expected = Fault::Race {
        space: "global",
        address: 0,
        other: 0,
        block: Some(0),
        other_wrote: true,
        wrote: false,
    };
    assert_eq!(found, expected);
    // what is known to work: a fence, and an atomic operation that says so
    let told = "membar.gl; atom.global.add.u32 %r3, [%rd0+32], 1;";
    two_blocks(&format!("{write} {told} ld.global.u32 %r2, [%rd0];"), 1).unwrap();
    // the last block sets the counter back
    two_blocks(&format!("{write} {told} setp.eq.u32 %p1, %r3, 1; @%p1 st.global.u32 [%rd0+32], 0;"), 1)
        .unwrap();
    let found = two_blocks(
        &format!("{write} {} ld.global.u32 %r2, [%rd0];", told.replace("membar.gl", "membar.cta")),
        1,
    );
    assert!(matches!(found, Err(Fault::Race { block: Some(0), .. })), "no fence: {found:?}");
    let found = two_blocks(
        &format!("membar.gl; {write} {} ld.global.u32 %r2, [%rd0];", told.replace("membar.gl;", "")),
        1,
    );
    assert!(matches!(found, Err(Fault::Race { block: Some(0), .. })), "a fence too early: {found:?}");
    let found = two_blocks(&format!("{write} membar.gl; ld.global.u32 %r2, [%rd0];"), 1);
    assert!(matches!(found, Err(Fault::Race { block: Some(0), .. })), "nothing says so: {found:?}");
    let found = two_blocks("add.u32 %r2, %r0, 1; st.global.u32 [%rd0], %r2;", 1);
    assert!(
        matches!(found, Err(Fault::Race { other_wrote: true, wrote: true, .. })),
        "both write: {found:?}"
    );
    two_blocks("st.global.u32 [%rd0], 7;", 1).unwrap();
    two_blocks("red.global.add.u32 [%rd0], 7;", 32).unwrap();
    let found = two_blocks(&format!("ld.global.u32 %r2, [%rd0+4]; add.u32 %r0, %r0, 0; {write}"), 1);
    assert!(matches!(found, Err(Fault::Race { other_wrote: false, wrote: true, .. })), "in place: {found:?}");
    let found = two_blocks(&format!("{write} ld.global.nc.u32 %r2, [%rd1];"), 1).unwrap_err();
    assert_eq!(found, Fault::NotConstant { address: 0 });
    // threads of one block
    let neighbours = |order: &str| {
        format!(
            "mad.lo.u32 %r2, %r0, 2, %r1; mad.wide.u32 %rd1, %r2, 4, %rd0; add.u32 %r3, %r2, 1; st.global.u32 [%rd1], %r3;\n\
            {order}\nxor.b32 %r2, %r2, 1; mad.wide.u32 %rd1, %r2, 4, %rd0; ld.global.u32 %r3, [%rd1];"
        )
    };
    two_blocks(&neighbours("bar.sync 0;"), 2).unwrap();
    two_blocks(&neighbours("bar.warp.sync 3;"), 2).unwrap();
    let found = two_blocks(&neighbours(""), 2);
    assert!(matches!(found, Err(Fault::Race { space: "global", other: 1, block: None, .. })), "{found:?}");
}

#[test]
fn launches_that_no_driver_accepts() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.entry f(.param .u32 n) .maxntid 64, 1, 1 { ret; }\n\
        .extern .func gone;\n.entry g() { call gone; ret; }";
    let module = Module::parse(text).unwrap();
    assert_eq!(module.entries(), ["f", "g"]);
    let mut machine = Machine::new();
    machine.launch(&module, "f", [1; 3], [64, 1, 1], 0, &[0; 4]).unwrap();
    for (grid, block, dynamic, params) in [
        ([1; 3], [65, 1, 1], 0, 4),
        ([0, 1, 1], [1; 3], 0, 4),
        ([1; 3], [1; 3], 1 << 20, 4),
        ([1; 3], [1; 3], 0, 8),
    ] {
        let trap = machine.launch(&module, "f", grid, block, dynamic, &vec![0; params]).unwrap_err();
        assert!(matches!(trap.fault, Fault::Launch(_)), "{trap}");
    }
    assert!(matches!(
        machine.launch(&module, "h", [1; 3], [1; 3], 0, &[]).unwrap_err().fault,
        Fault::Launch(_)
    ));
    let gone = machine.launch(&module, "g", [1; 3], [1; 3], 0, &[]).unwrap_err();
    assert!(matches!(&gone.fault, Fault::Unknown(what) if what.contains("not defined")), "{gone}");
}

#[test]
fn texts_that_are_not_ptx() {
    for text in [
        ".entry f( {",
        ".entry f() { add.s32 %r1 %r2; }",
        "hello",
        "/* ",
        ".pragma \"",
        ".global .q32 x;",
        ".entry f() {",
        ".global .b8 x[99999999999999999];",
        ".global .u32 x = { 1, 2 };",
        ".entry f() { mov.u32 %r1, 09; }",
        "\u{e9}",
    ] {
        assert!(Module::parse(text).is_err(), "{text:?} is no module");
    }
}
