//! What a user is told of a model that lies on several devices.

use std::fmt;

use super::Candidate;
use crate::backend::cuda;
use crate::model::Model;
use crate::parts::{Assignment, Location, Part};

/// Where the parts of a model lie that is on several devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The GPUs that have some.
    pub gpus: Vec<UsedGpu>,
    /// What is where, in order, and why what is on the CPU.
    areas: Vec<Area>,
}

/// A GPU on which parts of a model are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedGpu {
    /// Its number.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Bytes of its memory that the weights take.
    pub weight_bytes: usize,
    /// What is slow there, if something is: see [`cuda::slow`].
    pub slow: Option<String>,
}

impl UsedGpu {
    pub(super) fn of(model: &Model, candidate: &Candidate) -> UsedGpu {
        let properties = &candidate.properties;
        let (index, name, weight_bytes) = (candidate.index, properties.name.clone(), 0);
        UsedGpu { index, name, weight_bytes, slow: cuda::slow(model.spec(), properties) }
    }
}

/// Parts on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Area {
    parts: String,
    device: String,
    because: Option<String>,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.parts, self.device)?;
        self.because.as_ref().map_or(Ok(()), |because| write!(f, " ({because})"))
    }
}

/// `layers 0-11: CPU (the model takes 4.7 GB on a GPU, and X has 3.1 GB free); layers 12-31 and the output: cuda:0 X`
impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, area) in self.areas.iter().enumerate() {
            write!(f, "{}{area}", if i > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl Split {
    /// Of each layer `lacking` is what there are no kernels for; `because` is why others are on the CPU.
    pub(super) fn new(
        assignment: &Assignment,
        gpus: Vec<UsedGpu>,
        because: &str,
        lacking: &[Option<String>],
    ) -> Split {
        let on_cpu = |part: Part| assignment.of(part) == Location::Cpu;
        // layers on the CPU by why they are there; the ends of the model for the first of the reasons
        let mut reasons = vec![(because.to_owned(), Vec::new())];
        for (layer, what) in lacking.iter().enumerate() {
            let because = match what {
                Some(what) => format!("there are no GPU kernels for {what}"),
                None => because.to_owned(),
            };
            match reasons.iter_mut().find(|(other, _)| *other == because) {
                Some((_, layers)) => layers.push(layer),
                None => reasons.push((because, vec![layer])),
            }
        }
        let mut areas = Vec::new();
        for (i, (because, layers)) in reasons.into_iter().enumerate() {
            let has =
                |part: Part| on_cpu(part) && part.layer().map_or(i == 0, |layer| layers.contains(&layer));
            areas.extend(parts_in_words(assignment.n_layer(), has).map(|parts| Area {
                parts,
                device: "CPU".to_owned(),
                because: Some(because),
            }));
        }
        for (i, gpu) in gpus.iter().enumerate() {
            let has = |part: Part| assignment.of(part) == Location::Gpu(i);
            let device = format!("cuda:{} {}", gpu.index, gpu.name);
            let area = |parts| Area { parts, device, because: None };
            areas.extend(parts_in_words(assignment.n_layer(), has).map(area));
        }
        Split { gpus, areas }
    }
}

/// Parts in words, such as `layers 12-31 and the output`; nothing of none.
fn parts_in_words(n_layer: usize, has: impl Fn(Part) -> bool) -> Option<String> {
    let layers = |mixer: bool, mlp: bool| {
        let alike = |i: &usize| (has(Part::Mixer(*i)), has(Part::Mlp(*i))) == (mixer, mlp);
        numbers((0..n_layer).filter(alike))
    };
    let words = [
        has(Part::Input).then(|| "the input".to_owned()),
        layers(true, true),
        layers(true, false).map(|layers| {
            let whose = if layers.starts_with("layers") { "their" } else { "its" };
            format!("{layers} without {whose} experts")
        }),
        layers(false, true).map(|layers| format!("the experts of {layers}")),
        has(Part::Output).then(|| "the output".to_owned()),
    ];
    listed(words.into_iter().flatten().collect())
}

/// `layers 0-3, 5 and 7-9`; nothing of none.
fn numbers(layers: impl Iterator<Item = usize>) -> Option<String> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for layer in layers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == layer => *last = layer,
            _ => ranges.push((layer, layer)),
        }
    }
    let plural = if ranges.len() > 1 || ranges.iter().any(|(a, b)| a != b) { "layers" } else { "layer" };
    let range = |(first, last): (usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    listed(ranges.into_iter().map(range).collect()).map(|ranges| format!("{plural} {ranges}"))
}

/// `a, b and c`; nothing of none.
fn listed(mut words: Vec<String>) -> Option<String> {
    let last = words.pop()?;
    Some(if words.is_empty() { last } else { format!("{} and {last}", words.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_in_words() {
        let of = |has: &dyn Fn(Part) -> bool| parts_in_words(6, has);
        assert_eq!(of(&|_| false), None);
        assert_eq!(of(&|_| true).as_deref(), Some("the input, layers 0-5 and the output"));
        assert_eq!(of(&|part| part >= Part::Mixer(4)).as_deref(), Some("layers 4-5 and the output"));
        assert_eq!(of(&|part| part.layer() == Some(3)).as_deref(), Some("layer 3"));
        let some = |part: Part| part.layer().is_some_and(|i| [0, 1, 3, 5].contains(&i));
        assert_eq!(of(&some).as_deref(), Some("layers 0-1, 3 and 5"));
        assert_eq!(of(&|part| part == Part::Mlp(0)).as_deref(), Some("the experts of layer 0"));
        let mixers = |part: Part| matches!(part, Part::Mixer(_));
        assert_eq!(of(&mixers).as_deref(), Some("layers 0-5 without their experts"));
        let rest = |part: Part| part != Part::Mlp(0) && part != Part::Input;
        assert_eq!(of(&rest).as_deref(), Some("layers 1-5, layer 0 without its experts and the output"));
    }
}
