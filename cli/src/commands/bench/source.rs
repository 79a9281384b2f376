//! What is measured: a model file, or a shape with random weights.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use braise_engine::catalogue::Name;
use braise_engine::gguf::Gguf;
use braise_engine::measure::{Mix, Shape, synthetic};
use braise_engine::model::Model;
use braise_kernels::isa::Isa;
use indicatif::DecimalBytes;

use crate::args::Weights;
use crate::catalogue;
use crate::failure::Usage;
use crate::models::resolve;

/// What the command line names.
pub enum Source {
    /// A name or path.
    Named(String),
    /// A shape.
    Synthetic(Synthetic),
}

/// A shape of the catalogue, to be filled with random weights.
pub struct Synthetic {
    name: String,
    shape: Shape,
    mix: Mix,
}

/// A model that is open.
pub struct Loaded {
    /// As the command line names it.
    pub name: String,
    /// The model.
    pub model: Model,
    /// Whether its weights are random.
    pub synthetic: bool,
    /// Time of opening it.
    pub load: Duration,
}

impl Synthetic {
    /// Reads `NAME:QUANT`.
    pub fn parse(text: &str) -> Result<Synthetic> {
        let usage = |what: String| anyhow::Error::from(Usage(format!("--synthetic {text}: {what}")));
        let (name, quant) = text.rsplit_once(':').unwrap_or((text, ""));
        let mix = Mix::by_name(quant).ok_or_else(|| {
            let known: Vec<_> = Mix::names().collect();
            usage(format!(
                "no quantization is called {quant:?}; write NAME:QUANT, with QUANT one of {}",
                known.join(", ")
            ))
        })?;
        let catalogue = catalogue::load()?;
        let found = name.parse::<Name>().and_then(|name| catalogue.model(&name)).ok().flatten();
        let model = found.ok_or_else(|| {
            let known: Vec<_> = catalogue.models().map(|m| format!("{}:{}", m.family, m.size)).collect();
            usage(format!("no shape is called {name:?}; the catalogue has {}", known.join(", ")))
        })?;
        let name = format!("{}:{}:{}", model.family, model.size, mix.name());
        Ok(Synthetic { name, shape: model.synthetic_shape(), mix })
    }
}

impl Source {
    /// The model that is measured where none is named.
    pub fn default_model() -> Result<Source> {
        Ok(Source::Named(catalogue::load()?.default_name()?.to_string()))
    }

    /// Opens the model, or makes it, of which at most `available` bytes of memory may be taken.
    pub fn load(&self, isa: Isa, weights: Weights, available: u64) -> Result<Loaded> {
        match self {
            Source::Named(name) => {
                let path = resolve(Some(name))?;
                let begin = Instant::now();
                let model = Model::new(Gguf::open_with(&path, weights.residency())?, isa)?;
                Ok(Loaded { name: name.clone(), model, synthetic: false, load: begin.elapsed() })
            }
            Source::Synthetic(Synthetic { name, shape, mix }) => {
                let bytes = shape.bytes(*mix)?;
                ensure!(
                    bytes <= available,
                    "{name}: its weights take {}, but only {} of memory are available; choose a smaller quantization \
                     or model",
                    DecimalBytes(bytes),
                    DecimalBytes(available)
                );
                eprintln!("{name}: making {} of random weights", DecimalBytes(bytes));
                let gguf = synthetic(name, shape, *mix)?;
                let begin = Instant::now();
                let model = Model::new(gguf, isa)?;
                Ok(Loaded { name: name.clone(), model, synthetic: true, load: begin.elapsed() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_named_with_their_quantization() {
        let made = Synthetic::parse("Llama3.2:1B:q4_k_m").expect("is known");
        assert_eq!(
            (made.name.as_str(), made.shape.layers, made.shape.tied),
            ("llama3.2:1b:Q4_K_M", 16, true)
        );
        assert_eq!(Synthetic::parse("smollm2:q8_0").expect("is known").name, "smollm2:135m:Q8_0");
        for wrong in ["llama3.2:1b", "llama3.2:1b:Q9", ":Q4_0", "llama3.2:9b:Q4_0", "Q4_0", ""] {
            let error = Synthetic::parse(wrong).err().expect("is wrong");
            assert!(error.is::<Usage>(), "{wrong}: {error}");
        }
    }
}
