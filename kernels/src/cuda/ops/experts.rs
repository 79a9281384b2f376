//! Mixtures of experts.

use super::check;
use crate::cuda::{Address, Arg, Error, Launch};

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choose {
    /// The softmax of all scores.
    Softmax,
    /// The sigmoid of each.
    Sigmoid,
    /// The softmax of the scores of those that were chosen.
    SoftmaxOfChosen,
}

/// Which experts each token takes, and with which weights.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// f32 (tokens, stride).
    pub scores: Address,
    /// Distance of tokens.
    pub stride: u32,
    /// How many tokens.
    pub tokens: u32,
    /// Experts.
    pub n: u32,
    /// How many a token takes.
    pub used: u32,
    /// How scores become weights.
    pub by: Choose,
    /// f32 (n) that is added to the weights for the choice alone, optional.
    pub bias: Address,
    /// How many groups there are, a divisor of n, and how many may be chosen from.
    pub groups: Option<(u32, u32)>,
    /// Whether weights are divided by their sum.
    pub normalize: bool,
    /// Factor of the weights.
    pub scale: f32,
    /// u32 (tokens, used), ascending.
    pub chosen: Address,
    /// f32 (tokens, used).
    pub weights: Address,
}

impl Route {
    /// Its launch.
    ///
    /// # Errors
    /// Numbers that do not fit each other.
    pub fn launch(&self) -> Result<Launch, Error> {
        let Route { n, used, .. } = *self;
        let (groups, open) = self.groups.unwrap_or((0, 0));
        let candidates = n.checked_div(groups).map_or(n, |size| size * open);
        check(n <= 2048 && (1..=candidates).contains(&used), || format!("{used} of {candidates} experts"))?;
        check(groups == 0 || (n.is_multiple_of(groups) && (1..=groups).contains(&open)), || {
            format!("{open} of {groups} groups of {n} experts")
        })?;
        let args = [
            self.scores.into(),
            self.stride.into(),
            n.into(),
            used.into(),
            Arg::U32(self.by as u32),
            self.bias.into(),
            groups.into(),
            open.into(),
            u32::from(self.normalize).into(),
            self.scale.into(),
            self.chosen.into(),
            self.weights.into(),
        ];
        Launch::new("route", [self.tokens, 1, 1], 32, 12 * n + 8 * groups, &args)
    }
}

/// The places of each expert among those chosen, in order.
#[derive(Debug, Clone, Copy)]
pub struct OrderByExpert {
    /// u32 (n).
    pub chosen: Address,
    /// How many.
    pub n: u32,
    /// Experts.
    pub experts: u32,
    /// u32 (n).
    pub order: Address,
    /// u32 (experts + 1): where those of each begin in `order`.
    pub starts: Address,
}

impl OrderByExpert {
    /// Its launch.
    ///
    /// # Errors
    /// No experts.
    pub fn launch(&self) -> Result<Launch, Error> {
        let args = [self.chosen.into(), self.n.into(), self.order.into(), self.starts.into()];
        Launch::new("order_by_expert", [self.experts, 1, 1], 32, 0, &args)
    }
}

/// The weighted sum of what its experts give a token, and of what the expert gives that all take.
#[derive(Debug, Clone, Copy)]
pub struct SumExperts {
    /// f32 (tokens, used, n).
    pub results: Address,
    /// f32 (tokens, used), optional.
    pub weights: Address,
    /// Experts of a token.
    pub used: u32,
    /// f32 (tokens, n): of the expert that all take, optional.
    pub shared: Address,
    /// f32 (tokens, gate_stride): it is multiplied with the sigmoid of the first; optional.
    pub gates: Address,
    /// Distance of tokens.
    pub gate_stride: u32,
    /// How many tokens.
    pub tokens: u32,
    /// Values of a token.
    pub n: u32,
    /// Factor of the sum.
    pub factor: f32,
    /// Whether x gains it, or becomes it.
    pub add: bool,
    /// f32 (tokens, n).
    pub x: Address,
}

impl SumExperts {
    /// Its launch.
    ///
    /// # Errors
    /// Nothing to do.
    pub fn launch(&self) -> Result<Launch, Error> {
        let args = [
            self.results.into(),
            self.weights.into(),
            self.used.into(),
            self.shared.into(),
            self.gates.into(),
            self.gate_stride.into(),
            self.n.into(),
            self.factor.into(),
            u32::from(self.add).into(),
            self.x.into(),
        ];
        Launch::new("sum_experts", [self.n.div_ceil(256), self.tokens, 1], 256, 0, &args)
    }
}
