//! `cvt`, comparisons and selections as functions of bits.

use super::code::{Function, one, three, two};
use super::float::{f32_of, packed, part, widen};
use super::integer::{mask, saturate, value};
use super::number::{self, BF16, F16, F32, Format, Round, TF32};
use super::opcode::Opcode;
use super::types::Type;

/// The function of a conversion, comparison or selection, or `None` if the name is not one of them. `bits` is the width of
/// the register that takes the result.
pub fn find(op: &mut Opcode<'_>, bits: u32) -> Result<Option<Function>, String> {
    Ok(Some(match op.name {
        "cvt" => convert(op, bits)?,
        "set" => set(op)?,
        "setp" => {
            op.ignore(|part| matches!(part, "and" | "or" | "xor"));
            compare(op)?
        }
        "selp" => {
            let _ = op.ty()?;
            three(|a, b, p| if p & 1 == 1 { a } else { b })
        }
        "slct" => {
            let ftz = op.take("ftz");
            let (_, by) = (op.ty()?, op.ty()?);
            match by {
                Type::S32 => three(|a, b, c| if value(c, Type::S32) >= 0 { a } else { b }),
                Type::F32 => three(move |a, b, c| {
                    let c = if ftz { number::flush(f32_of(c)) } else { f32_of(c) };
                    if c >= 0.0 { a } else { b }
                }),
                _ => return Err("selects by s32 or f32".into()),
            }
        }
        "mov" => {
            let all = mask(op.ty()?.bits());
            one(move |a| a & all)
        }
        _ => return Ok(None),
    }))
}

/// How a number is converted.
#[derive(Clone, Copy)]
struct Modes {
    round: Option<Round>,
    integral: Option<Round>,
    clamp: bool,
    relu: bool,
    ftz: bool,
}

fn convert(op: &mut Opcode<'_>, bits: u32) -> Result<Function, String> {
    let integral = op.take_some(|part| match part {
        "rni" => Some(Round::Nearest),
        "rzi" => Some(Round::Zero),
        "rmi" => Some(Round::Down),
        "rpi" => Some(Round::Up),
        _ => None,
    });
    let pack = op.take("pack");
    let modes = Modes {
        round: op.round(),
        integral,
        clamp: op.take("sat"),
        relu: op.take("relu"),
        ftz: op.take("ftz"),
    };
    let (to, from) = (op.ty()?, op.ty()?);
    if pack {
        return pack_integers(op, to, from, modes.clamp);
    }
    let packs = match to {
        Type::F16x2 => Some(F16),
        Type::Bf16x2 => Some(BF16),
        _ => None,
    };
    if let Some(format) = packs {
        let round = modes.round.unwrap_or(Round::Nearest);
        // the first operand becomes the upper half
        return Ok(two(move |a, b| {
            packed(2, |i| to_format(f64::from(f32_of(if i == 0 { b } else { a })), format, round, modes))
        }));
    }
    // a register wider than the type is filled with the sign
    let fill = move |x: u64| match to.signed() {
        true => value(x, to) as u64 & mask(bits),
        false => x & mask(to.bits()),
    };
    Ok(match (from.float(), to.float()) {
        (false, false) if modes.clamp => one(move |a| fill(saturate(value(a, from), to))),
        (false, false) => one(move |a| fill(value(a, from) as u64)),
        (false, true) => one(move |a| integer_to_float(value(a, from), to, modes)),
        (true, false) => {
            let Some(round) = modes.integral else { return Err("a rounding to integers is missing".into()) };
            one(move |a| fill(float_to_integer(source(a, from, modes), to, round)))
        }
        (true, true) => one(move |a| float_to_float(a, from, to, modes)),
    })
}

fn source(bits: u64, from: Type, modes: Modes) -> f64 {
    let x = widen(bits, from);
    match modes.ftz && from == Type::F32 {
        true => f64::from(number::flush(x as f32)),
        false => x,
    }
}

/// NaN becomes 0, what is out of range its end.
fn float_to_integer(x: f64, to: Type, round: Round) -> u64 {
    saturate(number::integral(x, round) as i128, to)
}

fn integer_to_float(x: i128, to: Type, modes: Modes) -> u64 {
    let round = modes.round.unwrap_or(Round::Nearest);
    match to {
        Type::F64 => (x as f64).to_bits(),
        // 64 bits do not fit f64, but rounded to odd they give the same f32 and halves
        Type::F32 => to_format(odd(x), F32, round, modes),
        Type::Bf16 => to_format(odd(x), BF16, round, modes),
        _ => to_format(odd(x), F16, round, modes),
    }
}

/// An integer as f64, rounded to odd: the bits beyond 53 are kept as one that says whether there are any.
fn odd(x: i128) -> f64 {
    let magnitude = x.unsigned_abs();
    let lost = (128 - magnitude.leading_zeros()).saturating_sub(53);
    let kept = magnitude >> lost;
    let sticky = u128::from(kept << lost != magnitude);
    let result = (kept | sticky) as f64 * f64::from(lost).exp2();
    if x < 0 { -result } else { result }
}

fn float_to_float(a: u64, from: Type, to: Type, modes: Modes) -> u64 {
    let mut x = source(a, from, modes);
    if let Some(round) = modes.integral {
        x = number::integral(x, round).copysign(x);
    }
    let round = modes.round.unwrap_or(Round::Nearest);
    match to {
        Type::F64 if modes.clamp => (if x > 0.0 { x.min(1.0) } else { 0.0 }).to_bits(),
        Type::F64 => x.to_bits(),
        Type::F32 => to_format(x, F32, round, modes),
        Type::Tf32 => to_format(x, TF32, round, modes) << (F32.fraction - TF32.fraction),
        Type::Bf16 => to_format(x, BF16, round, modes),
        _ => to_format(x, F16, round, modes),
    }
}

fn to_format(x: f64, format: Format, round: Round, modes: Modes) -> u64 {
    let x = match () {
        () if modes.clamp => {
            if x > 0.0 {
                x.min(1.0)
            } else {
                0.0
            }
        }
        () if modes.relu && x < 0.0 => 0.0,
        () => x,
    };
    let bits = format.narrow(x, round);
    let subnormal = bits & (format.nan() ^ mask(format.fraction)) == 0;
    match modes.ftz && format == F32 && subnormal {
        true => bits & !mask(format.fraction),
        false => bits,
    }
}

/// `cvt.pack.sat.u8.s32.b32 d, a, b, c`: a and b clamped, b in the low bits, the low bits of c above them.
fn pack_integers(op: &mut Opcode<'_>, to: Type, from: Type, clamp: bool) -> Result<Function, String> {
    let with_upper = op.ty().is_ok();
    if !clamp || from != Type::S32 {
        return Err("`.sat` and s32 expected".into());
    }
    let bits = to.bits();
    let pair = move |a, b| saturate(value(a, from), to) << bits | saturate(value(b, from), to);
    Ok(match with_upper {
        true => three(move |a, b, c| (pair(a, b) | c << (2 * bits)) & mask(32)),
        false => two(move |a, b| pair(a, b) & mask(32)),
    })
}

/// How two numbers compare: less, equal, greater or not at all.
#[derive(Clone, Copy)]
struct Test {
    less: bool,
    equal: bool,
    greater: bool,
    unordered: bool,
    /// Reads its operands as unsigned, whatever their type says.
    unsigned: bool,
}

fn test(op: &mut Opcode<'_>) -> Result<Test, String> {
    let found = op.take_some(|name| {
        let (less, equal, greater, unordered) = match name {
            "eq" => (false, true, false, false),
            "ne" => (true, false, true, false),
            "lt" | "lo" => (true, false, false, false),
            "le" | "ls" => (true, true, false, false),
            "gt" | "hi" => (false, false, true, false),
            "ge" | "hs" => (false, true, true, false),
            "equ" => (false, true, false, true),
            "neu" => (true, false, true, true),
            "ltu" => (true, false, false, true),
            "leu" => (true, true, false, true),
            "gtu" => (false, false, true, true),
            "geu" => (false, true, true, true),
            "num" => (true, true, true, false),
            "nan" => (false, false, false, true),
            _ => return None,
        };
        Some(Test { less, equal, greater, unordered, unsigned: matches!(name, "lo" | "ls" | "hi" | "hs") })
    });
    found.ok_or_else(|| "a comparison is missing".into())
}

impl Test {
    fn holds(self, order: Option<std::cmp::Ordering>) -> bool {
        match order {
            Some(std::cmp::Ordering::Less) => self.less,
            Some(std::cmp::Ordering::Equal) => self.equal,
            Some(std::cmp::Ordering::Greater) => self.greater,
            None => self.unordered,
        }
    }

    fn of(self, ty: Type, ftz: bool) -> impl Fn(u64, u64) -> bool + Copy + Send + Sync + 'static {
        let flushed = move |bits| {
            let x = widen(bits, ty);
            if ftz && ty == Type::F32 { f64::from(number::flush(x as f32)) } else { x }
        };
        move |a, b| match ty.float() {
            true => self.holds(flushed(a).partial_cmp(&flushed(b))),
            false if self.unsigned => self.holds((a & mask(ty.bits())).partial_cmp(&(b & mask(ty.bits())))),
            false => self.holds(value(a, ty).partial_cmp(&value(b, ty))),
        }
    }
}

fn compare(op: &mut Opcode<'_>) -> Result<Function, String> {
    let test = test(op)?;
    let ftz = op.take("ftz");
    let ty = op.ty()?;
    if matches!(ty, Type::F16x2 | Type::Bf16x2) {
        return Err("packed halves compare into two predicates, which is not known here".into());
    }
    let holds = test.of(ty, ftz);
    Ok(two(move |a, b| u64::from(holds(a, b))))
}

/// `set`: like `setp`, but the result is a number: all ones, or 1.0 for a float.
fn set(op: &mut Opcode<'_>) -> Result<Function, String> {
    let test = test(op)?;
    let ftz = op.take("ftz");
    let (to, ty) = (op.ty()?, op.ty()?);
    let (element, halves) = match ty {
        Type::F16x2 => (Type::F16, true),
        Type::Bf16x2 => (Type::Bf16, true),
        ty => (ty, false),
    };
    let holds = test.of(element, ftz);
    let yes = match to {
        Type::F32 => u64::from(1_f32.to_bits()),
        Type::F16 | Type::F16x2 => 0x3c00,
        Type::Bf16 | Type::Bf16x2 => 0x3f80,
        _ if halves => 0xffff,
        _ => mask(to.bits()),
    };
    Ok(match halves {
        true => two(move |a, b| packed(2, |i| if holds(part(a, i), part(b, i)) { yes } else { 0 })),
        false => two(move |a, b| if holds(a, b) { yes } else { 0 }),
    })
}
