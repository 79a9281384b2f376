//! The llama family, computed the slow way: in f64, one token after the other, from the papers, with nothing of the
//! engine but its file reader and the scalar dequantization. What the engine computes is compared with this.

use std::collections::HashMap;
use std::f64::consts::PI;

use braise_engine::gguf::Gguf;

/// A model with all its weights in memory, and the keys and values of the tokens so far.
#[derive(Debug)]
pub struct Reference {
    weights: HashMap<String, Vec<f64>>,
    n_layer: usize,
    n_embd: usize,
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    head_dim_v: usize,
    eps: f64,
    /// Radians a token, one for each pair of values that is rotated.
    angles: Vec<f64>,
    /// Factor of cosines and sines.
    magnitude: f64,
    /// Of each layer and token: all keys, all values.
    cache: Vec<Vec<(Vec<f64>, Vec<f64>)>>,
}

impl Reference {
    /// Reads a file of the family.
    ///
    /// # Panics
    /// If it holds no complete model.
    pub fn new(gguf: &Gguf) -> Reference {
        let meta = gguf.metadata();
        let key = |key: &str| format!("llama.{key}");
        let int = |name: &str| meta.u32(&key(name)).expect("an integer").map(|n| n as usize);
        let need = |name: &str| int(name).unwrap_or_else(|| panic!("`{name}` is missing"));
        let (n_embd, n_head) = (need("embedding_length"), need("attention.head_count"));
        let head_dim = int("attention.key_length").unwrap_or(n_embd / n_head);
        let n_layer = need("block_count");
        let mut reference = Reference {
            weights: gguf.tensors().iter().map(|t| (t.name.clone(), dequantized(gguf, &t.name))).collect(),
            n_layer,
            n_embd,
            n_head,
            n_head_kv: int("attention.head_count_kv").unwrap_or(n_head),
            head_dim,
            head_dim_v: int("attention.value_length").unwrap_or(head_dim),
            eps: meta.require_f32(&key("attention.layer_norm_rms_epsilon")).expect("an epsilon").into(),
            angles: Vec::new(),
            magnitude: 1.0,
            cache: vec![Vec::new(); n_layer],
        };
        reference.set_rotation(gguf);
        reference
    }

    /// Rotary embedding (Su et al. 2021, arXiv 2104.09864); linear scaling (Chen et al. 2023, arXiv 2306.15595); YaRN
    /// (Peng et al. 2023, arXiv 2309.00071) with its ramp over whole dimensions, as its authors published it.
    fn set_rotation(&mut self, gguf: &Gguf) {
        let meta = gguf.metadata();
        let float = |name: &str| meta.f32(&format!("llama.rope.{name}")).expect("a number").map(f64::from);
        let int = |name: &str| meta.u32(&format!("llama.{name}")).expect("an integer").map(f64::from);
        let dim = int("rope.dimension_count").unwrap_or(self.head_dim as f64);
        let base = float("freq_base").unwrap_or(10_000.0);
        let factors = self.weights.get("rope_freqs.weight");
        let pairs = 0..dim as usize / 2;
        let plain = pairs.map(|i| base.powf(-2.0 * i as f64 / dim) / factors.map_or(1.0, |f| f[i]));
        let scale = float("scaling.factor").unwrap_or(1.0);
        if meta.str("llama.rope.scaling.type").expect("a string") != Some("yarn") {
            self.angles = plain.map(|angle| angle / scale).collect();
            return;
        }
        let trained = int("rope.scaling.original_context_length").expect("the context before scaling");
        let dimension = |turns: f64| dim * (trained / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
        let low = dimension(float("scaling.yarn_beta_fast").unwrap_or(32.0)).floor().max(0.0);
        let high = dimension(float("scaling.yarn_beta_slow").unwrap_or(1.0)).ceil().min(dim - 1.0);
        let interpolated = |(i, angle): (usize, f64)| {
            let share = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            angle / scale * share + angle * (1.0 - share)
        };
        self.angles = plain.enumerate().map(interpolated).collect();
        self.magnitude = 0.1 * scale.ln() + 1.0;
    }

    /// Reads one more token; the logits of the next.
    pub fn push(&mut self, token: u32) -> Vec<f64> {
        let mut x =
            self.weights["token_embd.weight"].chunks(self.n_embd).nth(token as usize).unwrap().to_vec();
        for layer in 0..self.n_layer {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let n = self.norm(&x, &name("attn_norm.weight"));
            let mut q = self.linear(&n, &name("attn_q"));
            let mut k = self.linear(&n, &name("attn_k"));
            let v = self.linear(&n, &name("attn_v"));
            let position = self.cache[layer].len();
            self.rotate(&mut q, position);
            self.rotate(&mut k, position);
            self.cache[layer].push((k, v));
            add(&mut x, &self.linear(&self.attention(layer, &q), &name("attn_output")));

            let n = self.norm(&x, &name("ffn_norm.weight"));
            let (gate, up) = (self.linear(&n, &name("ffn_gate")), self.linear(&n, &name("ffn_up")));
            let h: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(&mut x, &self.linear(&h, &name("ffn_down")));
        }
        let n = self.norm(&x, "output_norm.weight");
        let tied = !self.weights.contains_key("output.weight");
        self.linear(&n, if tied { "token_embd" } else { "output" })
    }

    /// Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) of one token over all up to it.
    fn attention(&self, layer: usize, q: &[f64]) -> Vec<f64> {
        let group = self.n_head / self.n_head_kv;
        let heads = q.chunks(self.head_dim).enumerate();
        let one = |(head, q): (usize, &[f64])| {
            let (at, at_v) = (head / group * self.head_dim, head / group * self.head_dim_v);
            let score = |k: &Vec<f64>| dot(q, &k[at..at + self.head_dim]) / (self.head_dim as f64).sqrt();
            let scores: Vec<f64> = self.cache[layer].iter().map(|(k, _)| score(k)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let values = self.cache[layer].iter().map(|(_, v)| &v[at_v..at_v + self.head_dim_v]);
            values.zip(&weights).fold(vec![0.0; self.head_dim_v], |mut out, (v, weight)| {
                out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / sum * v);
                out
            })
        };
        heads.flat_map(one).collect()
    }

    /// Rotates neighbouring values of each head.
    fn rotate(&self, heads: &mut [f64], position: usize) {
        for head in heads.chunks_mut(self.head_dim) {
            for (pair, angle) in head.chunks_exact_mut(2).zip(&self.angles) {
                let (sin, cos) = (angle * position as f64).sin_cos();
                let (a, b) = (pair[0], pair[1]);
                pair[0] = (a * cos - b * sin) * self.magnitude;
                pair[1] = (a * sin + b * cos) * self.magnitude;
            }
        }
    }

    /// Root mean square normalization (Zhang and Sennrich 2019, arXiv 1910.07467).
    fn norm(&self, x: &[f64], weight: &str) -> Vec<f64> {
        let root = (dot(x, x) / x.len() as f64 + self.eps).sqrt();
        x.iter().zip(&self.weights[weight]).map(|(x, w)| x / root * w).collect()
    }

    /// `scale * weight x + bias`, or `scale * (weight x + bias)` in the feed-forward network, as llama.cpp has it;
    /// scale and bias are optional.
    fn linear(&self, x: &[f64], name: &str) -> Vec<f64> {
        let optional = |part: &str| self.weights.get(&format!("{name}.{part}"));
        let scale = optional("scale").map_or(1.0, |scale| scale[0]);
        let mut y: Vec<f64> =
            self.weights[&format!("{name}.weight")].chunks(x.len()).map(|row| scale * dot(row, x)).collect();
        if let Some(bias) = optional("bias") {
            let scale = if name.contains("ffn_") { scale } else { 1.0 };
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += scale * b);
        }
        y
    }
}

/// A tensor's weights.
fn dequantized(gguf: &Gguf, name: &str) -> Vec<f64> {
    let tensor = gguf.require(name).expect("it is in the index");
    let scalar = tensor.ty.scalar().expect("a type that can be computed with");
    let mut weights = vec![0.0; tensor.row_len() * tensor.rows()];
    (scalar.dequantize)(gguf.data(tensor), &mut weights);
    weights.into_iter().map(f64::from).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    assert_eq!(x.len(), y.len());
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
