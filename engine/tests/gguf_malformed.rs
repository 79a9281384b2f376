//! Files that are wrong: each is refused with one clear line, and none makes the reader panic.
//!
//! To add a case: build the file with [`Raw`], which checks nothing, and hand it to [`refused`].

use std::fs;
use std::io::{Seek, Write};
use std::path::Path;

use braise_engine::gguf::{Gguf, Value, Writer};
use braise_engine::{ErrorKind, Result};
use braise_kernels::quant::Type;
use tempfile::{NamedTempFile, TempDir};

const F32: u32 = 0;
const Q4_0: u32 = 2;

const UINT32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A file byte by byte.
struct Raw(Vec<u8>);

impl Raw {
    /// Magic, version and counts.
    fn new(version: u32, n_tensors: u64, n_metadata: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(version).u64(n_tensors).u64(n_metadata)
    }

    fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }

    fn u32(self, v: u32) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    fn u64(self, v: u64) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    fn string(self, s: &str) -> Raw {
        self.u64(s.len() as u64).bytes(s.as_bytes())
    }

    /// The start of a metadata pair; the value follows.
    fn key(self, key: &str, ty: u32) -> Raw {
        self.string(key).u32(ty)
    }

    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Raw {
        let start = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(start, |raw, &dim| raw.u64(dim)).u32(ty).u64(offset)
    }

    /// The data section, at the default alignment of 32.
    fn data(mut self, n_bytes: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + n_bytes, 0);
        self
    }
}

fn open(bytes: &[u8]) -> Result<Gguf> {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    Gguf::open(file.path())
}

/// The file is refused with an error of `kind` that is one line, names the file and a next step, and says `what`.
#[track_caller]
fn refused(bytes: &[u8], kind: ErrorKind, what: &str) {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    refused_path(file.path(), kind, what);
}

#[track_caller]
fn refused_path(path: &Path, kind: ErrorKind, what: &str) {
    let Err(error) = Gguf::open(path) else { panic!("opened, though it should be refused: {what}") };
    let text = error.to_string();
    assert!(text.contains(what), "`{what}` is not in: {text}");
    assert!(text.starts_with(&*path.to_string_lossy()), "names no file: {text}");
    assert!(text.contains("; ") && !text.contains('\n'), "is not one line with a next step: {text}");
    assert_eq!(error.kind(), kind, "{text}");
}

use ErrorKind::{Io, Malformed, NotGguf, Unsupported};

#[test]
fn the_raw_builder_makes_good_files() {
    let good = Raw::new(3, 1, 1).key("k", UINT32).u32(7).tensor("t", &[32, 2], Q4_0, 0).data(36);
    let gguf = open(&good.0).unwrap();
    assert_eq!(gguf.metadata().require_u32("k").unwrap(), 7);
    assert_eq!(gguf.data(gguf.require("t").unwrap()).len(), 36);
}

#[test]
fn other_formats_are_named() {
    refused(b"", NotGguf, "the file is empty");
    refused(b"GGU", NotGguf, "ends within its first four bytes");
    refused(b"PK\x03\x04\x14\x00\x00\x00rest", NotGguf, "zip");
    refused(b"\x40\x00\x00\x00\x00\x00\x00\x00{\"__metadata__\":{}}", NotGguf, "safetensors");
    for magic in [b"lmgg", b"fmgg", b"tjgg", b"algg"] {
        refused(&[magic.as_slice(), &[1, 0, 0, 0]].concat(), NotGguf, "GGML");
    }
    refused(b"\n <!DOCTYPE html><html>", NotGguf, "web page");
    refused(b"<html lang=en>", NotGguf, "web page");
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", NotGguf, "Git LFS pointer");
    refused(b"\x7fELF\x02\x01\x01", NotGguf, "not a GGUF file");
}

#[test]
fn other_versions_are_refused() {
    refused(&Raw::new(1, 0, 0).0, NotGguf, "version 1");
    refused(&Raw::new(4, 0, 0).0, NotGguf, "version 4");
    refused(&Raw::new(0, 0, 0).0, NotGguf, "version 0");
    for version in [2_u32, 3] {
        refused(&Raw::new(version.swap_bytes(), 0, 0).0, NotGguf, "big-endian");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = TempDir::new().unwrap();
    refused_path(dir.path(), Io, "not a regular file");
    refused_path(&dir.path().join("absent.gguf"), Io, "cannot open the file");
}

/// All kinds of values, a quantized tensor and two others; it ends with the data of the last one.
fn sound_file() -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::new()
        .metadata("general.architecture", "llama")
        .metadata("general.alignment", 32_u32)
        .metadata("f32", 1.5_f32)
        .metadata("bools", [true, false])
        .metadata("tokenizer.ggml.tokens", ["<s>", "a", "bc"])
        .metadata("tokenizer.ggml.scores", [0.0_f32, -1.0, -2.0])
        .metadata("nested", vec![vec![1_u16, 2], vec![], vec![3]])
        .tensor("token_embd.weight", &[32, 3], Type::Q8_0, vec![7; 102])
        .tensor("output_norm.weight", &[32], Type::F32, vec![8; 128])
        .tensor("output.weight", &[32, 2], Type::F16, vec![9; 128])
        .write_to(&mut bytes)
        .unwrap();
    bytes
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = sound_file();
    assert!(open(&bytes).is_ok(), "the whole file opens");
    for len in 0..bytes.len() {
        let kind = if len < 4 { NotGguf } else { Malformed };
        let what = if len == 0 { "empty" } else { "" };
        refused(&bytes[..len], kind, what);
    }
}

#[test]
fn absurd_counts_are_refused() {
    for count in [u64::MAX, i64::MAX as u64 + 1, 1 << 40, 2] {
        let rest = Raw::new(3, count, 0).tensor("t", &[], F32, 0);
        refused(&rest.0, Malformed, &format!("claims to hold {count} tensors"));
        let rest = Raw::new(3, 0, count).key("k", UINT32).u32(0);
        refused(&rest.0, Malformed, &format!("claims to hold {count} metadata keys"));
    }
}

#[test]
fn absurd_metadata_is_refused() {
    let past_end = "reaches past the end of the file";
    let pair = || Raw::new(3, 0, 1);
    for n in [u64::MAX, u64::MAX - 8, 1 << 40, 100] {
        refused(&pair().u64(n).bytes(&[b'k'; 32]).0, Malformed, "key number 0 reaches past");
        refused(&pair().key("k", STRING).u64(n).bytes(b"text").0, Malformed, past_end);
        for element in [UINT32, BOOL, STRING, ARRAY, 12] {
            let array = pair().key("k", ARRAY).u32(element).u64(n).bytes(&[0; 32]);
            refused(&array.0, Malformed, past_end);
        }
    }
    refused(&pair().u64(2).bytes(b"\xff\xff").bytes(&[0; 8]).0, Malformed, "key number 0 is not UTF-8");
    refused(&pair().key("k", 13).u64(0).0, Malformed, "`k` has the unknown value type 13");
    refused(&pair().key("k", ARRAY).u32(u32::MAX).u64(0).0, Malformed, "unknown value type 4294967295");
    refused(&pair().key("k", BOOL).bytes(&[2]).0, Malformed, "the byte 2 as a bool");
    refused(&pair().key("k", ARRAY).u32(BOOL).u64(2).bytes(&[1, 255]).0, Malformed, "the byte 255 as a bool");
    let twice = Raw::new(3, 0, 2).key("k", UINT32).u32(1).key("k", UINT32).u32(2);
    refused(&twice.0, Malformed, "`k` occurs twice");
}

#[test]
fn nesting_is_bounded() {
    // Arrays of one array each, the innermost empty.
    let nested = |levels: usize| {
        let outer = (1..levels).fold(Raw::new(3, 0, 1).key("k", ARRAY), |raw, _| raw.u32(ARRAY).u64(1));
        outer.u32(UINT32).u64(0).0
    };
    let gguf = open(&nested(8)).unwrap();
    let depth = std::iter::successors(gguf.metadata().get("k"), |v| v.array()?.iter().next()).count();
    assert_eq!(depth, 8);
    refused(&nested(9), Malformed, "nests arrays more than 8 deep");
    refused(&nested(1_000_000), Malformed, "nests arrays more than 8 deep");
}

#[test]
fn bad_alignments_are_refused() {
    for alignment in [0, 3, 48, u32::MAX] {
        let file = Raw::new(3, 0, 1).key("general.alignment", UINT32).u32(alignment);
        refused(&file.0, Malformed, &format!("`general.alignment` is {alignment}"));
    }
    let text = Raw::new(3, 0, 1).key("general.alignment", STRING).string("32");
    refused(&text.0, Malformed, "`general.alignment` is a string");
    let huge =
        Raw::new(3, 1, 1).key("general.alignment", UINT32).u32(1 << 31).tensor("t", &[1], F32, 0).data(4);
    refused(&huge.0, Malformed, "`t` reaches past the end of the file");
}

#[test]
fn wrong_tensors_are_refused() {
    let one = |dims: &[u64], ty| Raw::new(3, 1, 0).tensor("t", dims, ty, 0).data(64).0;
    refused(&one(&[1, 1, 1, 1, 1], F32), Malformed, "`t` has 5 dimensions");
    refused(&one(&[31], Q4_0), Malformed, "`t` has rows of 31 weights");
    refused(&one(&[16, 2], Q4_0), Malformed, "`t` has rows of 16 weights");
    refused(&one(&[], Q4_0), Malformed, "`t` has rows of 1 weights");
    for dims in [&[u64::MAX][..], &[1 << 62], &[1 << 32, 1 << 32], &[1 << 20; 4], &[0, u64::MAX, 2]] {
        refused(&one(dims, F32), Malformed, "`t` has the absurd shape");
    }
    refused(&one(&[17], F32), Malformed, "`t` reaches past the end of the file");

    let many_dims = Raw::new(3, 1, 0).string("t").u32(u32::MAX).bytes(&[0; 64]);
    refused(&many_dims.0, Malformed, "4294967295 dimensions");
    let name = Raw::new(3, 1, 0).u64(1).bytes(b"\xff").bytes(&[0; 64]);
    refused(&name.0, Malformed, "tensor number 0 is not UTF-8");
    let long_name = Raw::new(3, 1, 0).u64(u64::MAX).bytes(&[0; 64]);
    refused(&long_name.0, Malformed, "tensor number 0 reaches past");
    let twice = Raw::new(3, 2, 0).tensor("t", &[1], F32, 0).tensor("t", &[1], F32, 32).data(36);
    refused(&twice.0, Malformed, "the tensor `t` occurs twice");
}

#[test]
fn unknown_types_are_named() {
    let one = |ty| Raw::new(3, 1, 0).tensor("blk.0.attn_q.weight", &[1], ty, 0).data(64).0;
    for ty in [9999, u32::MAX] {
        refused(&one(ty), Unsupported, &format!("`blk.0.attn_q.weight` has the unknown ggml type {ty}"));
    }
    let removed = [
        (4, "Q4_2"),
        (5, "Q4_3"),
        (31, "Q4_0_4_4"),
        (32, "Q4_0_4_8"),
        (33, "Q4_0_8_8"),
        (36, "IQ4_NL_4_4"),
        (37, "IQ4_NL_4_8"),
        (38, "IQ4_NL_8_8"),
    ];
    for (ty, name) in removed {
        refused(&one(ty), Unsupported, &format!("type {ty} ({name}), which ggml has removed"));
    }
}

#[test]
fn misplaced_data_is_refused() {
    let two = |second: u64| {
        Raw::new(3, 2, 0).tensor("a", &[16], F32, 0).tensor("b", &[16], F32, second).data(128).0
    };
    assert!(open(&two(64)).is_ok());
    refused(&two(32), Malformed, "tensors `a` and `b` overlap");
    refused(&two(0), Malformed, "overlap");
    refused(&two(65), Malformed, "`b` starts at offset 65, no multiple of the alignment 32");
    refused(&two(96), Malformed, "`b` reaches past the end of the file");
    refused(&two(u64::MAX), Malformed, "`b` starts at the absurd offset");
    refused(&two(u64::MAX - 95), Malformed, "`b` reaches past the end of the file");
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same mutations on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            // Off by one: counts, lengths, offsets and types that are nearly right.
            2 => bytes[at] = bytes[at].wrapping_add(if random.below(2) == 0 { 1 } else { 255 }),
            3 => {
                let extreme = [0, 1, u64::MAX, i64::MAX as u64, 1 << 32, u64::MAX - 31][random.below(6)];
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&extreme.to_le_bytes()[..end - at]);
            }
            4 => bytes.truncate(at.max(1)),
            _ => bytes.insert(at, random.next() as u8),
        }
    }
}

/// Reads all that a file holds, and checks what the reader promises about it.
fn read_all(gguf: &Gguf) {
    fn walk(value: Value<'_>) {
        if let Some(array) = value.array() {
            assert_eq!(array.iter().map(walk).count(), array.len());
        }
    }
    for (key, value) in gguf.metadata().iter() {
        walk(value);
        assert!(gguf.metadata().get(key).is_some());
        let _ = value.to_string();
        let _ = gguf.metadata().u32(key);
        let _ = gguf.metadata().str(key);
        let _ = gguf.metadata().f32s(key);
        let _ = gguf.metadata().strs(key);
    }
    let mut ranges = Vec::new();
    for tensor in gguf.tensors() {
        let data = gguf.data(tensor);
        assert_eq!(data.len(), tensor.n_bytes());
        assert_eq!(Some(data.len()), tensor.ty.row_bytes(tensor.row_len()).map(|row| row * tensor.rows()));
        data.iter().fold(0_u8, |sum, &byte| sum ^ byte);
        ranges.push(data.as_ptr_range());
    }
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "the data of tensors overlap");
}

#[test]
fn mutated_files_never_panic() {
    const MUTATIONS: usize = 20_000;
    const SEED: u64 = 2;
    let sound = sound_file();
    let mut file = NamedTempFile::new().unwrap();
    let mut random = Random(SEED);
    let mut opened = 0;
    for i in 0..MUTATIONS {
        let mut bytes = sound.clone();
        mutate(&mut bytes, &mut random);
        // Over the old bytes: some file systems wait for the disk when a file is emptied and written again.
        file.rewind().unwrap();
        file.write_all(&bytes).unwrap();
        file.as_file().set_len(bytes.len() as u64).unwrap();
        let read = std::panic::catch_unwind(|| Gguf::open(file.path()).inspect(read_all).is_ok());
        opened +=
            usize::from(read.unwrap_or_else(|_| panic!("mutation {i} of seed {SEED} made the reader panic")));
    }
    // Both happen often, or the mutations test nothing.
    assert!((MUTATIONS / 20..MUTATIONS * 19 / 20).contains(&opened), "{opened} of {MUTATIONS} opened");
    println!("{opened} of {MUTATIONS} mutated files opened");
}
