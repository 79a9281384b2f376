//! Floating-point numbers as PTX rounds them.
//!
//! Rust rounds to nearest. The other directions follow from the sign of what rounding dropped, which is known exactly:
//! f64 holds the product of two f32 and, with Knuth's TwoSum, their sum and its error. Halves are computed in f64, rounded
//! to odd on the way, so that rounding twice is rounding once (Boldo and Melquiond 2008).

/// A direction of rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

/// The layout of a binary format: bits of the fraction and of the exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub fraction: u32,
    pub exponent: u32,
}

pub const F16: Format = Format { fraction: 10, exponent: 5 };
pub const BF16: Format = Format { fraction: 7, exponent: 8 };
pub const F32: Format = Format { fraction: 23, exponent: 8 };
/// TF32 in the layout of f32: the low 13 bits are left out.
pub const TF32: Format = Format { fraction: 10, exponent: 8 };

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    /// What PTX's instructions write for a NaN: every bit but the sign.
    pub fn nan(self) -> u64 {
        (1 << (self.fraction + self.exponent)) - 1
    }

    /// The number that `bits` stand for, exactly.
    pub fn widen(self, bits: u64) -> f64 {
        let sign = if bits >> (self.fraction + self.exponent) & 1 == 1 { -1.0 } else { 1.0 };
        let exponent = (bits >> self.fraction & ((1 << self.exponent) - 1)) as i32;
        let fraction = bits & ((1 << self.fraction) - 1);
        if exponent == (1 << self.exponent) - 1 {
            return if fraction == 0 { sign * f64::INFINITY } else { f64::NAN };
        }
        let (whole, power) = match exponent {
            0 => (fraction, 1 - self.bias()),
            _ => (fraction | 1 << self.fraction, exponent - self.bias()),
        };
        sign * whole as f64 * power_of_two(power - self.fraction as i32)
    }

    /// `x`, rounded; too large numbers become infinite or the largest finite one, as the direction says.
    pub fn narrow(self, x: f64, round: Round) -> u64 {
        let sign = u64::from(x.is_sign_negative()) << (self.fraction + self.exponent);
        let magnitude = x.abs();
        if x.is_nan() {
            return self.nan();
        }
        if magnitude == 0.0 {
            return sign;
        }
        if magnitude.is_infinite() {
            return sign | self.infinity();
        }
        let bits = magnitude.to_bits();
        let exponent = (bits >> 52) as i32 - 1023;
        // every format here has a smaller range than f64, so subnormal doubles round like the smallest normal one
        let whole = bits & ((1 << 52) - 1) | 1 << 52;
        let least = 1 - self.bias();
        let dropped = (52 - self.fraction as i32 + (least - exponent).max(0)).min(63) as u32;
        let (kept, rest, half) = (whole >> dropped, whole & ((1 << dropped) - 1), 1_u64 << (dropped - 1));
        let up = match round {
            Round::Nearest => rest > half || rest == half && kept & 1 == 1,
            Round::Away => rest >= half,
            Round::Zero => false,
            Round::Down => rest > 0 && sign != 0,
            Round::Up => rest > 0 && sign == 0,
        };
        // a carry out of the fraction moves on into the exponent, and from the largest number to infinity
        let base = ((exponent.max(least) - least) as u64) << self.fraction;
        let result = base + kept + u64::from(up);
        if exponent > self.bias() || result >= self.infinity() {
            let finite = match round {
                Round::Nearest | Round::Away => false,
                Round::Zero => true,
                Round::Down => sign == 0,
                Round::Up => sign != 0,
            };
            return sign | (self.infinity() - u64::from(finite));
        }
        sign | result
    }
}

fn power_of_two(power: i32) -> f64 {
    f64::from_bits(((power + 1023) as u64) << 52)
}

/// `a + b` and what rounding it dropped (Knuth's TwoSum).
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let of_b = sum - a;
    (sum, (a - (sum - of_b)) + (b - of_b))
}

/// `sum + error`, rounded to odd: to an odd last bit wherever it is not exact.
fn to_odd(sum: f64, error: f64) -> f64 {
    if error == 0.0 || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    if error > 0.0 { sum.next_up() } else { sum.next_down() }
}

/// `a * b + c` for numbers whose product f64 holds exactly, to be rounded once more to a half format.
pub fn fused(a: f64, b: f64, c: f64) -> f64 {
    let (sum, error) = two_sum(a * b, c);
    to_odd(sum, error)
}

/// `nearest`, moved to the neighbour that `round` asks for; `residual` has the sign of the exact value minus `nearest`.
fn direct(nearest: f32, residual: f64, round: Round) -> f32 {
    let toward_zero = round == Round::Zero;
    if residual > 0.0 && (round == Round::Up || toward_zero && nearest < 0.0) {
        return nearest.next_up();
    }
    if residual < 0.0 && (round == Round::Down || toward_zero && nearest > 0.0) {
        return nearest.next_down();
    }
    nearest
}

pub fn add(a: f32, b: f32, round: Round) -> f32 {
    let nearest = a + b;
    if round == Round::Nearest {
        return nearest;
    }
    let (sum, error) = two_sum(f64::from(a), f64::from(b));
    // where both cancel, the sum is -0 only when rounding down
    if sum == 0.0 && a != 0.0 {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    direct(nearest, (sum - f64::from(nearest)) + error, round)
}

pub fn mul(a: f32, b: f32, round: Round) -> f32 {
    let nearest = a * b;
    if round == Round::Nearest {
        return nearest;
    }
    direct(nearest, f64::from(a) * f64::from(b) - f64::from(nearest), round)
}

pub fn fma(a: f32, b: f32, c: f32, round: Round) -> f32 {
    let nearest = a.mul_add(b, c);
    if round == Round::Nearest {
        return nearest;
    }
    let (sum, error) = two_sum(f64::from(a) * f64::from(b), f64::from(c));
    direct(nearest, (sum - f64::from(nearest)) + error, round)
}

pub fn div(a: f32, b: f32, round: Round) -> f32 {
    let nearest = a / b;
    if round == Round::Nearest || !nearest.is_finite() && (b == 0.0 || a.is_infinite()) {
        return nearest;
    }
    // an overflow rounded to infinity: the exact quotient is nearer to zero
    let residual = match nearest.is_infinite() {
        true => -f64::from(nearest),
        false => (f64::from(a) - f64::from(nearest) * f64::from(b)) * f64::from(b.signum()),
    };
    direct(nearest, residual, round)
}

pub fn sqrt(a: f32, round: Round) -> f32 {
    let nearest = a.sqrt();
    if round == Round::Nearest {
        return nearest;
    }
    direct(nearest, f64::from(a) - f64::from(nearest) * f64::from(nearest), round)
}

/// A subnormal number becomes a zero of its sign.
pub fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

/// The smaller (or larger) of two: the other one if one is NaN, and -0 below +0.
pub fn extreme(a: f64, b: f64, larger: bool) -> f64 {
    if a.is_nan() {
        return b;
    }
    if b.is_nan() {
        return a;
    }
    let first = match a == b {
        true => a.is_sign_negative() != larger,
        false => (a < b) != larger,
    };
    if first { a } else { b }
}

/// `x` as a whole number, in the direction `round`.
pub fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Away => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}
