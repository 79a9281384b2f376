//! The command line: the commands, and the flags that several of them share.

use std::fs;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use braise_engine::constrain::Format;
use braise_engine::device::{Choice, GpuLayers};
use braise_engine::gguf::Residency;
use braise_engine::kv::KvTypes;
use braise_kernels::isa::Isa;
use braise_kernels::ops::KvType;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::commands::{bench, doctor, embed, info, list, logits, pull, rm, run, show, tokenize};
use crate::failure::Usage;

/// Runs language models from GGUF files at the full speed of this machine.
#[derive(Debug, Parser)]
#[command(name = "braise", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant is documented by its arguments, which is what --help prints")]
pub enum Command {
    Run(run::RunArgs),
    Pull(pull::PullArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Rm(rm::RmArgs),
    Tokenize(tokenize::TokenizeArgs),
    Embed(embed::EmbedArgs),
    Logits(logits::LogitsArgs),
    Info(info::InfoArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
}

/// What a forward pass runs on.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Compute {
    /// Where to compute: cpu, cuda, cuda:N (the GPU of that number), or auto: all GPUs. What they have no kernels or no
    /// memory for is computed on the CPU. With --isa or BRAISE_ISA, auto is the CPU
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Auto)]
    device: Choice,

    /// How much of the model goes to GPUs: the last N of its layers and the output, which counts as one of them (0: nothing),
    /// all, or auto: what fits
    #[arg(long, value_name = "N", default_value_t = GpuLayers::Auto)]
    pub gpu_layers: GpuLayers,

    /// Threads to compute with [default: the physical cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Instruction set to compute with, as `braise info` lists them [default: the best; BRAISE_ISA sets it too]
    #[arg(long, value_name = "NAME")]
    pub isa: Option<String>,

    #[command(flatten)]
    pub weights: Weights,
}

impl Compute {
    /// The device to compute with.
    pub fn device(&self) -> Choice {
        match self.gpu_layers {
            GpuLayers::Auto => device(self.device, self.isa.as_deref()),
            GpuLayers::All | GpuLayers::Last(_) => self.device,
        }
    }

    /// The level to compute with.
    pub fn isa(&self) -> anyhow::Result<Isa> {
        isa(self.isa.as_deref())
    }
}

/// The device that is meant by `choice`: whoever names an instruction set means the CPU.
pub fn device(choice: Choice, isa: Option<&str>) -> Choice {
    match choice {
        Choice::Auto if isa_is_named(isa) => Choice::Cpu,
        choice => choice,
    }
}

fn isa_variable() -> Option<std::ffi::OsString> {
    std::env::var_os("BRAISE_ISA").filter(|name| !name.is_empty())
}

/// Whether somebody asked for a level of the CPU's instructions.
fn isa_is_named(name: Option<&str>) -> bool {
    name.is_some() || isa_variable().is_some()
}

/// The level of this name, else that of `BRAISE_ISA`, else the best.
pub fn isa(name: Option<&str>) -> anyhow::Result<Isa> {
    Ok(forced_isa(name)?.unwrap_or(Isa::best()))
}

/// The level of this name, else that of `BRAISE_ISA`, if one of them names any.
pub fn forced_isa(name: Option<&str>) -> anyhow::Result<Option<Isa>> {
    let variable = isa_variable();
    let (from, name) = match (name, &variable) {
        (Some(name), _) => ("--isa", name.into()),
        (None, Some(name)) => ("BRAISE_ISA", name.to_string_lossy()),
        (None, None) => return Ok(None),
    };
    Isa::by_name(&name).map(Some).map_err(|e| Usage(format!("{from}: {e}")).into())
}

/// How the weights are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct Weights {
    /// Copy the weights into memory of their own, in large pages: faster to read, slower to load, not shared
    #[arg(long)]
    pub no_mmap: bool,

    /// Keep the weights from being swapped out
    #[arg(long)]
    pub mlock: bool,
}

impl Weights {
    /// What the engine calls it.
    pub fn residency(self) -> Residency {
        Residency { copy: self.no_mmap, lock: self.mlock }
    }
}

/// How the keys and values of the tokens in the context are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct Cache {
    /// Format of the key/value cache; q8_0 takes about half the memory of f16
    #[arg(long, value_name = "TYPE", default_value = KvType::F16.name(), value_parser = kv_type())]
    kv_type: KvType,

    /// Format of the keys alone [default: that of --kv-type]
    #[arg(long, value_name = "TYPE", visible_alias = "cache-type-k", value_parser = kv_type())]
    kv_type_k: Option<KvType>,

    /// Format of the values alone [default: that of --kv-type]
    #[arg(long, value_name = "TYPE", visible_alias = "cache-type-v", value_parser = kv_type())]
    kv_type_v: Option<KvType>,
}

impl Cache {
    /// The formats.
    pub fn types(self) -> KvTypes {
        KvTypes { k: self.kv_type_k.unwrap_or(self.kv_type), v: self.kv_type_v.unwrap_or(self.kv_type) }
    }
}

fn kv_type() -> impl TypedValueParser<Value = KvType> {
    PossibleValuesParser::new(KvType::ALL.map(KvType::name))
        .map(|name| KvType::ALL.into_iter().find(|ty| ty.name() == name).expect("one of the possible values"))
}

/// How a text is continued. In a chat, `/set parameter` changes these.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct Generation {
    /// Most tokens to generate [default: until the model ends or the context is full]
    #[arg(short = 'n', value_name = "N")]
    pub max_tokens: Option<NonZeroUsize>,

    /// How far from the likeliest tokens to stray; 0 always takes the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = within(0.0..=f32::MAX))]
    pub temp: f32,

    /// Draw from the K likeliest tokens; 0 draws from all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,

    /// Draw from the likeliest tokens that together have probability P; 1 draws from all
    #[arg(long, value_name = "P", default_value_t = 0.9, value_parser = within(f32::MIN_POSITIVE..=1.0))]
    pub top_p: f32,

    /// Leave out tokens less likely than P times the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = within(0.0..=1.0))]
    pub min_p: f32,

    /// Begin the random draws here: the same seed gives the same text [default: a new one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Divide the logits of tokens that occurred lately; 1 leaves them
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = within(f32::MIN_POSITIVE..=f32::MAX))]
    pub repeat_penalty: f32,

    /// Subtract from the logits of tokens that occurred lately
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = within(f32::MIN..=f32::MAX))]
    #[arg(allow_negative_numbers = true)]
    pub presence_penalty: f32,

    /// Subtract from the logits of tokens that occurred lately, for each time
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = within(f32::MIN..=f32::MAX))]
    #[arg(allow_negative_numbers = true)]
    pub frequency_penalty: f32,

    /// End the text before this one; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
}

/// What an answer may be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[group(multiple = false)]
pub struct Constrain {
    /// Answer in JSON (`json`), or in JSON that is valid for a schema: a file, or the schema itself
    #[arg(long, value_name = "json|SCHEMA")]
    pub format: Option<String>,

    /// Answer with a text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX")]
    pub regex: Option<String>,

    /// Answer with a text of the grammar in this file: Lark, or GBNF if its name ends in .gbnf
    #[arg(long, value_name = "FILE")]
    pub grammar: Option<PathBuf>,
}

impl Constrain {
    /// What the engine calls it, and the file that it came from.
    pub fn format(&self) -> anyhow::Result<Option<(Format, Option<&Path>)>> {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("{}: the file cannot be read", path.display()))
        };
        let named = |path: &Path, e: braise_engine::Error| anyhow::Error::from(e.file(path));
        Ok(match (&self.format, &self.regex, &self.grammar) {
            (Some(format), ..) if format == "json" => Some((Format::Json, None)),
            (Some(schema), ..) if schema.trim_start().starts_with('{') => {
                Some((Format::json_schema(schema)?, None))
            }
            (Some(path), ..) => {
                let path = Path::new(path);
                Some((Format::json_schema(&read(path)?).map_err(|e| named(path, e))?, Some(path)))
            }
            (_, Some(regex), _) => Some((Format::Regex(regex.clone()), None)),
            (.., Some(path)) => {
                let gbnf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gbnf"));
                Some((if gbnf { Format::Gbnf(read(path)?) } else { Format::Lark(read(path)?) }, Some(path)))
            }
            (None, None, None) => None,
        })
    }
}

/// Reads a number that is finite and lies in `range`.
fn within(range: RangeInclusive<f32>) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync {
    move |text| {
        let number: f32 = text.parse().map_err(|_| String::from("it is no number"))?;
        let (low, high) = (range.start(), range.end());
        match number {
            n if range.contains(&n) => Ok(n), // never true of a NaN
            _ if *high == f32::MAX && *low >= 0.0 => Err(format!("it must be {low:.0} or more, and finite")),
            _ if *high == f32::MAX => Err(String::from("it must be finite")),
            _ => Err(format!("it must be from {low:.0} to {high}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains(&format!("braise {name}")) && help.contains("Examples:"), "{name}: {help}");
        }
    }

    #[test]
    fn keys_and_values_have_formats_of_their_own() {
        use KvType::{F16, Q8_0};
        let types = |flags: &[&str]| {
            let flags = ["braise", "run"].iter().chain(flags);
            match Cli::try_parse_from(flags).expect("are right").command {
                Command::Run(args) => args.cache.types(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(types(&[]), KvTypes { k: F16, v: F16 });
        assert_eq!(types(&["--kv-type", "q8_0"]), KvTypes { k: Q8_0, v: Q8_0 });
        assert_eq!(types(&["--kv-type-k", "q8_0"]), KvTypes { k: Q8_0, v: F16 });
        assert_eq!(types(&["--kv-type=q8_0", "--cache-type-k=f16"]), KvTypes { k: F16, v: Q8_0 });
    }

    #[test]
    fn one_constraint_is_read_from_where_it_stands() {
        let parsed = |flags: &[&str]| {
            let flags = ["braise", "run"].iter().chain(flags);
            match Cli::try_parse_from(flags).map(|cli| cli.command) {
                Ok(Command::Run(args)) => Ok(args.constrain),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error),
            }
        };
        let format =
            |flags: &[&str]| parsed(flags).expect("is right").format().map(|f| f.map(|(format, _)| format));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("is written");
            path.to_str().expect("is UTF-8").to_owned()
        };
        assert_eq!(format(&[]).unwrap(), None);
        assert_eq!(format(&["--format", "json"]).unwrap(), Some(Format::Json));
        let schema = Some(Format::JsonSchema(serde_json::json!({"type": "object"})));
        assert_eq!(format(&["--format", " {\"type\": \"object\"}"]).unwrap(), schema);
        assert_eq!(format(&["--format", &file("a.json", "{\"type\": \"object\"}")]).unwrap(), schema);
        assert_eq!(format(&["--regex", "a+"]).unwrap(), Some(Format::Regex("a+".into())));
        assert_eq!(format(&["--grammar", &file("a.GBNF", "x")]).unwrap(), Some(Format::Gbnf("x".into())));
        assert_eq!(format(&["--grammar", &file("a.lark", "x")]).unwrap(), Some(Format::Lark("x".into())));
        assert!(format(&["--grammar", "no/such.lark"]).unwrap_err().to_string().contains("no/such.lark"));
        let broken = format(&["--format", &file("b.json", "{\n1}")]).unwrap_err().to_string();
        assert!(broken.contains("b.json") && broken.contains("line 2"), "{broken}");
        assert!(parsed(&["--format", "json", "--regex", "a"]).is_err());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let parse = |flag: &str, value: &str| Cli::try_parse_from(["braise", "run", flag, value]);
        let good = [
            ("--temp", "0"),
            ("--top-p", "1"),
            ("--min-p", "0"),
            ("--presence-penalty", "-1.5"),
            ("-n", "1"),
        ];
        for (flag, value) in good {
            assert!(parse(flag, value).is_ok(), "{flag} {value}");
        }
        let bad = [
            ("--temp", "-0.1"),
            ("--temp", "NaN"),
            ("--temp", "inf"),
            ("--temp", "warm"),
            ("--top-p", "0"),
            ("--top-p", "1.1"),
            ("--min-p", "-0.1"),
            ("--repeat-penalty", "0"),
            ("--frequency-penalty", "inf"),
            ("--top-k", "-1"),
            ("--threads", "0"),
            ("-n", "0"),
            ("--ctx", "0"),
            ("--stop", ""),
            ("--kv-type", "q4"),
            ("--device", "gpu"),
            ("--device", "cuda:x"),
            ("--gpu-layers", "-1"),
            ("--gpu-layers", "some"),
        ];
        for (flag, value) in bad {
            assert!(parse(flag, value).is_err(), "{flag} {value}");
        }
    }
}
