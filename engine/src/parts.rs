//! The parts of a forward pass, and on which device each of them lies.
//!
//! ```text
//! input | mixer 0 | mlp 0 | mixer 1 | mlp 1 | ... | output
//! ```
//!
//! A pass can go from one device to another between two parts where nothing but `x` is handed on, which [`bound_to`] tells.
//! Parts that follow each other on one device are run together, as a segment.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use crate::block::{Layer, Mixer, Mlp, Source, Spec};

/// A part of a forward pass; the order is that of execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Token ids to values.
    Input,
    /// What looks at other tokens in this layer.
    Mixer(usize),
    /// The feed-forward network of this layer.
    Mlp(usize),
    /// Values to logits.
    Output,
}

impl Part {
    /// The parts of a model of `n_layer` layers, in order.
    pub fn all(n_layer: usize) -> impl Iterator<Item = Part> {
        let layers = (0..n_layer).flat_map(|i| [Part::Mixer(i), Part::Mlp(i)]);
        std::iter::once(Part::Input).chain(layers).chain([Part::Output])
    }

    /// The layer that it belongs to, if it does to one.
    pub fn layer(self) -> Option<usize> {
        match self {
            Part::Mixer(i) | Part::Mlp(i) => Some(i),
            Part::Input | Part::Output => None,
        }
    }

    fn key(self) -> (usize, usize) {
        match self {
            Part::Input => (0, 0),
            Part::Mixer(i) => (1, 2 * i),
            Part::Mlp(i) => (1, 2 * i + 1),
            Part::Output => (2, 0),
        }
    }
}

impl Ord for Part {
    fn cmp(&self, other: &Part) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Part {
    fn partial_cmp(&self, other: &Part) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Parts that follow each other.
pub type Parts = RangeInclusive<Part>;

/// All parts.
pub const WHOLE: Parts = Part::Input..=Part::Output;

/// The part before `part` on whose device `part` must lie too, because it takes more of it than `x`; none mostly.
pub fn bound_to(spec: &Spec, part: Part) -> Option<Part> {
    if spec.layer_inputs.is_some() {
        // layers get something of each token that is made with its embedding
        return (part != Part::Input).then_some(Part::Input);
    }
    match part {
        Part::Mixer(i) => match spec.layers[i].mixer.attention()?.source {
            Source::Layer(of) => Some(Part::Mixer(of)),
            Source::Own | Source::Keys => None,
        },
        Part::Mlp(i) => {
            let Layer { mlp, parallel, .. } = &spec.layers[i];
            let routed = matches!(mlp, Mlp::Experts(experts) if experts.routes_first);
            (*parallel || routed).then_some(Part::Mixer(i))
        }
        Part::Input | Part::Output => None,
    }
}

impl Spec {
    /// The same, less the blocks of parts that are elsewhere.
    pub(crate) fn only(&self, has: impl Fn(Part) -> bool) -> Spec {
        let mut spec = self.clone();
        for (i, layer) in spec.layers.iter_mut().enumerate() {
            if !has(Part::Mixer(i)) {
                layer.mixer = Mixer::Nothing;
            }
            if !has(Part::Mlp(i)) {
                layer.mlp = Mlp::Nothing;
            }
        }
        spec
    }
}

/// Where a part lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Location {
    /// On the CPU.
    Cpu,
    /// On the GPU of this number, of those that a model uses.
    Gpu(usize),
}

/// Where each part of a model lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// In the order of the parts.
    locations: Vec<Location>,
}

impl Assignment {
    /// All parts of a model of `n_layer` layers, each on the device that `location` says.
    pub fn new(n_layer: usize, location: impl FnMut(Part) -> Location) -> Assignment {
        Assignment { locations: Part::all(n_layer).map(location).collect() }
    }

    /// Layers.
    pub fn n_layer(&self) -> usize {
        self.locations.len() / 2 - 1
    }

    /// Each part and where it lies.
    pub fn parts(&self) -> impl Iterator<Item = (Part, Location)> {
        Part::all(self.n_layer()).zip(self.locations.iter().copied())
    }

    /// Where a part lies.
    ///
    /// # Panics
    /// There is no such part.
    pub fn of(&self, part: Part) -> Location {
        let at = match part {
            Part::Input => 0,
            Part::Mixer(i) => 2 * i + 1,
            Part::Mlp(i) => 2 * i + 2,
            Part::Output => self.locations.len() - 1,
        };
        self.locations[at]
    }

    /// Parts that follow each other on one device, as many as there are, in the order of execution.
    pub fn segments(&self) -> Vec<(Location, Parts)> {
        let mut segments: Vec<(Location, Parts)> = Vec::new();
        for (part, location) in self.parts() {
            match segments.last_mut() {
                Some((of, parts)) if *of == location => *parts = *parts.start()..=part,
                _ => segments.push((location, part..=part)),
            }
        }
        segments
    }

    /// A part of `spec` that lies elsewhere than the one it is bound to, if there is such.
    pub fn torn(&self, spec: &Spec) -> Option<(Part, Part)> {
        self.parts().find_map(|(part, location)| {
            bound_to(spec, part).filter(|to| self.of(*to) != location).map(|to| (part, to))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_in_the_order_of_execution() {
        let parts: Vec<Part> = Part::all(2).collect();
        let all = [Part::Input, Part::Mixer(0), Part::Mlp(0), Part::Mixer(1), Part::Mlp(1), Part::Output];
        assert_eq!(parts, all);
        assert!(parts.is_sorted() && parts.iter().all(|part| WHOLE.contains(part)));
        let some = Part::Mlp(0)..=Part::Mixer(1);
        assert_eq!(parts.iter().filter(|part| some.contains(part)).count(), 2);
    }

    #[test]
    fn segments_are_as_long_as_they_can_be() {
        let whole = Assignment::new(3, |_| Location::Gpu(0));
        assert_eq!((whole.segments(), whole.n_layer()), (vec![(Location::Gpu(0), WHOLE)], 3));
        let split = Assignment::new(3, |part| match part {
            Part::Input | Part::Mlp(1) => Location::Cpu,
            Part::Mixer(2) | Part::Mlp(2) => Location::Gpu(1),
            Part::Mixer(_) | Part::Mlp(_) | Part::Output => Location::Gpu(0),
        });
        let want = [
            (Location::Cpu, Part::Input..=Part::Input),
            (Location::Gpu(0), Part::Mixer(0)..=Part::Mixer(1)),
            (Location::Cpu, Part::Mlp(1)..=Part::Mlp(1)),
            (Location::Gpu(1), Part::Mixer(2)..=Part::Mlp(2)),
            (Location::Gpu(0), Part::Output..=Part::Output),
        ];
        assert_eq!(split.segments(), want);
        assert!(split.parts().all(|(part, location)| split.of(part) == location));
    }
}
