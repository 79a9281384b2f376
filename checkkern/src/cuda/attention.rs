//! Attention over the cache, against the formulas in f64.

use std::ops::Range;

use braise_kernels::cuda::ops::{
    Attend, Cache, Flash, HeadRows, Heads, PAGE, Q8_BYTES, Scores, Temperature, kv_row_bytes,
};
use braise_kernels::cuda::{Address, Error};
use braise_kernels::ops::{KvType, Window};
use braise_kernels::quant::block::BlockFormat;
use braise_kernels::quant::q8_0;
use fastrand::Rng;
use half::{bf16, f16};

use super::super::compare::Want;
use super::super::ops::{U, expect_all};
use super::super::report::Cases;
use super::Bench;
use super::rows::{expect_q8, normals};

pub(super) const TYPES: [(KvType, KvType); 4] = [
    (KvType::F16, KvType::F16),
    (KvType::Q8_0, KvType::Q8_0),
    (KvType::F16, KvType::Q8_0),
    (KvType::Q8_0, KvType::F16),
];

/// A row of the cache, and the values that it stands for.
fn encode(ty: KvType, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = Vec::new();
    let mut values = Vec::new();
    match ty {
        KvType::F16 => {
            for x in x {
                bytes.extend(f16::from_f32(*x).to_le_bytes());
                values.push(f16::from_f32(*x).to_f32());
            }
        }
        KvType::Q8_0 => {
            let mut scales = Vec::new();
            for group in x.chunks(32) {
                let mut all = [0.0; 32];
                all[..group.len()].copy_from_slice(group);
                let block = q8_0::Block::quantize(&all);
                bytes.extend(block.qs[..group.len()].iter().map(|code| *code as u8));
                scales.extend(block.d);
                values.extend(block.codes()[..group.len()].iter().map(|code| f32::from(*code) * block.d()));
            }
            bytes.extend(scales);
        }
    }
    bytes.resize(kv_row_bytes(ty, x.len() as u32) as usize, 0x7b);
    (bytes, values)
}

/// The place of a row in the cache.
pub(super) fn row(pages: &[u32], position: usize, head: usize, n_head_kv: usize) -> usize {
    let page = PAGE as usize;
    (pages[position / page] as usize * n_head_kv + head) * page + position % page
}

/// The key and the value of a position and head.
type Row = (Vec<f32>, Vec<f32>);

/// A layer's cache of some sequences.
pub(super) struct Filled {
    pub(super) heads: Heads,
    /// Of each sequence, positions and heads: keys and values.
    rows: Vec<Vec<Vec<Row>>>,
    pub(super) pages: Vec<Vec<u32>>,
    pub(super) cache: Cache,
}

impl Filled {
    /// Sequences of these lengths whose pages are out of order; what is not theirs is what nobody may use.
    pub(super) fn new(
        bench: &mut Bench<'_>,
        heads: Heads,
        types: (KvType, KvType),
        lengths: &[usize],
        random: &mut Rng,
    ) -> Result<Filled, Error> {
        let max_pages = lengths.iter().max().map_or(1, |n| n.div_ceil(PAGE as usize));
        let mut free: Vec<u32> = (0..(max_pages * lengths.len()) as u32).collect();
        random.shuffle(&mut free);
        let pages: Vec<Vec<u32>> = free.chunks(max_pages).map(<[u32]>::to_vec).collect();
        let n_rows = free.len() * heads.n_head_kv as usize * PAGE as usize;
        let (k_bytes, v_bytes) = (kv_row_bytes(types.0, heads.dim_k), kv_row_bytes(types.1, heads.dim_v));
        let (mut keys, mut values) =
            (vec![0x7b; n_rows * k_bytes as usize], vec![0x7e; n_rows * v_bytes as usize]);
        let mut rows = Vec::new();
        for (pages, length) in pages.iter().zip(lengths) {
            let mut of_sequence = Vec::new();
            for position in 0..*length {
                let mut of_position = Vec::new();
                for head in 0..heads.n_head_kv as usize {
                    let at = row(pages, position, head, heads.n_head_kv as usize);
                    let mut put = |all: &mut [u8], ty, dim: u32, bytes: u32| {
                        let (row, values) = encode(ty, &normals(dim as usize, random));
                        all[at * bytes as usize..][..bytes as usize].copy_from_slice(&row);
                        values
                    };
                    let key = put(&mut keys, types.0, heads.dim_k, k_bytes);
                    of_position.push((key, put(&mut values, types.1, heads.dim_v, v_bytes)));
                }
                of_sequence.push(of_position);
            }
            rows.push(of_sequence);
        }
        let cache = Cache {
            keys: bench.put(&keys)?,
            values: bench.put(&values)?,
            types,
            positions: Address::NONE,
            sequences: Address::NONE,
            pages: bench.put(&pages.concat())?,
            max_pages: max_pages as u32,
        };
        Ok(Filled { heads, rows, pages, cache })
    }

    /// The result of one query head, with what it may be off by: `relative` of each score and weight.
    fn want(
        &self,
        sequence: usize,
        head: usize,
        q: &[f32],
        seen: Range<usize>,
        s: &Given,
        relative: f64,
    ) -> Vec<Want> {
        let kv_head = head / self.heads.group as usize;
        let rows = &self.rows[sequence][seen.clone()];
        let mut delta: f64 = 0.0;
        let scores: Vec<f64> = (rows.iter().zip(seen))
            .map(|(row, position)| {
                let products = || q.iter().zip(&row[kv_head].0).map(|(q, k)| f64::from(*q) * f64::from(*k));
                let mut score = products().sum::<f64>() * f64::from(s.scale);
                delta = delta.max(relative * products().map(f64::abs).sum::<f64>() * f64::from(s.scale));
                if let Some(cap) = s.softcap.map(f64::from) {
                    score = cap * (score / cap).tanh();
                    delta += cap * 16.0 * U;
                }
                let gain = s.slopes.get(head).map_or(0.0, |slope| f64::from(*slope) * position as f64);
                delta = delta.max(delta + U * gain.abs());
                score + gain
            })
            .collect();
        let sink = s.sinks.get(head).map(|sink| f64::from(*sink));
        let max = scores.iter().chain(&sink).fold(f64::NEG_INFINITY, |max, s| max.max(*s));
        let p: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum = p.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - max).exp());
        let off = (2.0 * (delta + 200.0 * U)).exp_m1() + 2.0 * relative + (scores.len() as f64 + 64.0) * U;
        (0..self.heads.dim_v as usize)
            .map(|d| {
                let products = || p.iter().zip(rows).map(|(p, row)| p / sum * f64::from(row[kv_head].1[d]));
                let (exact, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                Want::Within { exact, bound: off * size + 1e-30 }
            })
            .collect()
    }

    /// Looks whether a row of the cache, of keys or of `values`, holds `want`, rounded to its format.
    pub(super) fn expect_row(
        &self,
        bench: &mut Bench<'_>,
        (sequence, position, head): (u32, u32, usize),
        values: bool,
        want: &[f64],
        (what, cases): (&str, &mut Cases),
    ) -> Result<(), Error> {
        let Cache { keys, values: of_values, types, .. } = self.cache;
        let (at, ty) = if values { (of_values, types.1) } else { (keys, types.0) };
        let bytes = kv_row_bytes(ty, want.len() as u32) as usize;
        let n_head_kv = self.heads.n_head_kv as usize;
        let place = row(&self.pages[sequence as usize], position as usize, head, n_head_kv);
        let (got, steps) =
            decode(ty, &bench.get::<u8>(at.offset((place * bytes) as u64), bytes)?, want.len());
        let want = want.iter().zip(&steps).map(|(x, step)| Want::Within {
            exact: *x,
            bound: 100.0 * U * (1.0 + x.abs()) + f64::from(*step) * 0.502 + x.abs() * 2f64.powi(-11),
        });
        expect_all(what, &got, want, cases);
        Ok(())
    }
}

/// What queries at a position are multiplied with.
pub(super) fn growth(t: Temperature, position: u32) -> f64 {
    let steps = (position + t.offset).checked_div(t.every);
    steps.map_or(1.0, |steps| 1.0 + f64::from(t.scale) * f64::from(steps).ln_1p())
}

/// What is done to scores, on the host.
#[derive(Default)]
struct Given {
    scale: f32,
    softcap: Option<f32>,
    slopes: Vec<f32>,
    sinks: Vec<f32>,
}

impl Given {
    fn new(n_head: usize, dim: u32, turn: usize, random: &mut Rng) -> Given {
        let numbers = |is: bool, random: &mut Rng| if is { normals(n_head, random) } else { Vec::new() };
        Given {
            scale: 1.0 / (dim as f32).sqrt(),
            softcap: (turn % 3 == 1).then_some(2.5),
            slopes: numbers(turn % 4 == 2, random).iter().map(|x| 0.1 * x).collect(),
            sinks: numbers(turn % 4 == 3, random),
        }
    }

    fn scores(&self, bench: &mut Bench<'_>, window: Option<Window>) -> Result<Scores, Error> {
        let mut put = |x: &Vec<f32>| if x.is_empty() { Ok(Address::NONE) } else { bench.put(x) };
        let (slopes, sinks) = (put(&self.slopes)?, put(&self.sinks)?);
        Ok(Scores { scale: self.scale, softcap: self.softcap, window, slopes, sinks })
    }
}

/// What a result times the sigmoid of a gate may be.
fn gate(want: Want, gate: Option<f32>) -> Want {
    match (want, gate) {
        (Want::Within { exact, bound }, Some(gate)) => {
            let factor = 1.0 / (1.0 + f64::from(-gate).exp());
            Want::Within { exact: exact * factor, bound: (bound + 16.0 * U * exact.abs()) * factor }
        }
        (want, _) => want,
    }
}

/// Queries of some tokens, and gates, which lie behind each of them or by themselves.
struct Asked {
    heads: Heads,
    /// (tokens, heads, dim_k)
    q: Vec<f32>,
    /// (tokens, heads, dim_v); empty: none.
    gates: Vec<f32>,
    on_device: [HeadRows; 2],
    given: Given,
    window: Option<Window>,
    /// The number of all positions, where tokens see those behind them.
    both_ways: Option<u32>,
    what: String,
}

impl Asked {
    fn new(
        bench: &mut Bench<'_>,
        (heads, tokens): (Heads, usize),
        (window, both_ways): (Option<Window>, Option<u32>),
        turn: usize,
        random: &mut Rng,
    ) -> Result<Asked, Error> {
        let n_head = (heads.n_head_kv * heads.group) as usize;
        let (dim_k, dim_v) = (heads.dim_k as usize, heads.dim_v as usize);
        let (behind, alone) = (turn.is_multiple_of(7), turn % 7 == 3);
        let q = normals(tokens * n_head * dim_k, random);
        let gates = if behind || alone { normals(tokens * n_head * dim_v, random) } else { Vec::new() };
        let rows = |at: Address, first: usize, (stride, head_stride): (usize, usize)| HeadRows {
            at: at.offset(4 * first as u64),
            stride: stride as u32,
            head_stride: head_stride as u32,
        };
        // between rows lies what nobody may use
        let laid = |all: &[(&[f32], usize)], gap: usize| {
            let mut to = Vec::new();
            for i in 0..tokens * n_head {
                all.iter().for_each(|(x, dim)| to.extend(&x[i * dim..(i + 1) * dim]));
                to.extend(vec![f32::NAN; if (i + 1) % n_head == 0 { gap } else { 0 }]);
            }
            to
        };
        let on_device = if behind {
            let strides = (n_head * (dim_k + dim_v) + 8, dim_k + dim_v);
            let at = bench.put(&laid(&[(&q, dim_k), (&gates, dim_v)], 8))?;
            [rows(at, 0, strides), rows(at, dim_k, strides)]
        } else {
            let at = bench.put(&laid(&[(&q, dim_k)], 0))?;
            let q = rows(at, 0, (n_head * dim_k, dim_k));
            let gates = match alone {
                true => {
                    let at = bench.put(&laid(&[(&gates, dim_v)], 4))?;
                    rows(at, 0, (n_head * dim_v + 4, dim_v))
                }
                false => HeadRows::default(),
            };
            [q, gates]
        };
        let given = Given::new(n_head, heads.dim_k, turn, random);
        let what = format!(
            "{heads:?}, {tokens} tokens, {window:?}, both ways {both_ways:?}, gates behind {behind}, alone {alone}, \
             softcap {:?}, {} slopes, {} sinks",
            given.softcap,
            given.slopes.len(),
            given.sinks.len()
        );
        Ok(Asked { heads, q, gates, on_device, given, window, both_ways, what })
    }

    /// The positions that a token sees.
    fn seen(&self, position: usize) -> Range<usize> {
        match self.both_ways.map(|all| all as usize) {
            None => self.window.map_or(0, |window| window.start(position))..position + 1,
            Some(all) => {
                let aside = self.window.map_or(all, |window| window.size() / 2);
                position.saturating_sub(aside)..all.min(position + aside + 1)
            }
        }
    }

    /// Compares the results of tokens of these sequences at these positions; scores may be off by `relative`.
    fn compare(
        &self,
        filled: &Filled,
        places: impl Iterator<Item = (usize, usize)>,
        got: &[f32],
        relative: f64,
        cases: &mut Cases,
    ) {
        let Heads { n_head_kv, group, dim_k, dim_v } = self.heads;
        let (n_head, dim_k, dim_v) = ((n_head_kv * group) as usize, dim_k as usize, dim_v as usize);
        let heads = places.flat_map(|place| (0..n_head).map(move |head| (place, head)));
        for (i, ((sequence, position), head)) in heads.enumerate() {
            let q = &self.q[i * dim_k..][..dim_k];
            let want = filled.want(sequence, head, q, self.seen(position), &self.given, relative);
            let gates = self.gates.get(i * dim_v..);
            let want = want.into_iter().enumerate();
            let want = want.map(|(d, want)| gate(want, gates.and_then(|gates| gates.get(d).copied())));
            let what = format!("{}, {:?}, position {position}, head {head}", self.what, filled.cache.types);
            expect_all(&what, &got[i * dim_v..][..dim_v], want, cases);
        }
    }
}

pub(super) fn attend(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(41);
    let mut turn = 0;
    for (dim_k, dim_v) in [(64, 64), (128, 128), (80, 80), (24, 40), (576, 512)] {
        for (n_head_kv, group) in [(2, 1), (2, 3), (1, 8), (1, 9), (1, 16)] {
            for types in TYPES {
                turn += 1;
                // sixteen heads share one key in latent attention alone
                if (dim_k == 576 && group == 9) || (dim_k != 576 && group == 16) {
                    continue;
                }
                let heads = Heads { n_head_kv, group, dim_k, dim_v };
                let window = match turn % 10 {
                    4 => Some(Window::Sliding(40)),
                    9 => Some(Window::Chunk(40)),
                    _ => None,
                };
                let filled = Filled::new(bench, heads, types, &[150, 65], &mut random)?;
                // tokens that see both ways are those of one sequence
                let both_ways = (turn % 6 == 5 && turn % 10 != 9).then_some(150);
                let places = match turn % 2 {
                    _ if both_ways.is_some() => vec![(0, 0), (0, 149), (0, 70)],
                    0 => vec![(1, 0), (0, 149)],
                    _ => vec![(1, 64), (1, 63), (0, 127)],
                };
                let asked = Asked::new(bench, (heads, places.len()), (window, both_ways), turn, &mut random)?;
                attend_case(bench, filled, &asked, &places, [1, 4][turn / 2 % 2], cases)?;
                bench.let_go()?;
            }
        }
    }
    Ok(())
}

fn attend_case(
    bench: &mut Bench<'_>,
    filled: Filled,
    asked: &Asked,
    places: &[(usize, usize)],
    shares: u32,
    cases: &mut Cases,
) -> Result<(), Error> {
    let (heads, tokens) = (filled.heads, places.len() as u32);
    let what = format!("{}, {shares} shares", asked.what);
    let n = places.len() * (heads.n_head_kv * heads.group * heads.dim_v) as usize;
    let y = bench.room(n)?;
    let q8 = if heads.dim_v.is_multiple_of(32) { bench.zeros(n / 32 * Q8_BYTES)? } else { Address::NONE };
    let [sequences, positions]: [Vec<u32>; 2] = [
        places.iter().map(|(sequence, _)| *sequence as u32).collect(),
        places.iter().map(|(_, position)| *position as u32).collect(),
    ];
    let cache =
        Cache { positions: bench.put(&positions)?, sequences: bench.put(&sequences)?, ..filled.cache };
    let [q, gates] = asked.on_device;
    let launch = Attend {
        heads,
        q,
        tokens,
        cache,
        scores: asked.given.scores(bench, asked.window)?,
        gates,
        shares,
        parts: bench.put(&vec![f32::NAN; Attend::parts(&heads, tokens, shares)])?,
        counters: bench.zeros(4 * Attend::counters(&heads, tokens))?,
        y,
        q8,
    };
    match asked.both_ways {
        None => bench.run(launch.launch())?,
        Some(all) => bench.run(launch.launch_both_ways(all))?,
    }
    let got = bench.results(y, n, &what, cases)?;
    // sums of dim_k products, in order
    let relative = (f64::from(heads.dim_k) + 8.0) * U;
    asked.compare(&filled, places.iter().copied(), &got, relative, cases);
    if q8 != Address::NONE {
        expect_q8(&what, &bench.get(q8, n / 32 * Q8_BYTES)?, &got, cases);
    }
    let counters: Vec<u32> = bench.get(launch.counters, Attend::counters(&heads, tokens))?;
    cases.expect(counters.iter().all(|counter| *counter == 0), || format!("{what}: a counter is not 0"));
    Ok(())
}

pub(super) fn flash(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(42);
    let mut turn = 0;
    let batches = [(0, 1, None), (0, 70, None), (100, 65, None), (3, 20, Some(60)), (0, 90, Some(0))];
    let sizes = Flash::DIMS.map(|dim| (dim, dim)).into_iter().chain([(512, 512), (576, 512)]);
    for (dim_k, dim_v) in sizes {
        // large heads take the interpreter long
        let batches = if dim_k > 256 { &[(60, 9, None), (0, 10, Some(30))] } else { &batches[..] };
        for (first, tokens, behind) in batches {
            for limited in [false, true] {
                turn += 1;
                let heads = Heads { n_head_kv: 1 + turn % 2, group: 1 + turn / 2 % 3, dim_k, dim_v };
                let types = TYPES[turn as usize % 4];
                let length = first + tokens + behind.unwrap_or(0);
                let filled = Filled::new(bench, heads, types, &[length, 3], &mut random)?;
                let both_ways = behind.map(|_| length as u32);
                let window = match both_ways {
                    None if turn / 2 % 2 == 0 => Window::Chunk(24),
                    _ => Window::Sliding(17),
                };
                let of_window = (limited.then_some(window), both_ways);
                let asked = Asked::new(bench, (heads, *tokens), of_window, turn as usize, &mut random)?;
                flash_case(bench, filled, &asked, *first..first + tokens, cases)?;
                bench.let_go()?;
            }
        }
    }
    Ok(())
}

fn flash_case(
    bench: &mut Bench<'_>,
    filled: Filled,
    asked: &Asked,
    positions: Range<usize>,
    cases: &mut Cases,
) -> Result<(), Error> {
    let heads = filled.heads;
    let what = format!("{}, from {}", asked.what, positions.start);
    let n = positions.len() * (heads.n_head_kv * heads.group * heads.dim_v) as usize;
    let (y, bf) = (bench.room(n)?, bench.zeros(2 * n)?);
    let [first, sequence] = [bench.put(&[positions.start as u32])?, bench.put(&[0_u32])?];
    let [q, gates] = asked.on_device;
    let launch = Flash {
        heads,
        q,
        tokens: positions.len() as u32,
        cache: Cache { positions: first, sequences: sequence, ..filled.cache },
        scores: asked.given.scores(bench, asked.window)?,
        both_ways: asked.both_ways,
        gates,
        y,
        bf16: bf,
    };
    bench.run(launch.launch())?;
    let got = bench.results(y, n, &what, cases)?;
    // queries, weights and values are rounded to 11 bits
    let relative = 2f64.powi(-11) + f64::from(heads.dim_k) * U;
    asked.compare(&filled, positions.map(|position| (0, position)), &got, relative, cases);
    let halves: Vec<u16> = bench.get(bf, n)?;
    let rounded = got.iter().map(|x| bf16::from_f32(*x).to_bits());
    cases.expect(halves.iter().copied().eq(rounded), || format!("{what}: other bf16"));
    Ok(())
}

/// The values of a row of the cache, and the step in which each is counted.
pub(super) fn decode(ty: KvType, bytes: &[u8], dim: usize) -> (Vec<f32>, Vec<f32>) {
    let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    match ty {
        KvType::F16 => ((0..dim).map(|i| half(2 * i)).collect(), vec![0.0; dim]),
        KvType::Q8_0 => {
            let steps: Vec<f32> = (0..dim).map(|i| half(dim + i / 32 * 2)).collect();
            // a scale is itself rounded, so that 127 steps are off by a little
            let values = steps.iter().zip(bytes).map(|(step, code)| step * f32::from(*code as i8)).collect();
            (values, steps)
        }
    }
}
