//! What a test must at least do: bytes to read and operations to compute, and how long that takes at the peaks. The
//! formulas are in the documentation of the [module](super).

use std::iter::Sum;

use super::{Pass, Peaks, Test};
use crate::backend::cpu::PRIVATE_ROWS;
use crate::kv::KvTypes;
use crate::model::{Model, Weight};
use crate::parts::{Location, Part};
use crate::session::default_chunk;
use braise_kernels::ops::Numbers;

/// What a forward pass must at least read and compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of weights, keys, values and states.
    pub bytes: u64,
    /// Operations on int8 numbers, two for each multiply-add.
    pub int8_ops: u64,
    /// Operations on f32 numbers.
    pub f32_ops: u64,
}

impl Cost {
    /// Of a pass, with a cache of the formats `kv`: weights are read once for all sequences.
    pub fn of_pass(model: &Model, kv: KvTypes, pass: Pass) -> Cost {
        Cost::of_parts(model, kv, pass, |_| true)
    }

    /// Of what one of the model's devices does of it.
    pub fn on(model: &Model, kv: KvTypes, pass: Pass, device: Location) -> Cost {
        Cost::of_parts(model, kv, pass, |part| model.location(part) == device)
    }

    fn of_parts(model: &Model, kv: KvTypes, pass: Pass, has: impl Fn(Part) -> bool) -> Cost {
        let [n_seq, first, of_each, n_logits] =
            [pass.n_seq, pass.first, pass.n, pass.n_logits].map(|n| n as u64);
        let (n, n_logits) = (n_seq * of_each, n_seq * n_logits);
        let mut cost = Cost::default();
        for (i, layer) in model.layers.iter().enumerate() {
            let mut read = Vec::new();
            let matrices = match (has(Part::Mixer(i)), has(Part::Mlp(i))) {
                (true, true) => layer.matrices(),
                (true, false) => layer.mixer.matrices().into_iter().map(|weight| (weight, 1.0)).collect(),
                (false, true) => layer.behind_mixer(),
                (false, false) => Vec::new(),
            };
            for (weight, share) in matrices {
                cost.add_ops(weight, share, n);
                // one matrix may serve twice, as that of keys does for values
                let begin = model.data(weight).as_ptr();
                if !read.contains(&begin) {
                    cost.add_bytes(weight, share, n);
                    read.push(begin);
                }
            }
        }
        if let Some(inputs) = model.layer_inputs.as_ref().filter(|_| has(Part::Input)) {
            cost.add_ops(&inputs.projection, 1.0, n);
            cost.add_bytes(&inputs.projection, 1.0, n);
            cost.bytes += n * inputs.table.row_bytes() as u64;
        }
        if n_logits > 0 && has(Part::Output) {
            cost.add_ops(model.output(), 1.0, n_logits);
            cost.add_bytes(model.output(), 1.0, n_logits);
        }
        let reads_all = std::ptr::eq(model.output(), &model.token_embd) && has(Part::Output);
        if has(Part::Input) && !reads_all {
            cost.bytes += n * model.token_embd.row_bytes() as u64;
        }
        let layers = model.spec().layers.iter().zip(&model.layers).enumerate();
        for (i, (layer, weights)) in layers.filter(|(i, _)| has(Part::Mixer(*i))) {
            let states = layer.mixer.states().into_iter().map(|(rows, row_len)| rows * row_len);
            cost.bytes += n_seq * (states.sum::<usize>() * size_of::<f32>()) as u64;
            let (Some(attention), Some(scores)) = (layer.mixer.attention(), weights.scores()) else {
                continue;
            };
            let (seen, looks) = attention.looks(first, of_each);
            let a = &attention.heads;
            let dims = (a.head_dim + a.head_dim_v) as u64;
            cost.bytes += kv.bytes(a).map_or(u64::MAX, |n| n as u64).saturating_mul(n_seq * seen);
            let ops = 2 * a.n_head as u64 * dims * n_seq * looks;
            match model.kernels().attends_in() {
                _ if scores.exact || model.location(Part::Mixer(i)) != Location::Cpu => cost.f32_ops += ops,
                Numbers::Tiles if of_each > PRIVATE_ROWS as u64 => cost.int8_ops += ops,
                // those of 16 bits take twice the time
                Numbers::Integers if of_each > PRIVATE_ROWS as u64 => cost.int8_ops += 2 * ops,
                _ => cost.f32_ops += ops,
            }
        }
        cost
    }

    /// Adds the product of a matrix and `n` columns, each of which takes a `share` of its rows.
    fn add_ops(&mut self, weight: &Weight, share: f64, n: u64) {
        // the kernels of many floats in tiles have the peak of those of integers
        let is_fast = weight.matmul.takes_q8() || weight.matmul.packing().is_some();
        let kind = if is_fast { &mut self.int8_ops } else { &mut self.f32_ops };
        *kind += 2 * (weight.rows() as f64 * share) as u64 * weight.cols() as u64 * n;
    }

    /// Adds what that reads: all columns together no more than the whole.
    fn add_bytes(&mut self, weight: &Weight, share: f64, n: u64) {
        let rows = weight.rows() as f64 * (share * n as f64).min(1.0);
        self.bytes += rows as u64 * weight.row_bytes() as u64;
    }
}

/// The least time that a test can take, and what of it is memory's and what arithmetic's.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limit {
    /// Seconds: the sum over all passes of the longer of the two times.
    pub seconds: f64,
    /// Seconds of reading alone.
    pub memory: f64,
    /// Seconds of computing alone.
    pub arithmetic: f64,
    /// All bytes.
    pub bytes: u64,
    /// All operations.
    pub ops: u64,
}

impl Limit {
    /// Of one repetition of `test`, where the machine can do `peaks`.
    pub fn of(model: &Model, kv: KvTypes, test: &Test, peaks: &Peaks) -> Limit {
        Limit::of_passes(model, test, peaks, |pass| Cost::of_pass(model, kv, pass))
    }

    /// Of what one of the model's devices does of it, which can do `peaks`: devices wait for each other, so that the limit of
    /// all is the sum.
    pub fn on(model: &Model, kv: KvTypes, test: &Test, device: Location, peaks: &Peaks) -> Limit {
        Limit::of_passes(model, test, peaks, |pass| Cost::on(model, kv, pass, device))
    }

    fn of_passes(model: &Model, test: &Test, peaks: &Peaks, cost: impl Fn(Pass) -> Cost) -> Limit {
        let mut limit = Limit::default();
        test.passes(default_chunk(model.spec())).for_each(|pass| limit.add(cost(pass), peaks));
        limit
    }

    /// Adds a pass.
    fn add(&mut self, cost: Cost, peaks: &Peaks) {
        let memory = cost.bytes as f64 / peaks.read;
        let arithmetic = cost.int8_ops as f64 / peaks.int8 + cost.f32_ops as f64 / peaks.f32;
        self.seconds += memory.max(arithmetic);
        self.memory += memory;
        self.arithmetic += arithmetic;
        self.bytes += cost.bytes;
        self.ops += cost.int8_ops + cost.f32_ops;
    }
}

impl Sum for Limit {
    fn sum<I: Iterator<Item = Limit>>(limits: I) -> Limit {
        limits.fold(Limit::default(), |sum, limit| Limit {
            seconds: sum.seconds + limit.seconds,
            memory: sum.memory + limit.memory,
            arithmetic: sum.arithmetic + limit.arithmetic,
            bytes: sum.bytes + limit.bytes,
            ops: sum.ops + limit.ops,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Mix, Shape, synthetic};
    use braise_kernels::isa::Isa;

    fn model(mix: &str, tied: bool) -> Model {
        let gguf = synthetic("test", &Shape { tied, ..Shape::TINY }, Mix::by_name(mix).expect("is known"));
        Model::new(gguf.expect("is made"), Isa::best()).expect("is a model")
    }

    fn pass(first: usize, n: usize, n_logits: usize) -> Pass {
        Pass { n_seq: 1, first, n, n_logits }
    }

    // Shape::TINY: 2 layers, dim 256, ffn 512, 4 heads, 2 kv_heads, head_dim 64, vocab 320
    const LAYER: u64 = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512;
    const TABLE: u64 = 320 * 256;
    const KV: u64 = 2 * 2 * 128 * 2;

    #[test]
    fn a_token_reads_all_weights_once_and_the_cache() {
        let bytes = |n: u64| n / 32 * 34; // Q8_0
        let cost = Cost::of_pass(&model("Q8_0", true), KvTypes::default(), pass(9, 1, 1));
        assert_eq!(cost.bytes, bytes(2 * LAYER + TABLE) + KV * 10);
        assert_eq!(cost.int8_ops, 2 * (2 * LAYER + TABLE));
        assert_eq!(cost.f32_ops, 2 * 2 * 4 * 128 * 10);
        let untied = Cost::of_pass(&model("Q8_0", false), KvTypes::default(), pass(9, 1, 1));
        assert_eq!(untied.bytes, cost.bytes + bytes(256), "one row of the embedding table more");
        assert_eq!(untied.int8_ops, cost.int8_ops);
    }

    #[test]
    fn a_prompt_reads_weights_once_and_multiplies_each_token() {
        let cost = Cost::of_pass(&model("Q8_0", true), KvTypes::default(), pass(5, 3, 0));
        assert_eq!(cost.bytes, 2 * LAYER / 32 * 34 + KV * 8);
        assert_eq!(cost.int8_ops, 2 * 3 * 2 * LAYER);
        assert_eq!(cost.f32_ops, 2 * 2 * 4 * 128 * (6 + 7 + 8));
    }

    /// Parts are computed somewhere, each once.
    #[test]
    fn the_costs_of_parts_are_that_of_the_whole() {
        for tied in [false, true] {
            let (model, kv) = (model("Q8_0", tied), KvTypes::default());
            let whole = Cost::of_pass(&model, kv, pass(9, 3, 1));
            let here = |part: Part| [Part::Input, Part::Mixer(1), Part::Output].contains(&part);
            let some = Cost::of_parts(&model, kv, pass(9, 3, 1), here);
            let others = Cost::of_parts(&model, kv, pass(9, 3, 1), |part| !here(part));
            assert!(some.bytes > 0 && others.bytes > 0);
            assert_eq!(some.bytes + others.bytes, whole.bytes);
            assert_eq!(some.int8_ops + others.int8_ops, whole.int8_ops);
            assert_eq!(some.f32_ops + others.f32_ops, whole.f32_ops);
            assert_eq!(Cost::on(&model, kv, pass(9, 3, 1), Location::Cpu), whole);
            assert_eq!(Cost::on(&model, kv, pass(9, 3, 1), Location::Gpu(0)), Cost::default());
        }
    }

    #[test]
    fn sequences_share_the_weights_and_nothing_else() {
        let model = model("Q8_0", true);
        let one = Cost::of_pass(&model, KvTypes::default(), pass(9, 1, 1));
        let five = Cost::of_pass(&model, KvTypes::default(), Pass { n_seq: 5, ..pass(9, 1, 1) });
        assert_eq!(five.bytes, one.bytes + 4 * KV * 10);
        assert_eq!((five.int8_ops, five.f32_ops), (5 * one.int8_ops, 5 * one.f32_ops));
    }

    #[test]
    fn attention_of_a_prompt_counts_by_the_rate_of_its_numbers() {
        let model = model("Q8_0", true);
        let cost = Cost::of_pass(&model, KvTypes::default(), pass(0, 16, 0));
        let (matrices, attention) = (2 * 16 * 2 * LAYER, 2 * 2 * 4 * 128 * 136);
        let want = match model.kernels().attends_in() {
            Numbers::Floats => (matrices, attention),
            Numbers::Integers => (matrices + 2 * attention, 0),
            Numbers::Tiles => (matrices + attention, 0),
        };
        assert_eq!((cost.int8_ops, cost.f32_ops), want);
    }

    #[test]
    fn a_smaller_cache_is_fewer_bytes() {
        use braise_kernels::ops::KvType::{F16, Q8_0};
        let model = model("Q8_0", true);
        let bytes = |k, v| Cost::of_pass(&model, KvTypes { k, v }, pass(99, 1, 0)).bytes;
        // a head of 64 values in q8_0: 64 codes and two scales
        let saved = 2 * 2 * (128 - 68) * 100;
        assert_eq!(bytes(F16, F16) - bytes(Q8_0, F16), saved);
        assert_eq!(bytes(F16, F16) - bytes(Q8_0, Q8_0), 2 * saved);
    }

    #[test]
    fn float_weights_are_float_operations() {
        let cost = Cost::of_pass(&model("F16", true), KvTypes::default(), pass(0, 1, 0));
        assert_eq!((cost.int8_ops, cost.bytes), (0, 2 * LAYER * 2 + KV));
        assert_eq!(cost.f32_ops, 2 * 2 * LAYER + 2 * 2 * 4 * 128);
    }

    #[test]
    fn the_longer_of_both_times_counts_in_each_pass() {
        let peaks = Peaks { read: 10.0, int8: 100.0, f32: 50.0 };
        let mut limit = Limit::default();
        limit.add(Cost { bytes: 20, int8_ops: 100, f32_ops: 25 }, &peaks); // 2 s, 1.5 s
        limit.add(Cost { bytes: 10, int8_ops: 300, f32_ops: 0 }, &peaks); // 1 s, 3 s
        let expected = Limit { seconds: 5.0, memory: 3.0, arithmetic: 4.5, bytes: 30, ops: 425 };
        assert_eq!(limit, expected);
    }

    #[test]
    fn a_slower_memory_limits_generation_and_a_slower_processor_prompts() {
        let model = model("Q8_0", true);
        let limit = |test, read, int8| {
            Limit::of(&model, KvTypes::default(), &test, &Peaks { read, int8, f32: 1e12 }).seconds
        };
        let tg = Test { n_prompt: 0, n_gen: 4, n_depth: 0, n_parallel: 1 };
        let pp = Test { n_prompt: 64, n_gen: 0, n_depth: 0, n_parallel: 1 };
        assert!((limit(tg, 1e9, 1e12) / limit(tg, 2e9, 1e12) - 2.0).abs() < 1e-9);
        assert!((limit(pp, 1e12, 1e9) / limit(pp, 1e12, 2e9) - 2.0).abs() < 1e-3);
    }
}
