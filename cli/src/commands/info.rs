//! `braise info`: this machine, or what a model file holds.

use std::path::Path;

use anyhow::Result;
use braise_engine::gguf::{Gguf, TensorInfo, Value};
use braise_engine::memory;
use braise_engine::threads::default_threads;
use braise_kernels::isa::Isa;
use braise_kernels::table::Kernels;
use clap::Args;
use indicatif::DecimalBytes;
use serde::Serialize;
use sysinfo::System;

use crate::machine::{cpu_name, look};
use crate::models::resolve;
use crate::output::{Format, markdown, print, print_json};

/// Show this machine as braise sees it, or the metadata and tensors of a model file
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise info
  braise info smollm2:135m --output json")]
pub struct InfoArgs {
    /// Name of a model, or path of a .gguf file
    model: Option<String>,

    /// Form of the report
    #[arg(long, value_enum, default_value_t = Format::Md, value_name = "FORM")]
    output: Format,
}

/// The machine.
#[derive(Debug, Serialize)]
struct Machine {
    braise: &'static str,
    os: String,
    cpu: String,
    physical_cores: Option<usize>,
    threads: usize,
    memory_bytes: u64,
    available_bytes: u64,
    /// Instruction set levels, slowest first.
    isa_levels: Vec<IsaLevel>,
    /// Which level's kernel multiplies each format, at the best level of this machine.
    kernels: Vec<Kernel>,
}

/// An instruction set level.
#[derive(Debug, Serialize)]
struct IsaLevel {
    name: &'static str,
    features: &'static str,
    supported: bool,
}

/// The matrix product of a weight format.
#[derive(Debug, Serialize)]
struct Kernel {
    weights: &'static str,
    activations: &'static str,
    isa: &'static str,
}

/// A model file.
#[derive(Debug, Default, Serialize)]
struct ModelFile {
    path: String,
    bytes: u64,
    metadata: Vec<Entry>,
    tensors: Vec<Tensor>,
}

/// A metadata entry; `value` is shortened where it is long.
#[derive(Debug, Serialize)]
struct Entry {
    key: String,
    r#type: String,
    value: String,
}

/// A tensor; the first of `shape` is the length of a row.
#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    r#type: String,
    shape: Vec<u64>,
    bytes: u64,
}

/// Does what was asked for.
pub fn run(args: &InfoArgs) -> Result<()> {
    match &args.model {
        None => {
            let machine = machine()?;
            match args.output {
                Format::Md => print(&machine_table(&machine)),
                Format::Json => print_json(&machine),
            }
        }
        Some(model) => {
            let file = model_file(&resolve(Some(model))?)?;
            match args.output {
                Format::Md => print(&file_tables(&file)),
                Format::Json => print_json(&file),
            }
        }
    }
}

fn model_file(path: &Path) -> Result<ModelFile> {
    let gguf = Gguf::open(path)?;
    let entry = |(key, value): (&str, Value<'_>)| Entry {
        key: key.to_owned(),
        r#type: value.ty().to_string(),
        value: value.to_string(),
    };
    let tensor = |t: &TensorInfo| Tensor {
        name: t.name.clone(),
        r#type: t.ty.name().to_owned(),
        shape: t.dims.clone(),
        bytes: t.n_bytes() as u64,
    };
    Ok(ModelFile {
        path: path.display().to_string(),
        bytes: gguf.bytes(),
        metadata: gguf.metadata().iter().map(entry).collect(),
        tensors: gguf.tensors().iter().map(tensor).collect(),
    })
}

fn machine() -> Result<Machine> {
    let memory = memory::now();
    let system = look()?;
    Ok(Machine {
        braise: env!("CARGO_PKG_VERSION"),
        os: System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned()),
        cpu: cpu_name(&system),
        physical_cores: System::physical_core_count().ok(),
        threads: default_threads(),
        memory_bytes: memory.map_or(0, |memory| memory.total),
        available_bytes: memory.map_or(0, |memory| memory.available),
        isa_levels: Isa::ALL
            .map(|isa| IsaLevel { name: isa.name(), features: isa.features(), supported: isa.is_supported() })
            .into(),
        kernels: Kernels::new(Isa::best())?
            .matmul_rows()
            .map(|row| Kernel {
                weights: row.weights().name(),
                activations: if row.takes_q8() { "Q8" } else { "F32" },
                isa: row.isa().name(),
            })
            .collect(),
    })
}

fn machine_table(machine: &Machine) -> String {
    let cores = machine.physical_cores.map_or(String::from("unknown"), |n| n.to_string());
    let size = |bytes| DecimalBytes(bytes).to_string();
    let rows = [
        ("braise", machine.braise.to_owned()),
        ("operating system", machine.os.clone()),
        ("processor", machine.cpu.clone()),
        ("physical cores", cores),
        ("threads for braise", machine.threads.to_string()),
        ("memory", size(machine.memory_bytes)),
        ("memory available", size(machine.available_bytes)),
    ];
    let level = |l: &IsaLevel| {
        let supported = if l.supported { "yes" } else { "no" };
        vec![l.name.to_owned(), supported.to_owned(), l.features.to_owned()]
    };
    let kernel = |k: &Kernel| [k.weights, k.activations, k.isa].map(str::to_owned).to_vec();
    format!(
        "{}\n{}\n{}",
        markdown(&["machine", ""], &[], rows.map(|(name, value)| vec![name.to_owned(), value])),
        markdown(&["ISA level", "here", "CPU features"], &[], machine.isa_levels.iter().map(level)),
        markdown(&["weights", "activations", "kernel"], &[], machine.kernels.iter().map(kernel))
    )
}

fn file_tables(file: &ModelFile) -> String {
    let entries = file.metadata.iter().map(|e| vec![e.key.clone(), e.r#type.clone(), e.value.clone()]);
    let shape = |shape: &[u64]| shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
    let tensor = |t: &Tensor| {
        vec![t.name.clone(), t.r#type.clone(), shape(&t.shape), DecimalBytes(t.bytes).to_string()]
    };
    format!(
        "{}, {}\n\n{}\n{}",
        file.path,
        DecimalBytes(file.bytes),
        markdown(&["key", "type", "value"], &[], entries),
        markdown(&["tensor", "type", "shape", "size"], &[2, 3], file.tensors.iter().map(tensor))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_processor_threads_and_memory() {
        let machine = machine().expect("is known");
        assert!(!machine.cpu.is_empty() && machine.threads > 0);
        assert!(machine.memory_bytes > 1 << 20 && machine.available_bytes <= machine.memory_bytes);
        assert!(machine_table(&machine).contains(&machine.cpu));
    }

    #[test]
    fn a_file_is_shown_as_two_tables() {
        let file = ModelFile {
            path: "x.gguf".into(),
            bytes: 1000,
            metadata: vec![Entry { key: "general.name".into(), r#type: "string".into(), value: "x".into() }],
            tensors: vec![Tensor {
                name: "a".into(),
                r#type: "Q4_1".into(),
                shape: vec![576, 192],
                bytes: 69_120,
            }],
        };
        let text = file_tables(&file);
        assert!(text.starts_with("x.gguf, 1.00 kB\n\n| key "), "{text}");
        assert!(
            text.contains("| general.name | string | x     |") && text.contains("| 576 x 192 | 69.12 kB |"),
            "{text}"
        );
    }
}
