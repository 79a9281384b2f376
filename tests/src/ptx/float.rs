//! Floating-point instructions as functions of bits.
//!
//! Approximations (`.approx`) are computed exactly and rounded to nearest, which is within the error that the ISA allows;
//! a card's result may differ in its last bits.

use super::code::{Function, one, three, two};
use super::integer::mask;
use super::number::{self, BF16, F16, Format, Round};
use super::opcode::Opcode;
use super::types::Type;

/// The NaN that f32 instructions write.
const NAN: u64 = 0x7fff_ffff;

pub fn f32_bits(x: f32) -> u64 {
    if x.is_nan() { NAN } else { u64::from(x.to_bits()) }
}

pub fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// The function of a floating-point instruction, or `None` if the name or its type is not one of them.
pub fn find(op: &mut Opcode<'_>) -> Result<Option<Function>, String> {
    let names = [
        "add", "sub", "mul", "fma", "mad", "div", "min", "max", "abs", "neg", "rcp", "sqrt", "rsqrt", "sin",
        "cos", "ex2", "lg2", "tanh", "copysign", "testp",
    ];
    let mut probe = op.clone();
    if !names.contains(&op.name) || !probe.ty().is_ok_and(Type::float) {
        return Ok(None);
    }
    let ftz = op.take("ftz");
    let clamp = op.take("sat");
    let round = op.round();
    let modes = Modes { ftz, clamp, round: round.unwrap_or(Round::Nearest) };
    if op.name == "testp" {
        return test(op).map(Some);
    }
    let kind = if op.take("approx") || op.take("full") { Kind::Approximate } else { Kind::Exact };
    Ok(Some(match op.ty()? {
        Type::F32 => single(op, modes, kind)?,
        Type::F64 => double(op, modes, kind)?,
        Type::F16 => half(op, modes, F16, 1)?,
        Type::F16x2 => half(op, modes, F16, 2)?,
        Type::Bf16 => half(op, modes, BF16, 1)?,
        Type::Bf16x2 => half(op, modes, BF16, 2)?,
        _ => return Err("not a type to compute in".into()),
    }))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Exact,
    Approximate,
}

#[derive(Clone, Copy)]
struct Modes {
    ftz: bool,
    clamp: bool,
    round: Round,
}

impl Modes {
    fn read(self, bits: u64) -> f32 {
        let x = f32_of(bits);
        if self.ftz { number::flush(x) } else { x }
    }

    fn write(self, x: f32) -> u64 {
        let x = if self.ftz { number::flush(x) } else { x };
        // NaN is clamped to 0 as well
        let clamped = if x > 0.0 { x.min(1.0) } else { 0.0 };
        f32_bits(if self.clamp { clamped } else { x })
    }
}

fn unary(modes: Modes, f: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Function {
    one(move |a| modes.write(f(modes.read(a))))
}

/// An approximation: computed in f64, rounded once.
fn rounded(modes: Modes, f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Function {
    unary(modes, move |x| f(f64::from(x)) as f32)
}

fn single(op: &mut Opcode<'_>, modes: Modes, kind: Kind) -> Result<Function, String> {
    let round = modes.round;
    let binary =
        |f: fn(f32, f32, Round) -> f32| two(move |a, b| modes.write(f(modes.read(a), modes.read(b), round)));
    let sign = 1_u64 << 31;
    Ok(match op.name {
        "add" => binary(number::add),
        "sub" => binary(|a, b, round| number::add(a, -b, round)),
        "mul" => binary(number::mul),
        "fma" | "mad" => {
            three(move |a, b, c| modes.write(number::fma(modes.read(a), modes.read(b), modes.read(c), round)))
        }
        "div" if kind == Kind::Exact => binary(number::div),
        // the range in which the ISA promises no quotient but zero
        "div" => binary(|a, b, _| match b.abs() > 2_f32.powi(126) && b.is_finite() {
            true => a * 0.0 * b.signum(),
            false => a / b,
        }),
        "min" | "max" => {
            let (larger, any_nan) = (op.name == "max", op.take("NaN"));
            two(move |a, b| {
                let (a, b) = (modes.read(a), modes.read(b));
                match any_nan && (a.is_nan() || b.is_nan()) {
                    true => NAN,
                    false => modes.write(number::extreme(a.into(), b.into(), larger) as f32),
                }
            })
        }
        "abs" => one(move |a| flushed(a, modes) & mask(31)),
        "neg" => one(move |a| flushed(a, modes) ^ sign),
        "copysign" => two(move |a, b| a & sign | b & mask(31)),
        "rcp" if kind == Kind::Exact => unary(modes, move |x| number::div(1.0, x, round)),
        "sqrt" if kind == Kind::Exact => unary(modes, move |x| number::sqrt(x, round)),
        "rcp" => rounded(modes, |x| 1.0 / x),
        "sqrt" => rounded(modes, f64::sqrt),
        "rsqrt" => rounded(modes, |x| 1.0 / x.sqrt()),
        "sin" => rounded(modes, f64::sin),
        "cos" => rounded(modes, f64::cos),
        "ex2" => rounded(modes, f64::exp2),
        "lg2" => rounded(modes, f64::log2),
        "tanh" => rounded(modes, f64::tanh),
        _ => return Err("not for f32".into()),
    })
}

/// The bits of an f32, a subnormal one as zero if the mode says so.
fn flushed(bits: u64, modes: Modes) -> u64 {
    u64::from(if modes.ftz { number::flush(f32_of(bits)).to_bits() } else { bits as u32 })
}

fn double(op: &mut Opcode<'_>, modes: Modes, kind: Kind) -> Result<Function, String> {
    if modes.round != Round::Nearest {
        return Err("f64 is rounded to nearest alone here".into());
    }
    fn binary(f: impl Fn(f64, f64) -> f64 + Send + Sync + 'static) -> Function {
        two(move |a, b| f(f64::from_bits(a), f64::from_bits(b)).to_bits())
    }
    fn unary(f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Function {
        one(move |a| f(f64::from_bits(a)).to_bits())
    }
    Ok(match op.name {
        "add" => binary(|a, b| a + b),
        "sub" => binary(|a, b| a - b),
        "mul" => binary(|a, b| a * b),
        "div" => binary(|a, b| a / b),
        "min" => binary(|a, b| number::extreme(a, b, false)),
        "max" => binary(|a, b| number::extreme(a, b, true)),
        "copysign" => binary(|a, b| b.copysign(a)),
        "fma" | "mad" => {
            three(|a, b, c| f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits())
        }
        "abs" => unary(f64::abs),
        "neg" => unary(|x| -x),
        "sqrt" => unary(f64::sqrt),
        "rcp" if kind == Kind::Exact => unary(|x| 1.0 / x),
        // the approximations of f64 keep the upper half of the bits
        "rcp" => one(|a| (1.0 / f64::from_bits(a)).to_bits() & !mask(32)),
        "rsqrt" => one(|a| (1.0 / f64::from_bits(a).sqrt()).to_bits() & !mask(32)),
        _ => return Err("not for f64".into()),
    })
}

/// Halves, one or two in a register: computed in f64 without error or rounded to odd, then rounded once.
fn half(op: &mut Opcode<'_>, modes: Modes, format: Format, count: u32) -> Result<Function, String> {
    if modes.round != Round::Nearest {
        return Err("halves are rounded to nearest alone here".into());
    }
    let relu = op.take("relu");
    let smallest = format.widen(1 << format.fraction);
    let flush = move |x: f64| if modes.ftz && x.abs() < smallest { 0.0_f64.copysign(x) } else { x };
    let read = move |bits: u64| flush(format.widen(bits));
    let write = move |x: f64| {
        let x = match () {
            () if modes.clamp => {
                if x > 0.0 {
                    x.min(1.0)
                } else {
                    0.0
                }
            }
            () if relu && x < 0.0 => 0.0,
            () => x,
        };
        format.narrow(flush(x), Round::Nearest)
    };
    let unary = |f: fn(f64) -> f64| Ok(one(move |a| packed(count, |i| write(f(read(part(a, i)))))));
    let binary = |f: fn(f64, f64) -> f64| {
        Ok(two(move |a, b| packed(count, |i| write(f(read(part(a, i)), read(part(b, i)))))))
    };
    match op.name {
        "add" => binary(|a, b| number::fused(a, 1.0, b)),
        "sub" => binary(|a, b| number::fused(a, 1.0, -b)),
        "mul" => binary(|a, b| a * b),
        "fma" => Ok(three(move |a, b, c| {
            packed(count, |i| write(number::fused(read(part(a, i)), read(part(b, i)), read(part(c, i)))))
        })),
        "min" | "max" => {
            let (larger, any_nan) = (op.name == "max", op.take("NaN"));
            Ok(two(move |a, b| {
                packed(count, |i| {
                    let (a, b) = (read(part(a, i)), read(part(b, i)));
                    let lost = any_nan && (a.is_nan() || b.is_nan());
                    write(if lost { f64::NAN } else { number::extreme(a, b, larger) })
                })
            }))
        }
        "abs" => Ok(one(move |a| packed(count, |i| part(a, i) & 0x7fff))),
        "neg" => Ok(one(move |a| packed(count, |i| part(a, i) ^ 0x8000))),
        "ex2" => unary(f64::exp2),
        "tanh" => unary(f64::tanh),
        _ => Err("not for halves".into()),
    }
}

/// Half `index` of a register.
pub fn part(word: u64, index: u32) -> u64 {
    word >> (16 * index) & 0xffff
}

/// `count` halves, one beside the other.
pub fn packed(count: u32, half: impl Fn(u32) -> u64) -> u64 {
    (0..count).fold(0, |word, i| word | (half(i) & 0xffff) << (16 * i))
}

/// `testp`: the class of a number.
fn test(op: &mut Opcode<'_>) -> Result<Function, String> {
    type Class = fn(f64, bool) -> bool;
    let class = op.take_some(|part| {
        Some::<Class>(match part {
            "finite" => |x, _| x.is_finite(),
            "infinite" => |x, _| x.is_infinite(),
            "number" => |x, _| !x.is_nan(),
            "notanumber" => |x, _| x.is_nan(),
            "normal" => |x, subnormal| x.is_finite() && x != 0.0 && !subnormal,
            "subnormal" => |_, subnormal| subnormal,
            _ => return None,
        })
    });
    let Some(class) = class else { return Err("a class is missing".into()) };
    Ok(match op.ty()? {
        Type::F32 => one(move |a| u64::from(class(f32_of(a).into(), f32_of(a).is_subnormal()))),
        Type::F64 => one(move |a| u64::from(class(f64::from_bits(a), f64::from_bits(a).is_subnormal()))),
        _ => return Err("for f32 and f64 alone".into()),
    })
}

/// The number that `bits` are as a float of type `ty`, exactly.
pub fn widen(bits: u64, ty: Type) -> f64 {
    match ty {
        Type::F16 => F16.widen(bits),
        Type::Bf16 => BF16.widen(bits),
        Type::F64 => f64::from_bits(bits),
        _ => f64::from(f32_of(bits)),
    }
}
