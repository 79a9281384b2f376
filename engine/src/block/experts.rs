//! Mixtures of experts: which feed-forward networks a token takes, and with which weights.

use super::Dense;

/// A mixture of feed-forward networks (Shazeer et al. 2017, arXiv 1701.06538).
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub n_expert: usize,
    /// How many a token takes.
    pub n_used: usize,
    /// Each of them.
    pub expert: Dense,
    /// How scores become weights.
    pub routing: Routing,
    /// Whether the router reads what the layer reads, as it is, before other tokens are looked at.
    pub routes_first: bool,
    /// Added to the mean square of what the router reads, if that is normalized for it alone.
    pub router_norm: Option<f32>,
    /// Experts are chosen from the best groups alone, if there are groups.
    pub groups: Option<Groups>,
    /// Whether the weights of the chosen ones are divided by their sum.
    pub normalize: bool,
    /// Factor of the weights.
    pub scale: f32,
    /// Whether the weights are those of what the experts read, and not of what they give (Llama 4).
    pub weigh_inputs: bool,
    /// Size of what the experts read and give, if that is not what the layer reads and gives: one matrix for all of them
    /// leads there, and one back (Nemotron 3).
    pub latent: Option<usize>,
    /// One that every token takes besides, and whether its result is multiplied with the sigmoid of a score.
    pub shared: Option<(Dense, bool)>,
}

/// How the router's scores become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// The softmax of all scores.
    Softmax,
    /// The sigmoid of each.
    Sigmoid,
    /// The softmax of the scores of those that were chosen.
    SoftmaxOfChosen,
}

/// Groups of neighbouring experts (DeepSeek-V3, arXiv 2412.19437).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// How many there are, a divisor of the number of experts.
    pub n: usize,
    /// How many may be chosen from.
    pub used: usize,
}

impl Experts {
    /// Chooses a token's experts from the router's `scores`: appends their numbers, ascending, and their weights to
    /// `chosen`. `bias`, if not empty, is added to the weights for the choice alone.
    pub fn choose(&self, scores: &[f32], bias: &[f32], weights: &mut Vec<f32>, chosen: &mut Vec<(u32, f32)>) {
        self.weigh(scores, weights);
        let rank = |i: usize| weights[i] + bias.get(i).copied().unwrap_or(0.0);
        let start = chosen.len();
        match self.groups {
            None => take_best(self.n_used, 0..self.n_expert, rank, chosen),
            Some(groups) => {
                let size = self.n_expert / groups.n;
                let best_two = |group: usize| {
                    let (first, second) = (group * size..(group + 1) * size).map(rank).fold(
                        (f32::NEG_INFINITY, f32::NEG_INFINITY),
                        |(first, second), rank| match rank > first {
                            true => (rank, first),
                            false => (first, if rank > second { rank } else { second }),
                        },
                    );
                    if size == 1 { first } else { first + second }
                };
                take_best(groups.used, 0..groups.n, best_two, chosen);
                let open = chosen.drain(start..).fold(0_u128, |open, (group, _)| open | 1 << group);
                let is_open = |i: &usize| open >> (i / size) & 1 == 1;
                take_best(self.n_used, (0..self.n_expert).filter(is_open), rank, chosen);
            }
        }
        chosen[start..].iter_mut().for_each(|(expert, weight)| *weight = weights[*expert as usize]);
        let chosen = &mut chosen[start..];
        if self.routing == Routing::SoftmaxOfChosen {
            let max = chosen.iter().fold(f32::NEG_INFINITY, |max, (_, w)| max.max(*w));
            chosen.iter_mut().for_each(|(_, w)| *w = (*w - max).exp());
        }
        if self.normalize || self.routing == Routing::SoftmaxOfChosen {
            // as small as half precision can be: a sum of 0 is none to divide by
            let sum = chosen.iter().map(|(_, w)| w).sum::<f32>().max(6.103_515_6e-5);
            chosen.iter_mut().for_each(|(_, w)| *w /= sum);
        }
        chosen.iter_mut().for_each(|(_, w)| *w *= self.scale);
        chosen.sort_unstable_by_key(|(expert, _)| *expert);
    }

    fn weigh(&self, scores: &[f32], weights: &mut Vec<f32>) {
        weights.clear();
        match self.routing {
            Routing::SoftmaxOfChosen => weights.extend(scores),
            Routing::Sigmoid => weights.extend(scores.iter().map(|s| 1.0 / (1.0 + (-s).exp()))),
            Routing::Softmax => {
                let max = scores.iter().fold(f32::NEG_INFINITY, |max, s| max.max(*s));
                weights.extend(scores.iter().map(|s| (s - max).exp()));
                let sum: f32 = weights.iter().sum();
                weights.iter_mut().for_each(|w| *w /= sum);
            }
        }
    }
}

/// Appends the `n` candidates of the highest rank to `best` with their ranks, the best first, of equal ones the first.
/// Whatever the ranks are, NaN included, they are `n` different ones, if there are as many. One pass: prompts choose
/// among hundreds of experts for each token and layer.
fn take_best(
    n: usize,
    candidates: impl Iterator<Item = usize>,
    rank: impl Fn(usize) -> f32,
    best: &mut Vec<(u32, f32)>,
) {
    let start = best.len();
    for i in candidates {
        let rank = Some(rank(i)).filter(|rank| !rank.is_nan()).unwrap_or(f32::NEG_INFINITY);
        if best.len() - start == n {
            match best[start..].last() {
                Some((_, worst)) if rank > *worst => best.pop(),
                _ => continue,
            };
        }
        let at = best[start..].partition_point(|(_, other)| *other >= rank);
        best.insert(start + at, (i as u32, rank));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Activation;

    fn experts(n_expert: usize, n_used: usize, routing: Routing) -> Experts {
        Experts {
            n_expert,
            n_used,
            expert: Dense { n_ff: 1, activation: Activation::Silu, gated: true, divided: false },
            routing,
            routes_first: false,
            router_norm: None,
            groups: None,
            normalize: false,
            scale: 1.0,
            weigh_inputs: false,
            latent: None,
            shared: None,
        }
    }

    fn choose(experts: &Experts, scores: &[f32], bias: &[f32]) -> Vec<(u32, f32)> {
        let mut chosen = Vec::new();
        experts.choose(scores, bias, &mut Vec::new(), &mut chosen);
        chosen.into_iter().map(|(expert, weight)| (expert, (weight * 1e4).round() / 1e4)).collect()
    }

    #[test]
    fn weights_are_those_of_the_routing() {
        let scores = [0.0, 2f32.ln(), 4f32.ln(), 0.0];
        let of = |routing| choose(&experts(4, 2, routing), &scores, &[]);
        assert_eq!(of(Routing::Softmax), [(1, 0.25), (2, 0.5)]);
        assert_eq!(of(Routing::Sigmoid), [(1, 0.6667), (2, 0.8)]);
        assert_eq!(of(Routing::SoftmaxOfChosen), [(1, 0.3333), (2, 0.6667)]);
        let normalized = Experts { normalize: true, scale: 3.0, ..experts(4, 2, Routing::Softmax) };
        assert_eq!(choose(&normalized, &scores, &[]), [(1, 1.0), (2, 2.0)]);
    }

    #[test]
    fn a_bias_changes_the_choice_and_not_the_weights() {
        let scores = [0.0, 2f32.ln(), 4f32.ln(), 0.0];
        let bias = [0.0, 0.0, 0.0, 1.0];
        assert_eq!(choose(&experts(4, 2, Routing::Softmax), &scores, &bias), [(2, 0.5), (3, 0.125)]);
    }

    #[test]
    fn closed_groups_are_not_chosen_from() {
        // sums of the best two: 3.0, 1.5, 2.5; expert 2 is better than 5, but alone in its group
        let scores = [2.0, 1.0, 1.5, -9.0, 1.3, 1.2];
        let routing = Routing::SoftmaxOfChosen;
        let grouped = Experts { groups: Some(Groups { n: 3, used: 2 }), ..experts(6, 3, routing) };
        let numbers =
            |chosen: Vec<(u32, f32)>| chosen.into_iter().map(|(expert, _)| expert).collect::<Vec<_>>();
        assert_eq!(numbers(choose(&grouped, &scores, &[])), [0, 4, 5]);
        assert_eq!(numbers(choose(&experts(6, 3, routing), &scores, &[])), [0, 2, 4]);
    }

    #[test]
    fn the_best_are_those_of_a_sorted_list() {
        let mut random = fastrand::Rng::with_seed(1);
        for n_expert in [1, 2, 7, 64, 300] {
            for n_used in [1, 2, 5, 64].into_iter().filter(|n| *n <= n_expert) {
                // few different scores, so that many are equal
                let scores: Vec<f32> = (0..n_expert).map(|_| random.i32(-9..9) as f32 / 8.0).collect();
                let mut sorted: Vec<usize> = (0..n_expert).collect();
                sorted.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                sorted.truncate(n_used);
                sorted.sort_unstable();
                let chosen = choose(&experts(n_expert, n_used, Routing::Sigmoid), &scores, &[]);
                let numbers: Vec<usize> = chosen.into_iter().map(|(expert, _)| expert as usize).collect();
                assert_eq!(numbers, sorted, "{n_used} of {n_expert}");
            }
        }
    }

    #[test]
    fn scores_that_are_no_numbers_choose_different_experts_all_the_same() {
        for scores in [[f32::NAN; 4], [f32::INFINITY; 4], [1.0, f32::NAN, f32::NEG_INFINITY, 1.0]] {
            for routing in [Routing::Softmax, Routing::Sigmoid, Routing::SoftmaxOfChosen] {
                let mut chosen = Vec::new();
                experts(4, 3, routing).choose(&scores, &[], &mut Vec::new(), &mut chosen);
                assert!(chosen.len() == 3 && chosen.is_sorted_by(|a, b| a.0 < b.0), "{chosen:?}");
            }
        }
    }
}
