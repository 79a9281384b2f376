//! What the lanes of a warp do together: shuffles, votes, and matrices spread over their registers.

use super::Fault;
use super::code::{Element, LANES, Place, Product, Reg, Row, Shuffle, Update, Vote};
use super::integer::{mask, saturate, sign_extend};
use super::memory::number;
use super::number::{BF16, F16, F32, Round, TF32};
use super::types::Type;
use super::warp::{Warp, World, lanes};

impl Element {
    /// The size in bits; TF32 is kept in 32.
    pub fn bits(self) -> usize {
        match self {
            Self::S8 | Self::U8 => 8,
            Self::F16 | Self::Bf16 => 16,
            Self::Tf32 => 32,
        }
    }

    fn value(self, bits: u64) -> f64 {
        match self {
            Self::S8 => sign_extend(bits, 8) as f64,
            Self::U8 => (bits & 0xff) as f64,
            Self::F16 => F16.widen(bits),
            Self::Bf16 => BF16.widen(bits),
            // the low bits of what a register holds do not count
            Self::Tf32 => TF32.widen(bits >> (F32.fraction - TF32.fraction)),
        }
    }
}

impl Warp {
    pub fn shuffle(
        &mut self,
        mode: Shuffle,
        (d, p): (Reg, Option<Reg>),
        s: &[Reg; 3],
        set: u32,
    ) -> Result<(), (usize, Fault)> {
        let [a, b, c] = s.map(|reg| self.registers[reg as usize]);
        let (mut result, mut inside) = ([0; LANES], [0; LANES]);
        for lane in lanes(set) {
            let (by, clamp, segments) =
                (b[lane] as usize & 31, c[lane] as usize & 31, c[lane] as usize >> 8 & 31);
            let (least, most) = (lane & segments, lane & segments | clamp & !segments & 31);
            let from = match mode {
                Shuffle::Up => lane.checked_sub(by).filter(|&from| from >= most),
                Shuffle::Down => Some(lane + by).filter(|&from| from <= most),
                Shuffle::Butterfly => Some(lane ^ by).filter(|&from| from <= most),
                Shuffle::Index => Some(least | by & !segments & 31).filter(|&from| from <= most),
            };
            inside[lane] = u64::from(from.is_some());
            let from = from.unwrap_or(lane);
            if set >> from & 1 == 0 {
                return Err((lane, Fault::Absent { lane: from as u32 }));
            }
            result[lane] = a[from] & mask(32);
        }
        self.set(d, &result, set);
        if let Some(p) = p {
            self.set(p, &inside, set);
        }
        Ok(())
    }

    pub fn vote(&mut self, vote: Vote, d: Reg, p: Reg, set: u32) {
        let row = &self.registers[p as usize];
        let yes = lanes(set).filter(|&lane| row[lane] & 1 == 1).fold(0_u32, |mask, lane| mask | 1 << lane);
        let result = match vote {
            Vote::All => u64::from(yes == set),
            Vote::Any => u64::from(yes != 0),
            Vote::Uniform => u64::from(yes == set || yes == 0),
            Vote::Ballot => u64::from(yes),
        };
        self.set(d, &[result; LANES], set);
    }

    pub fn reduce(&mut self, fold: &Update, d: Reg, s: Reg, set: u32) {
        let row = &self.registers[s as usize];
        let result = lanes(set).map(|lane| row[lane]).reduce(|sum, x| fold(sum, x, 0)).unwrap_or(0);
        self.set(d, &[result; LANES], set);
    }

    /// `match.any` and `match.all`.
    pub fn find_equal(&mut self, all: bool, bits: u32, (d, p): (Reg, Option<Reg>), s: Reg, set: u32) {
        let row = self.registers[s as usize].map(|value| value & mask(bits));
        let (mut result, mut same): (Row, Row) = ([0; LANES], [0; LANES]);
        for lane in lanes(set) {
            let equal =
                lanes(set).filter(|&other| row[other] == row[lane]).fold(0, |mask, other| mask | 1 << other);
            same[lane] = u64::from(equal == set);
            result[lane] = u64::from(if !all || equal == set { equal } else { 0 });
        }
        self.set(d, &result, set);
        if let Some(p) = p {
            self.set(p, &same, set);
        }
    }

    /// The addresses of the rows of the matrices 0 to `count`, eight each, as lanes give them.
    fn rows(&self, at: &Place, count: usize) -> Result<Vec<u64>, (usize, Fault)> {
        let row =
            |lane| self.address(at, 16, lane).map(|(_, address)| address).map_err(|fault| (lane, fault));
        (0..8 * count).map(row).collect()
    }

    /// Where the two halves that `lane` holds of an 8 x 8 matrix are: row and column.
    fn halves(lane: usize, transposed: bool) -> [(usize, usize); 2] {
        let (row, column) = (lane / 4, lane % 4 * 2);
        match transposed {
            false => [(row, column), (row, column + 1)],
            true => [(column, row), (column + 1, row)],
        }
    }

    pub fn load_matrix(
        &mut self,
        world: &mut World<'_>,
        at: &Place,
        transposed: bool,
        d: &[Reg],
    ) -> Result<(), (usize, Fault)> {
        let rows = self.rows(at, d.len())?;
        for (matrix, &d) in d.iter().enumerate() {
            for lane in 0..LANES {
                let mut word = 0;
                for (place, (row, column)) in Self::halves(lane, transposed).into_iter().enumerate() {
                    let address = rows[8 * matrix + row] + 2 * column as u64;
                    let who = self.who(lane, world.counts, false);
                    let half = world.shared.read(address, 2, &who).map_err(|fault| (lane, fault))?;
                    word |= number(half) << (16 * place);
                }
                self.registers[d as usize][lane] = word;
            }
        }
        Ok(())
    }

    pub fn store_matrix(
        &mut self,
        world: &mut World<'_>,
        at: &Place,
        transposed: bool,
        s: &[Reg],
    ) -> Result<(), (usize, Fault)> {
        let rows = self.rows(at, s.len())?;
        for (matrix, &s) in s.iter().enumerate() {
            for lane in 0..LANES {
                let word = self.registers[s as usize][lane];
                for (place, (row, column)) in Self::halves(lane, transposed).into_iter().enumerate() {
                    let address = rows[8 * matrix + row] + 2 * column as u64;
                    let half = (word >> (16 * place)) as u16;
                    let who = self.who(lane, world.counts, false);
                    let written = world.shared.write(address, &half.to_le_bytes(), &who);
                    written.map_err(|fault| (lane, fault))?;
                }
            }
        }
        Ok(())
    }

    pub fn transpose_matrix(&mut self, d: Reg, s: Reg) {
        let from = self.registers[s as usize];
        let half = |row: usize, column: usize| from[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
        let result = std::array::from_fn(|lane| {
            let [(r0, c0), (r1, c1)] = Self::halves(lane, true);
            half(r0, c0) | half(r1, c1) << 16
        });
        self.set(d, &result, u32::MAX);
    }

    /// `mma`: each lane holds elements of 4 bytes side by side in k, of a row of a or a column of b that is its number
    /// divided by 4; a's second register is eight rows below, the third 16 bytes further in k.
    ///
    /// Sums are exact up to f64 and rounded once; tensor cores drop some low bits on the way.
    pub fn product(&mut self, product: &Product) {
        let (m, k) = (product.m, product.k);
        let fragment = |registers: &[Reg], element: Element, rows: usize| {
            let each = 32 / element.bits();
            let mut matrix = vec![0.0; rows * k];
            for (place, &reg) in registers.iter().enumerate() {
                // a of 16 rows has two registers for the same k
                let (below, along) = if rows == 16 { (place % 2, place / 2) } else { (0, place) };
                for (lane, word) in self.registers[reg as usize].iter().enumerate() {
                    for part in 0..each {
                        let at = (lane % 4 + along * 4) * each + part;
                        let bits = word >> (element.bits() * part);
                        matrix[(lane / 4 + 8 * below) * k + at] = element.value(bits);
                    }
                }
            }
            matrix
        };
        let a = fragment(&product.a, product.left, m);
        let b = fragment(&product.b, product.right, 8);
        let dot = |row: usize, column: usize| -> f64 {
            a[row * k..][..k].iter().zip(&b[column * k..][..k]).map(|(x, y)| x * y).sum()
        };
        let integers = matches!(product.left, Element::S8 | Element::U8);
        let sum = |old: u64, row: usize, column: usize| -> u64 {
            let dot = dot(row, column);
            match (integers, product.half_sums) {
                (true, _) if product.clamp => {
                    saturate(i128::from(sign_extend(old, 32)) + dot as i128, Type::S32)
                }
                (true, _) => old.wrapping_add_signed(dot as i64) & mask(32),
                (_, true) => F16.narrow(dot + F16.widen(old & 0xffff), Round::Nearest),
                _ => F32.narrow(dot + F32.widen(old & mask(32)), Round::Nearest),
            }
        };
        let each = if product.half_sums { 2 } else { 1 };
        let mut results = Vec::with_capacity(product.d.len());
        for (place, &c) in product.c.iter().enumerate() {
            let old = self.registers[c as usize];
            results.push(std::array::from_fn::<u64, LANES, _>(|lane| {
                (0..each).fold(0, |word, part| {
                    let index = place * each + part;
                    let (row, column) = (lane / 4 + index / 2 * 8, lane % 4 * 2 + index % 2);
                    word | sum(old[lane] >> (16 * part), row, column) << (16 * part)
                })
            }));
        }
        for (&d, result) in product.d.iter().zip(&results) {
            self.set(d, result, u32::MAX);
        }
    }
}
