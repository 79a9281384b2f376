//! Integer, logic and bit instructions as functions of bits.

use super::code::{Function, four, one, three, two};
use super::opcode::Opcode;
use super::types::Type;

/// The low `bits` bits.
pub fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// The low `bits` bits, sign-extended.
pub fn sign_extend(x: u64, bits: u32) -> i64 {
    let unused = 64 - bits.min(64);
    ((x << unused) as i64) >> unused
}

/// The number that `x` is as a `ty`.
pub fn value(x: u64, ty: Type) -> i128 {
    if ty.signed() { i128::from(sign_extend(x, ty.bits())) } else { i128::from(x & mask(ty.bits())) }
}

/// `x`, clamped to what `ty` holds.
pub fn saturate(x: i128, ty: Type) -> u64 {
    let bits = ty.bits();
    let (least, most) = match ty.signed() {
        true => (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1),
        false => (0, (1_i128 << bits) - 1),
    };
    x.clamp(least, most) as u64 & mask(bits)
}

/// The function of an integer instruction, or `None` if the name is not one of them.
pub fn find(op: &mut Opcode<'_>) -> Result<Option<Function>, String> {
    Ok(Some(match op.name {
        "add" | "sub" | "min" | "max" | "div" | "rem" | "abs" | "neg" | "sad" => arithmetic(op)?,
        "mul" | "mad" | "mul24" | "mad24" => product(op)?,
        "and" | "or" | "xor" | "not" | "cnot" => logic(op)?,
        "shl" | "shr" | "shf" => shift(op)?,
        "dp4a" | "dp2a" => dot(op)?,
        "lop3" => {
            let _ = op.ty()?;
            four(|a, b, c, table| {
                (0..8).filter(|i| table >> i & 1 == 1).fold(0, |sum, i| sum | minterm(a, b, c, i))
            })
        }
        "prmt" => permute(op)?,
        "bfe" | "bfi" | "bfind" | "brev" | "clz" | "popc" | "bmsk" | "szext" | "fns" => bit_field(op)?,
        _ => return Ok(None),
    }))
}

/// Bits where (a, b, c) read the number `i`.
fn minterm(a: u64, b: u64, c: u64, i: u32) -> u64 {
    let pick = |x: u64, bit: u32| if i >> bit & 1 == 1 { x } else { !x };
    pick(a, 2) & pick(b, 1) & pick(c, 0) & mask(32)
}

fn arithmetic(op: &mut Opcode<'_>) -> Result<Function, String> {
    let clamp = op.take("sat");
    let ty = op.ty()?;
    let all = mask(ty.bits());
    let read = move |x| value(x, ty);
    Ok(match (op.name, clamp) {
        ("add", false) => two(move |a, b| a.wrapping_add(b) & all),
        ("sub", false) => two(move |a, b| a.wrapping_sub(b) & all),
        ("add", true) => two(move |a, b| saturate(read(a) + read(b), ty)),
        ("sub", true) => two(move |a, b| saturate(read(a) - read(b), ty)),
        ("min", false) => two(move |a, b| read(a).min(read(b)) as u64 & all),
        ("max", false) => two(move |a, b| read(a).max(read(b)) as u64 & all),
        // what a card does, which the ISA leaves open: all ones for a quotient, the dividend for a rest
        ("div", false) => two(move |a, b| if b & all == 0 { all } else { (read(a) / read(b)) as u64 & all }),
        ("rem", false) => {
            two(move |a, b| if b & all == 0 { a & all } else { (read(a) % read(b)) as u64 & all })
        }
        ("abs", false) => one(move |a| read(a).unsigned_abs() as u64 & all),
        ("neg", false) => one(move |a| a.wrapping_neg() & all),
        ("sad", false) => {
            three(move |a, b, c| c.wrapping_add((read(a) - read(b)).unsigned_abs() as u64) & all)
        }
        _ => return Err("`.sat` is not known here".into()),
    })
}

fn product(op: &mut Opcode<'_>) -> Result<Function, String> {
    let (low, high, wide, clamp) = (op.take("lo"), op.take("hi"), op.take("wide"), op.take("sat"));
    let ty = op.ty()?;
    let bits = ty.bits();
    let all = mask(bits);
    let add = op.name.starts_with("mad");
    if clamp {
        return match (op.name, high) {
            ("mad", true) => {
                Ok(three(move |a, b, c| saturate(((value(a, ty) * value(b, ty)) >> bits) + value(c, ty), ty)))
            }
            _ => Err("`.sat` is not known here".into()),
        };
    }
    if op.name.ends_with("24") {
        let narrow = move |x: u64| match ty.signed() {
            true => i128::from(sign_extend(x, 24)),
            false => i128::from(x & mask(24)),
        };
        let down = if high { 16 } else { 0 };
        return Ok(match add {
            true => three(move |a, b, c| (((narrow(a) * narrow(b)) >> down) as u64).wrapping_add(c) & all),
            false => two(move |a, b| ((narrow(a) * narrow(b)) >> down) as u64 & all),
        });
    }
    if [low, high, wide].iter().filter(|&&part| part).count() != 1 {
        return Err("`.lo`, `.hi` or `.wide` expected".into());
    }
    let times = move |a, b| match ty.signed() {
        true => i128::from(sign_extend(a, bits)) * i128::from(sign_extend(b, bits)),
        false => (u128::from(a & all) * u128::from(b & all)) as i128,
    };
    let part = move |a: u64, b: u64| match (low, high) {
        (true, _) => a.wrapping_mul(b),
        (_, true) => (times(a, b) >> bits) as u64,
        _ => times(a, b) as u64,
    };
    let all = if wide { mask(2 * bits) } else { all };
    Ok(match add {
        true => three(move |a, b, c| part(a, b).wrapping_add(c) & all),
        false => two(move |a, b| part(a, b) & all),
    })
}

fn logic(op: &mut Opcode<'_>) -> Result<Function, String> {
    let all = mask(op.ty()?.bits());
    Ok(match op.name {
        "and" => two(move |a, b| a & b & all),
        "or" => two(move |a, b| (a | b) & all),
        "xor" => two(move |a, b| (a ^ b) & all),
        "not" => one(move |a| !a & all),
        _ => one(move |a| u64::from(a & all == 0)),
    })
}

fn shift(op: &mut Opcode<'_>) -> Result<Function, String> {
    let (left, right) = (op.take("l"), op.take("r"));
    let (wrap, clamp) = (op.take("wrap"), op.take("clamp"));
    let ty = op.ty()?;
    let bits = ty.bits();
    let all = mask(bits);
    // the amount is an unsigned 32-bit number, whatever is shifted
    let amount = |n: u64| n & mask(32);
    Ok(match op.name {
        "shl" => two(move |a, n| a.checked_shl(amount(n).min(64) as u32).unwrap_or(0) & all),
        "shr" => two(move |a, n| (value(a, ty) >> amount(n).min(64)) as u64 & all),
        _ if left == right || wrap == clamp => {
            return Err("`.l` or `.r`, `.wrap` or `.clamp` expected".into());
        }
        // the funnel is b:a
        _ => three(move |a, b, n| {
            let n = if wrap { n & 31 } else { amount(n).min(32) };
            let both = (b & all) << 32 | a & all;
            (if left { ((u128::from(both) << n) >> 32) as u64 } else { both >> n }) & all
        }),
    })
}

fn dot(op: &mut Opcode<'_>) -> Result<Function, String> {
    let (low, high) = (op.take("lo"), op.take("hi"));
    let (left, right) = (op.ty()?, op.ty()?);
    if op.name == "dp4a" {
        return Ok(three(move |a, b, c| {
            let sum = |part: u32| part_of(a, 8, part, left) * part_of(b, 8, part, right);
            c.wrapping_add((0..4).map(sum).sum::<i64>() as u64) & mask(32)
        }));
    }
    if low == high {
        return Err("`.lo` or `.hi` expected".into());
    }
    let first = if high { 2 } else { 0 };
    Ok(three(move |a, b, c| {
        let sum = |part: u32| part_of(a, 16, part, left) * part_of(b, 8, first + part, right);
        c.wrapping_add((0..2).map(sum).sum::<i64>() as u64) & mask(32)
    }))
}

/// Part `index` of `bits` bits of a word, signed as `ty` is.
fn part_of(word: u64, bits: u32, index: u32, ty: Type) -> i64 {
    let part = word >> (bits * index) & mask(bits);
    if ty.signed() { sign_extend(part, bits) } else { part as i64 }
}

fn permute(op: &mut Opcode<'_>) -> Result<Function, String> {
    let _ = op.ty()?;
    let mode = op
        .take_some(|part| ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"].iter().position(|&name| name == part));
    Ok(three(move |a, b, selector| {
        let bytes = (b & mask(32)) << 32 | a & mask(32);
        let first = selector & 3;
        let select = |place: u64| -> u64 {
            match mode {
                None => selector >> (4 * place) & 15,
                Some(0) => first + place,
                Some(1) => first.wrapping_sub(place) & 7,
                Some(2) => first,
                Some(3) => place.max(first),
                Some(4) => place.min(first),
                Some(_) => (first & 1) * 2 + (place & 1),
            }
        };
        let byte = |place: u64| {
            let by = select(place);
            let byte = bytes >> (8 * (by & 7)) & 255;
            // bit 3 of a selector asks for the sign in all eight bits
            if by & 8 == 0 { byte } else { (byte >> 7) * 255 }
        };
        (0..4).fold(0, |word, place| word | byte(place) << (8 * place))
    }))
}

fn bit_field(op: &mut Opcode<'_>) -> Result<Function, String> {
    let (amount, clamp, wrap) = (op.take("shiftamt"), op.take("clamp"), op.take("wrap"));
    let ty = op.ty()?;
    let bits = ty.bits();
    let all = mask(bits);
    Ok(match op.name {
        "clz" => one(move |a| u64::from((a & all).leading_zeros() - (64 - bits))),
        "popc" => one(move |a| u64::from((a & all).count_ones())),
        "brev" => one(move |a| (a & all).reverse_bits() >> (64 - bits)),
        "bfind" => one(move |a| {
            let a = if ty.signed() && sign_extend(a, bits) < 0 { !a & all } else { a & all };
            match a.checked_ilog2() {
                None => mask(32),
                Some(place) => u64::from(if amount { bits - 1 - place } else { place }),
            }
        }),
        "bfe" => three(move |a, from, length| {
            let (from, length) = ((from & 255) as u32, (length & 255) as u32);
            if length == 0 {
                return 0;
            }
            // beyond the top there is the sign, or zeros
            let shifted = value(a, ty) >> from.min(64);
            let field = shifted as u64 & mask(length);
            let sign_at = (from + length - 1).min(bits - 1);
            let negative = ty.signed() && a >> sign_at & 1 == 1;
            (if negative { field | !mask(length) } else { field }) & all
        }),
        "bfi" => four(move |a, b, from, length| {
            let (from, length) = ((from & 255) as u32, (length & 255) as u32);
            let field = mask(length).checked_shl(from).unwrap_or(0);
            (b & !field | a.checked_shl(from).unwrap_or(0) & field) & all
        }),
        "bmsk" if clamp || wrap => two(move |from, length| {
            let (from, length) = match wrap {
                true => (from & 31, length & 31),
                false => (from.min(32), length.min(32)),
            };
            mask(length as u32) << from & mask(32)
        }),
        "szext" if clamp || wrap => two(move |a, n| {
            let n = if wrap { n & 31 } else { n & mask(32) };
            match (n, ty.signed()) {
                (0, _) => 0,
                (32.., _) => a & mask(32),
                (_, true) => sign_extend(a, n as u32) as u64 & mask(32),
                _ => a & mask(n as u32),
            }
        }),
        "fns" => three(|word, base, offset| {
            let offset = sign_extend(offset, 32);
            let set = |place: &i64| word >> place & 1 == 1;
            let base = (base & 31) as i64;
            let found = match offset {
                0 => Some(base).filter(set),
                1.. => (base..32).filter(set).nth(offset as usize - 1),
                _ => (0..=base).rev().filter(set).nth(offset.unsigned_abs() as usize - 1),
            };
            found.map_or(mask(32), |place| place as u64)
        }),
        _ => return Err("`.clamp` or `.wrap` expected".into()),
    })
}
